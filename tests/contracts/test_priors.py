"""The contract of ``sfumato.priors``."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes
from densities import density_matches_samples
from torch.distributions import Independent, Normal, kl_divergence

from sfumato import priors
from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.core.whole import NeedsWhole
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, LookupFreeQuantiser
from sfumato.priors import (
    AutoregressiveCodes,
    Categorical,
    ClassConditional,
    ClassConditionalMixture,
    Exemplar,
    Flow,
    GaussianMixture,
    PoincareNormal,
    SecondStage,
    StandardNormal,
    UniformSphere,
    VampPrior,
)

LABELS = torch.tensor([0, 2, -1, 1])


def ready(prior, dtype: torch.dtype = torch.float32):
    """Return the prior, in a model if it needs one."""
    if isinstance(prior, NeedsWhole):
        with fixed_noise(7):
            heads = [MLP((5,), prior.latent_shape, hidden=(6,), activation="tanh") for _ in range(2)]
        codes = isinstance(prior, AutoregressiveCodes)
        posterior = LookupFreeQuantiser(heads[0]) if codes else DiagonalGaussian(*heads)
        prior._whole = (SimpleNamespace(posterior=posterior.to(dtype)),)
    return prior


def exemplar() -> Exemplar:
    prior = Exemplar(latent_dim=2, shape=(5,), exemplars=6, subset=4)
    prior.start_from(numbers(6, 5))
    return prior.eval()


def call(prior, dtype: torch.dtype, scale: float) -> Numbers:
    prior = ready(prior, dtype).eval()
    z = numbers(3, 4, *prior.latent_shape, dtype=dtype, scale=scale)
    if isinstance(prior, PoincareNormal):
        z = z / (1 + z.norm(dim=-1, keepdim=True) * 1.1)  # inside the ball
    with fixed_noise(0):  # an estimated density draws
        return [prior(LABELS).log_prob(z), prior().log_prob(z)]


def case(name: str, build) -> Case:
    return Case(name, build, call)


EXAMPLES = {
    "AutoregressiveCodes": [case("", lambda: AutoregressiveCodes((2, 3), (2, 2), width=8, heads=2))],
    "Categorical": [
        case("", lambda: Categorical(variables=2, categories=3)),
        case("learned", lambda: Categorical(2, 3, learn=True)),
    ],
    "StandardNormal": [case("", lambda: StandardNormal(latent_dim=2)), case("line", lambda: StandardNormal(1))],
    "ClassConditional": [
        case("", lambda: ClassConditional(num_classes=3, latent_dim=2)),
        case("line", lambda: ClassConditional(3, 1)),
        case("frequencies", lambda: ClassConditional(3, 2, frequencies=(0.2, 0.5, 0.3))),
        case("variances", lambda: ClassConditional(3, 2, learn_variance=True)),
    ],
    "ClassConditionalMixture": [
        case("", lambda: ClassConditionalMixture(num_classes=3, latent_dim=2, components=2)),
        case("frequencies", lambda: ClassConditionalMixture(3, 1, 4, frequencies=(0.2, 0.5, 0.3))),
    ],
    "Exemplar": [case("", exemplar)],
    "Flow": [
        case("coupling", lambda: Flow(2, "coupling", 2, (8,))),
        case("autoregressive", lambda: Flow(2, "autoregressive", 2, (8,))),
        case("spline", lambda: Flow(2, "spline", 2, (8,))),
        case("line", lambda: Flow(1, "autoregressive", 2)),
    ],
    "GaussianMixture": [
        case("", lambda: GaussianMixture(latent_dim=2, components=3)),
        case("line", lambda: GaussianMixture(1, 3)),
        case("full", lambda: GaussianMixture(2, 3, covariance="full")),
    ],
    "PoincareNormal": [case("", lambda: PoincareNormal(latent_dim=2))],
    "SecondStage": [case("", lambda: SecondStage(latent_dim=2, hidden=(6,)))],
    "UniformSphere": [case("", lambda: UniformSphere(latent_dim=3))],
    "VampPrior": [case("", lambda: VampPrior(latent_dim=2, shape=(5,), components=4))],
}


def test_every_public_class_has_examples() -> None:
    covered(priors, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(priors))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestPriors(ModuleContract):
    def test_shapes(self, case: Case) -> None:
        prior = ready(case.build())
        without, with_labels = prior(), prior(LABELS)
        assert without.batch_shape == ()
        assert with_labels.batch_shape in ((), (4,))
        assert without.event_shape == with_labels.event_shape == prior.latent_shape
        assert without.sample((6, 4)).shape == (6, 4, *prior.latent_shape)
        z = torch.zeros(6, 4, *prior.latent_shape)
        assert without.log_prob(z).shape == with_labels.log_prob(z).shape == (6, 4)
        assert without.log_prob(z[0, 0]).shape == ()

    def test_integrates_to_one_and_matches_its_samples(self, case: Case) -> None:
        elsewhere = (
            UniformSphere | PoincareNormal | Flow | Categorical | AutoregressiveCodes | SecondStage
        )  # tests/exact
        if not isinstance(case.build(), elsewhere):
            density_matches_samples(ready(case.build().double(), torch.float64)(), -10.0, 10.0)


def test_frequencies_are_those_that_were_given() -> None:
    prior = ClassConditional(3, 2, frequencies=(0.2, 0.5, 0.3))
    torch.testing.assert_close(prior.log_frequencies.exp(), torch.tensor([0.2, 0.5, 0.3]))
    torch.testing.assert_close(ClassConditional(4, 2).log_frequencies, torch.full((4,), -math.log(4)))
    for wrong in ((0.5, 0.5), (0.2, 0.2, 0.2)):
        with pytest.raises(UserError, match="one frequency for each of 3 classes"):
            ClassConditional(3, 2, frequencies=wrong)


def test_frequencies_come_from_the_configuration_not_from_the_weights() -> None:
    assert set(ClassConditional(3, 2).state_dict()) == {"means"}
    assert not StandardNormal(2).state_dict()


def test_learned_variances_are_those_of_the_named_class() -> None:
    """The density, the closed-form KL and the draws of a known label are those of its own normal."""
    torch.manual_seed(3)
    prior = ClassConditional(3, 2, learn_variance=True).double()
    with torch.no_grad():
        prior.log_variances.copy_(torch.tensor([[0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]]))
    own = Independent(Normal(prior.means[2], (0.5 * prior.log_variances[2]).exp()), 1)
    z, label = numbers(5, 2), torch.full((5,), 2)
    torch.testing.assert_close(prior(label).log_prob(z), own.log_prob(z), rtol=1e-4, atol=1e-4)
    posterior = Independent(Normal(z, 0.3 * torch.ones_like(z)), 1)
    torch.testing.assert_close(
        kl_divergence(posterior, prior(label)), kl_divergence(posterior, own.expand((5,))), rtol=1e-4, atol=1e-4
    )
    drawn = prior(torch.full((20_000,), 2)).sample()
    torch.testing.assert_close(drawn.mean(0), prior.means[2].detach(), rtol=0.05, atol=0.05)
    torch.testing.assert_close(drawn.var(0).log(), torch.tensor([-2.0, 0.5]).double(), rtol=0.05, atol=0.05)


def test_variances_start_at_one() -> None:
    torch.manual_seed(0)
    unit = ClassConditional(3, 2)
    torch.manual_seed(0)
    learned = ClassConditional(3, 2, learn_variance=True)
    torch.testing.assert_close(unit(LABELS).log_prob(torch.ones(4, 2)), learned(LABELS).log_prob(torch.ones(4, 2)))


@pytest.mark.parametrize("cls", [VampPrior, Exemplar])
def test_a_prior_made_of_posteriors_asks_for_its_model(cls: type) -> None:
    prior = cls(2, (5,), 4)
    if cls is Exemplar:
        with pytest.raises(UserError, match="has no examples yet"):
            prior()
        prior.start_from(torch.zeros(4, 5))
    with pytest.raises(UserError, match="needs the other parts of its model"):
        prior()
    for rows in (torch.zeros(3, 5), torch.zeros(4, 6)):
        with pytest.raises(UserError, match="examples of shape"):
            prior.start_from(rows)
