"""The prior against the aggregate posterior: the gap in nats, codes told apart, stray samples, by exact answers."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import data, linear_vae
from torch.distributions import MultivariateNormal

from sfumato.core.numerics import fixed_noise
from sfumato.evaluation.diagnosis.against_prior import gap_to_prior, stray, told_apart
from sfumato.evaluation.latents import Latents
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal


def codes_of(mean: torch.Tensor, log_variance: torch.Tensor) -> Latents:
    return Latents(mean.float(), log_variance.float(), None, None, None, None)


def test_a_classifier_tells_apart_what_differs_and_nothing_else() -> None:
    with fixed_noise(3):
        a, b = torch.randn(800, 4), torch.randn(800, 4)
        same = told_apart(a, b)
        moved = told_apart(a, b + 2.0)  # the best possible: Phi(1 sqrt 4) = 0.977
        wider = told_apart(a, b * 3)
    assert abs(same.value - 0.5) < 4 * same.standard_error
    assert abs(moved.value - 0.977) < 0.02
    assert wider.value > 0.8


@torch.no_grad()
@pytest.mark.parametrize(("spread", "classes"), [(1.0, ""), (0.4, ""), (1.0, "prior")])
def test_the_gap_to_the_prior_is_exact_for_a_linear_model(spread: float, classes: str) -> None:
    """Codes of Gaussian data are Gaussian, so r can be q(z) itself, and the bound is KL(q(z) || p(z))."""
    model = linear_vae(spread, classes)
    x = [data(6_000, seed) for seed in (1, 2)]
    posteriors = [model.posterior(part) for part in x]
    learn, test = (codes_of(q.mean, 2 * q.stddev.log()) for q in posteriors)
    found = gap_to_prior(model, learn, test, seed=0)
    z = posteriors[1].rsample((8,)).flatten(0, 1)
    q = MultivariateNormal(z.mean(0), torch.cov(z.T))
    prior = model.prior(None)
    fresh = q.sample((50_000,))
    exact = float((q.log_prob(fresh) - prior.log_prob(fresh)).mean())
    assert abs(found["prior_gap"].value - exact) < 4 * found["prior_gap"].standard_error + 0.01
    rate = (posteriors[1].log_prob(z.reshape(8, -1, 2)) - prior.log_prob(z.reshape(8, -1, 2))).mean()
    assert abs(found["rate"].value - float(rate)) < 4 * found["rate"].standard_error
    assert exact > 0.05


def test_a_mixture_sees_codes_in_clusters() -> None:
    """Far apart, K equal clusters have the entropy of one plus log K; a bound by log N would not see 12 dimensions."""
    with fixed_noise(5):
        centres = 6 * torch.randn(4, 6).double()
        mean = [centres[torch.randint(0, 4, (2_000,))] for _ in range(2)]
    wide = [torch.full((2_000, 6), math.log(0.01)).double()] * 2
    model = VAE(
        StandardNormal(6), DiagonalGaussian(MLP((1,), (6,)), MLP((1,), (6,))), MLP((6,), (1, 1)), Gaussian((1,))
    )
    learn, test = (codes_of(m, w) for m, w in zip(mean, wide, strict=True))
    gap = gap_to_prior(model, learn, test, seed=0)["prior_gap"]
    entropy = 6 * 0.5 * math.log(2 * math.pi * math.e * 0.01) + math.log(4)
    cross = 0.5 * (mean[1].square().sum(1).mean() + 6 * 0.01 + 6 * math.log(2 * math.pi))
    assert float(cross) - entropy - gap.value == pytest.approx(0, abs=0.02 * gap.value)
    assert gap.value > 2 * math.log(2_000)


def test_stray_samples_are_those_farther_away_than_reconstructions() -> None:
    with fixed_noise(4):
        a, b, real = torch.randn(2_000, 3), torch.randn(2_000, 3), torch.randn(500, 3)
        lost = torch.where(torch.arange(2_000)[:, None] < 600, torch.tensor(9.0), torch.tensor(0.0)) + a
    fair, third = stray(a, b, real), stray(lost, b, real)
    assert abs(fair.value - 0.05) < 4 * fair.standard_error
    assert abs(third.value - (0.3 + 0.7 * 0.05)) < 4 * third.standard_error
