"""The contract of ``sfumato.posteriors``."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes
from densities import density_matches_samples
from torch import nn

from sfumato import posteriors
from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.numerics import fixed_noise
from sfumato.core.whole import NeedsWhole
from sfumato.likelihoods import Gaussian
from sfumato.networks import MLP, ConvEncoder, KLEncoder, WithLabel
from sfumato.posteriors import (
    ClampedGaussian,
    DiagonalGaussian,
    Dirac,
    FiniteScalarQuantiser,
    FlowPosterior,
    FullGaussian,
    GumbelSoftmax,
    Hamiltonian,
    LookupFreeQuantiser,
    LowRankGaussian,
    PoincareGaussian,
    PowerSpherical,
    RiemannianHamiltonian,
    SemiAmortised,
    VectorQuantiser,
    VonMisesFisher,
)
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS
from sfumato.priors import StandardNormal

LABELS = torch.tensor([0, 2, -1, 1])


def ready(posterior, dtype: torch.dtype = torch.float32):
    """Return the posterior, with the rest of a model if it needs it."""
    if isinstance(posterior, NeedsWhole):
        with fixed_noise(7):
            decoder = MLP(posterior.latent_shape, (1, 5), hidden=(6,), activation="tanh").to(dtype)
        likelihood, prior = Gaussian((5,), "fixed").to(dtype), StandardNormal(2).to(dtype)
        posterior._whole = (SimpleNamespace(prior=prior, decode=lambda z, y: likelihood(decoder(z, y))),)
    return posterior


def call(posterior, dtype: torch.dtype, scale: float) -> Numbers:
    posterior = ready(posterior, dtype).eval()
    q = posterior(numbers(4, *posterior.in_shape, dtype=dtype, scale=scale), LABELS)
    if not has_density(q):
        return [q.mean]
    if isinstance(posterior, DiagonalGaussian | ClampedGaussian | SemiAmortised):
        return [q.mean, q.stddev]
    if isinstance(posterior, Hamiltonian | RiemannianHamiltonian):
        z, known = q.carried(numbers(3, 4, 2, 2, dtype=dtype))
        return [q.mean, z, known.log_prob(z)]
    z = numbers(4, *posterior.latent_shape, dtype=dtype)
    length = 0.5 if isinstance(posterior, PoincareGaussian) else 1.0  # inside the ball, or on the sphere
    return [q.mean, q.log_prob(length * nn.functional.normalize(z, dim=-1))]


def case(name: str, build) -> Case:
    return Case(name, build, call)


def head(size: int = 5) -> MLP:
    return MLP((size,), (2,), hidden=(6,), activation="tanh")


def with_label() -> WithLabel:
    return WithLabel(MLP((5 + 3,), (2,), hidden=(6,)), num_classes=3)


def linear(*out: int) -> MLP:
    return MLP((5,), out, hidden=(6,), activation="tanh")


def flow(kind: str, context: bool = False) -> FlowPosterior:
    base = DiagonalGaussian(head(), head())
    return FlowPosterior(base, kind, 2, context=linear(3) if context else None, hidden=(8,))


def riemannian() -> RiemannianHamiltonian:
    base = DiagonalGaussian(head(), head())
    posterior = RiemannianHamiltonian(base, linear(2, 2), shape=(5,), centroids=3, steps=2)
    posterior.start_from(numbers(3, 5))
    return posterior


EXAMPLES = {
    "FiniteScalarQuantiser": [case("", lambda: FiniteScalarQuantiser(linear(2, 3), levels=(3, 4)))],
    "FlowPosterior": [
        case("planar", lambda: flow("planar")),
        case("radial-context", lambda: flow("radial", context=True)),
        case("householder-context", lambda: flow("householder", context=True)),
        case("iaf", lambda: flow("iaf")),
        case("iaf-context", lambda: flow("iaf", context=True)),
    ],
    "FullGaussian": [case("", lambda: FullGaussian(linear(3, 2)))],
    "GumbelSoftmax": [case("", lambda: GumbelSoftmax(linear(2, 3)))],
    "Hamiltonian": [case("", lambda: Hamiltonian(DiagonalGaussian(head(), head()), steps=2))],
    "LookupFreeQuantiser": [case("", lambda: LookupFreeQuantiser(linear(2, 3)))],
    "LowRankGaussian": [case("", lambda: LowRankGaussian(linear(3, 2)))],
    "PowerSpherical": [case("", lambda: PowerSpherical(linear(4)))],
    "RiemannianHamiltonian": [case("", riemannian)],
    "SemiAmortised": [case("", lambda: SemiAmortised(DiagonalGaussian(head(), head()), steps=2))],
    "VectorQuantiser": [
        case("", lambda: VectorQuantiser(linear(2, 3), codes=4)),
        case("residual-row", lambda: VectorQuantiser(linear(2), codes=4, quantisers=2)),
    ],
    "PoincareGaussian": [case("", lambda: PoincareGaussian(MLP((5,), (2, 2), hidden=(6,))))],
    "VonMisesFisher": [case("", lambda: VonMisesFisher(linear(4)))],
    "ClampedGaussian": [
        case("", lambda: ClampedGaussian(MLP((5,), (2, 2), hidden=(6,), activation="tanh"))),
        case("images", lambda: ClampedGaussian(KLEncoder((1, 2, 4), (2, 2), widths=(2, 4), groups=1))),
    ],
    "DiagonalGaussian": [
        case("two-encoders", lambda: DiagonalGaussian(mean=head(), log_variance=head())),
        case("trunk", lambda: DiagonalGaussian(head(6), head(6), trunk=MLP((5,), (6,), activate_output=True))),
        case("images", lambda: DiagonalGaussian(head(6), head(6), trunk=ConvEncoder((1, 5, 3), (6,), widths=(2,)))),
        case("with-label", lambda: DiagonalGaussian(with_label(), with_label())),
    ],
    "Dirac": [case("", lambda: Dirac(head())), case("with-label", lambda: Dirac(with_label()))],
}


def test_every_public_class_has_examples() -> None:
    covered(posteriors, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(posteriors))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestPosteriors(ModuleContract):
    def test_shapes(self, case: Case) -> None:
        posterior = ready(case.build())
        q = posterior(torch.zeros(4, *posterior.in_shape), LABELS)
        assert q.batch_shape == (4,)
        assert q.event_shape == posterior.latent_shape
        assert q.rsample((3,)).shape == (3, 4, *posterior.latent_shape)
        one = posterior(torch.zeros(posterior.in_shape), LABELS[0])
        assert one.batch_shape == ()

    def test_gradients_flow_through_samples(self, case: Case) -> None:
        posterior = ready(case.build())
        posterior(torch.ones(4, *posterior.in_shape), LABELS).rsample((3,)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in posterior.parameters())

    def test_says_whether_it_sees_the_label(self, case: Case) -> None:
        assert case.build().sees_label == ("label" in case.name)


def test_diagonal_gaussian_integrates_to_one_and_matches_its_samples() -> None:
    posterior = DiagonalGaussian(mean=head(), log_variance=head()).double()
    q = posterior(numbers(5))
    density_matches_samples(q, -8.0, 8.0)


@pytest.mark.parametrize("extreme", [1e4, 1e9, 3e38, math.inf])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_no_log_variance_makes_inf_or_nan(extreme: float, sign: float) -> None:
    f2 = MLP((5,), (2,), hidden=())
    nn.init.constant_(f2.layers[-1].bias, sign * extreme)
    q = DiagonalGaussian(MLP((5,), (2,), hidden=()), f2)(torch.ones(4, 5))
    low, high = (math.exp(bound / 2) for bound in LOG_VARIANCE_BOUNDS)
    assert ((q.stddev >= low * 0.999) & (q.stddev <= high * 1.001)).all()
    z = q.rsample((3,))
    density = q.log_prob(z)
    assert torch.isfinite(density).all()
    (density.sum() + z.sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in f2.parameters())


def test_log_variance_is_what_f2_says_in_between() -> None:
    f2 = MLP((5,), (2,), hidden=())
    x = numbers(4, 5, dtype=torch.float32)
    q = DiagonalGaussian(MLP((5,), (2,), hidden=()), f2)(x)
    torch.testing.assert_close(2 * q.stddev.log(), f2(x), atol=3e-4, rtol=0)


def test_networks_that_do_not_fit_are_refused_with_the_cure() -> None:
    with pytest.raises(UserError, match="Build both alike"):
        DiagonalGaussian(MLP((5,), (2,)), MLP((5,), (3,)))
    with pytest.raises(UserError, match=r"Build them with in_shape=\(7,\)"):
        DiagonalGaussian(MLP((5,), (2,)), MLP((5,), (2,)), trunk=MLP((4,), (7,)))


def test_clamped_gaussian_is_exactly_what_its_network_says_inside_and_the_bound_outside() -> None:
    moments = MLP((1,), (2, 2), hidden=())
    nn.init.zeros_(moments.layers[-1].weight)
    with torch.no_grad():
        moments.layers[-1].bias.copy_(torch.tensor([0.5, -3.0, -40.0, 12.0]))
    q = ClampedGaussian(moments)(torch.zeros(3, 1))
    assert q.mean[0].tolist() == [0.5, -3.0]
    torch.testing.assert_close(q.stddev[0], torch.tensor([-15.0, 6.0]).exp())
    with pytest.raises(UserError, match=r"out_shape \(2, latent_dim\)"):
        ClampedGaussian(MLP((1,), (4,)))
