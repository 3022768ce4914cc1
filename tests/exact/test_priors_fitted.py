"""A prior that is fitted afterwards: the known aggregate posterior of a linear model is found, and the ELBO rises."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import (
    LATENT,
    LOADING,
    MEANS,
    OFFSET,
    SCALE,
    affine,
    data,
    linear_vae,
    log_evidence,
    unbounded,
)
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.data import InMemory
from sfumato.evaluation.annealed import annealed_bound
from sfumato.evaluation.bounds import elbo_terms, importance_bound
from sfumato.evaluation.fitting import compare_priors, exchanged, with_fitted_prior
from sfumato.priors import (
    ClassConditional,
    ClassConditionalMixture,
    Flow,
    GaussianMixture,
    SecondStage,
    StandardNormal,
    VampPrior,
)
from sfumato.priors.gaussian_mixture import LOG_VARIANCE_BOUNDS
from sfumato.priors.second_stage import SPEED

DIMS = len(LOADING)


def far_data(n: int, seed: int) -> Tensor:
    """x = W z + noise with z correlated, off centre, and on two sides: nothing like N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    side = 2.5 * (2 * torch.randint(2, (n, 1), generator=generator) - 1)
    z = 0.3 * torch.randn(n, LATENT, generator=generator) + torch.cat([side, 0.8 * side + 1.0], 1)
    return z.double() @ LOADING.T + OFFSET + SCALE * torch.randn(n, DIMS, generator=generator).double()


def wide(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian data, and the covariance of the z that made them."""
    root = torch.tensor([[2.0, 0.0], [1.2, 0.5]]).double()
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, LATENT, generator=generator).double() @ root.T
    return z @ LOADING.T + OFFSET + SCALE * torch.randn(n, DIMS, generator=generator).double(), root @ root.T


AS_THEY_ARE = nn.Identity()


def elbo(model, x: Tensor) -> Tensor:
    return elbo_terms(model, x, samples=30)["elbo"]


def test_the_gaussian_aggregate_of_a_linear_model_is_found() -> None:
    """q(z) = N(0, G Cov[x] G^T + S), which one component with every covariance holds exactly."""
    model = linear_vae()
    x, covariance = wide(20_000, 0)
    fitted = with_fitted_prior(model, InMemory(x), AS_THEY_ARE, GaussianMixture(LATENT, 1, "full"), draws=1)
    with torch.no_grad():
        steps = [model.posterior(OFFSET + row).mean - model.posterior(OFFSET).mean for row in torch.eye(DIMS)]
    gain = torch.stack(steps, 1)
    of_x = LOADING @ covariance @ LOADING.T + SCALE**2 * torch.eye(DIMS)
    expected = gain @ of_x @ gain.T + torch.diag_embed(model.posterior(OFFSET).variance)
    mixture = fitted.prior()
    found = (mixture.scale_tril @ mixture.scale_tril.mT)[0]
    assert ((found - expected).abs() < 5 * expected.diagonal().max() * math.sqrt(2 / 20_000)).all()
    assert (mixture.means[0].abs() < 5 * (expected.diagonal() / 20_000).sqrt()).all()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("prior.")}
    assert own
    assert all(torch.equal(fitted.state_dict()[name], value) for name, value in own.items())
    assert isinstance(model.prior, StandardNormal)


@pytest.mark.parametrize("prior", ["gaussian-mixture", "coupling", "vamp", "second-stage"])
def test_the_elbo_rises_where_the_aggregate_is_far_from_the_prior(prior: str) -> None:
    model = linear_vae()
    train, test = far_data(1_500, 1), far_data(500, 2)
    made = {"coupling": Flow(LATENT, "coupling", 4, (64, 64)), "vamp": VampPrior(LATENT, (DIMS,), 20)}
    made["second-stage"] = SecondStage(LATENT, (64, 64))
    start = made.get(prior, prior)
    if prior == "vamp":
        start.start_from(train[:20].float())
    before = elbo(model, test)
    fitted = with_fitted_prior(model, InMemory(train), AS_THEY_ARE, start, steps=400)
    gain = elbo(fitted, test) - before
    assert float(gain.mean()) > 1.0 + 5 * float(gain.std()) / 500**0.5
    if prior == "second-stage":  # its value is a bound on its density, and it takes ten times as many steps
        return
    # no prior is better than the aggregate: the best gain is KL(q(z) || N(0, I)), here of a mixture of two normals
    best = with_fitted_prior(model, InMemory(train), AS_THEY_ARE, GaussianMixture(LATENT, 2, "full"))
    shortfall = elbo(best, test) - elbo(fitted, test)
    assert float(shortfall.mean()) < 0.25


def test_what_cannot_be_fitted_is_refused() -> None:
    model, rows = linear_vae(), InMemory(far_data(20, 1))
    with pytest.raises(UserError, match="got 'gmm'"):
        with_fitted_prior(model, rows, AS_THEY_ARE, "gmm")
    with pytest.raises(UserError, match="one latent shape"):
        with_fitted_prior(model, rows, AS_THEY_ARE, GaussianMixture(LATENT + 1))
    with pytest.raises(UserError, match="this model has none"):
        with_fitted_prior(model, rows, AS_THEY_ARE, "class-mixture")


def test_classes_are_fitted_with_their_labels() -> None:
    model = linear_vae(classes="prior")
    y = torch.randint(3, (900,), generator=torch.Generator().manual_seed(0))
    x = (MEANS[y] + 1.0) @ LOADING.T + OFFSET
    start = ClassConditional(3, LATENT)
    start.means.data.copy_(MEANS + 0.5)
    fitted = with_fitted_prior(model, InMemory(x, y), AS_THEY_ARE, start, steps=800)
    aggregate = torch.stack([model.posterior(x[y == number]).mean.mean(0) for number in range(3)])
    torch.testing.assert_close(fitted.prior.means.detach(), aggregate, rtol=0, atol=0.1)


def test_the_usual_prior_of_a_model_with_classes_keeps_them() -> None:
    model = linear_vae(classes="prior")
    y = torch.randint(3, (200,), generator=torch.Generator().manual_seed(0))
    fitted = with_fitted_prior(model, InMemory(far_data(200, 3), y), AS_THEY_ARE, steps=5)
    assert isinstance(fitted.prior, ClassConditionalMixture)
    torch.testing.assert_close(fitted.prior.log_frequencies, model.prior.log_frequencies)
    assert fitted.num_classes == 3


def test_the_gain_of_a_known_prior_is_the_difference_of_the_kl() -> None:
    """E_q log p_new(z) - log p_old(z), in closed form for normals, on draws that both models share."""
    model, x = linear_vae(), far_data(400, 5)
    prior = GaussianMixture(LATENT, 1).double()
    prior.means.data.copy_(torch.tensor([[0.5, -1.0]]))
    prior.log_variances.data.copy_(torch.tensor([[1.0, 0.3]]))
    after = exchanged(model, prior)
    found = compare_priors(model, after, InMemory(x), AS_THEY_ARE, samples=50)
    with torch.no_grad():
        q, new = model.encode(x), independent_normal(prior.means[0], prior.log_variances[0])
        exact = kl_divergence(q, model.prior()) - kl_divergence(q, new.expand(q.batch_shape))
    assert found["elbo_gain"].value == pytest.approx(float(exact.mean()), abs=5 * 2 / math.sqrt(400 * 50))
    gain = found["elbo_after"].value - found["elbo_before"].value
    assert found["elbo_gain"].value == pytest.approx(gain, abs=1e-9)
    assert found["elbo_gain"].standard_error == pytest.approx(float(exact.std()) / 20, rel=0.05)
    assert found["elbo_before"].value == pytest.approx(float(log_evidence(x).mean()), abs=0.05)


# the second stage


WEIGHT = torch.tensor([[1.2, -0.25], [0.5, 0.6]], dtype=torch.float64)  # orthogonal columns
BIAS, NOISE = torch.tensor([0.7, -0.2], dtype=torch.float64), 0.6


def second_stage(exact: bool, samples: int) -> SecondStage:
    """p(z) = N(b, W W^T + s^2 I), with the exact posterior over u for an encoder, or one that does not look at z."""
    prior = SecondStage(LATENT, hidden=(), samples=samples).double().eval()
    covariance = (torch.eye(LATENT).double() + WEIGHT.T @ WEIGHT / NOISE**2).inverse()  # diagonal
    gain = covariance @ WEIGHT.T / NOISE**2 if exact else torch.zeros(LATENT, LATENT).double()
    spread = covariance.diagonal() if exact else torch.ones(LATENT).double()
    affine(prior.decoder, WEIGHT, BIAS)
    affine(
        prior.encoder,
        torch.cat([gain, 0 * gain]),
        torch.cat([-gain @ BIAS, unbounded(spread.log(), LOG_VARIANCE_BOUNDS)]),
    )
    noise = torch.tensor(2 * math.log(NOISE), dtype=torch.float64)
    prior.log_scale.data.copy_(unbounded(noise, LOG_VARIANCE_BOUNDS) / SPEED)
    return prior


MARGINAL = MultivariateNormal(BIAS, WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(LATENT).double())


@torch.no_grad()
def test_a_second_stage_knows_its_density_by_the_exact_posterior_and_else_without_bias() -> None:
    z = MARGINAL.sample((7,))
    for samples in (1, 5):
        torch.testing.assert_close(second_stage(True, samples)().log_prob(z), MARGINAL.log_prob(z), rtol=0, atol=1e-9)
        many = 40_000
        ratio = second_stage(False, samples)().log_prob(z.expand(many, 7, LATENT)) - MARGINAL.log_prob(z)
        weight = ratio.exp()
        assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(many)).all()
        assert (ratio.mean(0) < -0.05).all()
    draws = second_stage(True, 1)().sample((many,))
    torch.testing.assert_close(draws.mean(0), BIAS, rtol=0, atol=0.04)
    torch.testing.assert_close(draws.T.cov(), MARGINAL.covariance_matrix, rtol=0, atol=0.06)
    assert torch.equal(second_stage(True, 1)().tempered(0.0).sample((3,)), BIAS.expand(3, LATENT))


@torch.no_grad()
def test_bounds_of_two_stages_stay_below_the_evidence_and_reach_it() -> None:
    model = exchanged(linear_vae(spread=1.3), second_stage(False, 3))
    x = data(300)
    mean = OFFSET + LOADING @ BIAS
    covariance = LOADING @ MARGINAL.covariance_matrix @ LOADING.T + SCALE**2 * torch.eye(DIMS).double()
    evidence = MultivariateNormal(mean, covariance).log_prob(x)
    gaps = [float((evidence - importance_bound(model, x, samples=count)).mean()) for count in (1, 10, 1000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert 0.0 < gaps[2] < 0.05
    with pytest.raises(UserError, match="estimate of it"):
        annealed_bound(model, x[:2])
