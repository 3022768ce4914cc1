"""The gap and its two parts, on linear-Gaussian models where all three are known in closed form."""

import json
import math

import pytest
import torch
from exact_models import LATENT, PRECISION, affine, data, linear_vae, log_evidence, unbounded
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from sfumato.core.errors import UserError
from sfumato.data import Identity, InMemory
from sfumato.evaluation.gap import find_gap, gaps, refine, sampled_elbo
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS
from sfumato.priors import StandardNormal

CORRELATED = torch.tensor([[1.0, 0.8, 0.5, 0.0], [0.9, 1.0, 0.0, 0.5]]).double().T
ERROR = 0.5


def correlated_vae() -> VAE:
    """A linear VAE whose true posterior is correlated, at the encoder's worst: mean 0, variance 1."""
    model = linear_vae()
    affine(model.decoder, CORRELATED, torch.zeros(4).double())
    for network in (model.posterior.mean, model.posterior.log_variance):
        affine(network, torch.zeros(LATENT, 4).double(), torch.zeros(LATENT).double())
    affine(model.posterior.log_variance, torch.zeros(LATENT, 4).double(), unbounded(torch.zeros(LATENT).double()))
    return model


def true_posterior(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    precision = torch.eye(LATENT).double() + CORRELATED.T @ CORRELATED / ERROR**2
    return x @ CORRELATED @ precision.inverse() / ERROR**2, precision


def correlated_evidence(x: torch.Tensor) -> torch.Tensor:
    covariance = CORRELATED @ CORRELATED.T + ERROR**2 * torch.eye(4).double()
    return MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x)


def test_a_diagonal_true_posterior_is_reached_exactly_and_the_family_costs_nothing():
    model, x = linear_vae(spread=2.5), data(6)
    model.posterior.mean.layers[-1].bias.data += 0.7
    found = gaps(model, x, evidence=log_evidence(x))
    assert found.converged.all()
    torch.testing.assert_close(found.refined, log_evidence(x), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.approximation, torch.zeros(6).double(), atol=1e-4, rtol=0)
    wrong = Independent(Normal(model.posterior(x).mean, model.posterior(x).stddev), 1)
    right = Independent(Normal(linear_vae().posterior(x).mean, linear_vae().posterior(x).stddev), 1)
    many = gaps(model, x, evidence=log_evidence(x), elbo_samples=20_000)
    torch.testing.assert_close(many.amortisation, kl_divergence(wrong, right).detach(), atol=0.06, rtol=0)


def test_a_correlated_posterior_costs_the_known_approximation_gap():
    """The best factor of a Gaussian has its diagonal precision: KL = 1/2 (sum log P_ii - log det P)."""
    x = data(5) / 2
    found = gaps(correlated_vae(), x, evidence_samples=50_000, elbo_samples=20_000)
    mean, precision = true_posterior(x)
    known = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    assert known > 0.2
    exact = correlated_evidence(x)
    torch.testing.assert_close(found.refined, exact - known, atol=0.03, rtol=0)
    torch.testing.assert_close(found.evidence, exact, atol=0.06, rtol=0)
    assert float(found.approximation.mean()) == pytest.approx(known, abs=0.03)
    start = MultivariateNormal(torch.zeros(LATENT).double(), torch.eye(LATENT).double())
    end = MultivariateNormal(mean, precision_matrix=precision)
    torch.testing.assert_close(found.evidence - found.elbo, kl_divergence(start, end), atol=0.5, rtol=0.02)
    refinement = refine(correlated_vae(), x).model.posterior
    best = MultivariateNormal(refinement.mean, refinement.log_variance.exp().diag_embed())
    torch.testing.assert_close(kl_divergence(best, end), torch.full((5,), known).double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(refinement.mean, mean, atol=0.02, rtol=0)
    torch.testing.assert_close(refinement.log_variance, -precision.diagonal().log().expand(5, -1), atol=0.03, rtol=0)


def test_an_exact_encoder_leaves_no_gap_and_no_noise():
    model, x = linear_vae(), data(4)
    torch.testing.assert_close(sampled_elbo(model, x, samples=1), log_evidence(x), atol=1e-10, rtol=0)
    found = find_gap(linear_vae().float(), InMemory(data(40).float()), Identity((4,)), n=30, evidence_samples=20)
    assert found.inference.n == 30
    for part in (found.inference, found.approximation, found.amortisation):
        assert part.value == pytest.approx(0, abs=5e-4)
    assert found.converged.value == 1
    assert float(PRECISION[0, 1]) == 0


def test_the_parts_add_up_and_everything_is_told():
    model = linear_vae(spread=1.7).float()
    heard = []
    found = find_gap(
        model, InMemory(data(8).float()), Identity((4,)), n=8, steps=100, tell=lambda *words: heard.append(words)
    )
    assert found.inference.value == pytest.approx(found.approximation.value + found.amortisation.value, abs=1e-9)
    assert found.inference.value == pytest.approx(found.evidence.value - found.elbo.value, abs=1e-9)
    assert heard == [("gap", 8, 8)]
    assert (found.evidence_samples, found.given_label) == (1_000, False)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["amortisation"]["unit"] == "nats"
    assert content["converged"]["unit"] == "fraction"
    given = find_gap(model, InMemory(data(8).float()), Identity((4,)), n=8, steps=100, evidence=log_evidence(data(8)))
    assert given.evidence_samples is None
    assert given.refined == found.refined
    assert given.evidence.value == pytest.approx(float(log_evidence(data(8)).mean()))


def test_the_best_gaussian_of_a_discrete_model_against_its_elbo_on_a_grid():
    """One latent dimension, five bits: ELBO by quadrature, maximised over a grid of means and variances."""
    torch.manual_seed(3)
    model = VAE(
        StandardNormal(1),
        DiagonalGaussian(MLP((5,), (1,)), MLP((5,), (1,))),
        MLP((1,), (1, 5), hidden=(8,), activation="tanh"),
        Bernoulli((5,)),
    ).double()
    with torch.no_grad():
        model.decoder.layers[-1].weight *= 4
        x = torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]).double()
        axis = torch.linspace(-8, 8, 4_001).double().unsqueeze(-1)
        joint = model.decode(axis.unsqueeze(1)).log_prob(x) + model.prior().log_prob(axis).unsqueeze(-1)
        means, widths = torch.linspace(-3, 3, 121).double(), torch.linspace(-3, 1, 81).double()
        grid = Normal(means[:, None, None], (0.5 * widths).exp()[:, None])
        density = grid.log_prob(axis.squeeze(-1)).exp() * 16 / 4_000
        elbos = (density @ joint) + grid.entropy()
        best = elbos.flatten(0, 1).amax(0)
        evidence = joint.logsumexp(0) + math.log(16 / 4_000)
    found = gaps(model, x, evidence=evidence, elbo_samples=50_000)
    torch.testing.assert_close(found.refined, best, atol=0.01, rtol=0)
    assert (found.approximation > -0.005).all()
    assert (found.amortisation > 0).all()


def test_refining_touches_neither_the_model_nor_the_noise_outside():
    model, x = linear_vae(spread=1.5), data(3)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    first = refine(model, x, steps=60, seed=1).model.posterior.mean
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(refine(model, x, steps=60, seed=1).model.posterior.mean, first)
    assert refine(model, x, steps=60, seed=1).steps.tolist() == [100, 100, 100]


def test_a_label_makes_it_about_the_class():
    model = linear_vae(classes="encoder").float()
    examples = InMemory(data(6).float(), torch.arange(6) % 3)
    found = find_gap(model, examples, Identity((4,)), evidence_samples=10, steps=100)
    assert found.given_label
    assert found.inference.value == pytest.approx(0, abs=5e-4)
    blind = InMemory(data(6).float(), torch.full((6,), -1))
    with pytest.raises(UserError, match="look at labels"):
        find_gap(model, blind, Identity((4,)))


def test_what_is_refused():
    point = VAE(StandardNormal(1), Dirac(MLP((2,), (1,))), MLP((1,), (1, 2)), Gaussian((2,)))
    with pytest.raises(UserError, match="Gaussian posterior; got Dirac"):
        refine(point, torch.zeros(1, 2))
    with pytest.raises(UserError, match=r"each of 2 examples; got \(3,\)"):
        find_gap(linear_vae(), InMemory(data(2)), Identity((4,)), evidence=torch.zeros(3))
    assert LOG_VARIANCE_BOUNDS[0] < 0
