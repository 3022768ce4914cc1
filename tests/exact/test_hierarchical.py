"""The ladder against exact answers, and the objectives and bounds on it, none of which knows it."""

from __future__ import annotations

import math

import pytest
import torch
from linear_ladder import (
    DEVIATIONS,
    LEVELS,
    MEANS,
    WEIGHTS,
    data,
    exact_posterior,
    joint,
    linear_ladder,
    log_evidence,
)
from torch.distributions import MultivariateNormal, kl_divergence

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.evaluation.annealed import Annealing, annealed_bound, sandwich
from sfumato.evaluation.bounds import class_bounds, evidence_bound, importance_bound
from sfumato.models.hierarchical import residual_normal
from sfumato.models.model import tempered
from sfumato.objectives import ELBO, IWAE, NaivePenalty

PRIOR = MultivariateNormal(joint().mean[:LEVELS], joint().covariance_matrix[:LEVELS, :LEVELS])


@pytest.mark.parametrize("samples", [1, 7])
def test_every_bound_is_log_p_at_the_exact_posterior(samples: int) -> None:
    """log p(x, z) - log q(z | x) is the same number for every z: no noise is left, whatever the draws."""
    model, x = linear_ladder(), data(16)
    exact = log_evidence(x)
    terms = model(x, None, samples)
    assert [z.shape for z in terms.z] == [(samples, 16, 1)] * LEVELS
    assert (ELBO(kl="sampled")(terms, 0).values["elbo"] - exact).abs().max() < 1e-10
    assert (IWAE(samples=samples)(terms, 0).values["iwae"] - exact).abs().max() < 1e-10
    assert (importance_bound(model, x, samples=samples) - exact).abs().max() < 1e-10


def test_the_joint_views_are_the_densities() -> None:
    model, x = linear_ladder(), data(5)
    z = 2 * torch.randn(3, 5, LEVELS).double()
    torch.testing.assert_close(model.prior().log_prob(z), PRIOR.log_prob(z), rtol=0, atol=1e-10)
    posterior = model.encode(x)
    torch.testing.assert_close(posterior.log_prob(z), exact_posterior(x).log_prob(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(posterior.mean, exact_posterior(x).mean, rtol=0, atol=1e-10)
    terms = model(x, None, 3)
    row = torch.cat(terms.z, -1)
    torch.testing.assert_close(terms.log_prior, model.prior().log_prob(row), rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.log_posterior, posterior.log_prob(row), rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.log_likelihood, model.decode(row).log_prob(x), rtol=0, atol=1e-10)


def test_draws_have_the_moments_of_the_joint() -> None:
    model, x, n = linear_ladder(), data(1), 40_000
    for draws, exact in (
        (model.prior().sample((n,)), PRIOR),
        (model.encode(x).sample((n,))[:, 0], exact_posterior(x)),
        (torch.cat(model(x, None, n).z, -1)[:, 0], exact_posterior(x)),
    ):
        covariance = exact.covariance_matrix.reshape(LEVELS, LEVELS)
        spread = covariance.diagonal().sqrt()
        assert ((draws.mean(0) - exact.mean).abs() < 5 * spread / n**0.5).all()
        off = draws.T.cov() - covariance
        assert (off.abs() < 8 * torch.outer(spread, spread) / n**0.5).all()


def test_the_kl_of_the_levels_adds_up_to_the_kl() -> None:
    """KL(q(z | x) || p(z)) of the whole chain, by two normals of all levels; each level's is its own expectation."""
    torch.manual_seed(1)
    model, x, n = linear_ladder(), data(3), 40_000
    terms = model(x, None, n)
    exact = kl_divergence(exact_posterior(x), PRIOR)
    assert terms.kl.shape == terms.sampled_kl.shape == (LEVELS, 3)
    per_draw = terms.log_posterior - terms.log_prior
    assert ((terms.kl.sum(0) - exact).abs() < 5 * per_draw.std(0) / n**0.5).all()
    for row, level in zip(terms.kl, terms.levels, strict=True):
        draws = level.posterior.log_prob(level.z) - level.prior.log_prob(level.z)
        assert ((row - draws.mean(0)).abs() < 5 * draws.std(0) / n**0.5).all()
    top = exact_posterior(x)
    alone = kl_divergence(
        independent_normal(top.mean[:, :1], top.covariance_matrix[:, 0, 0].log().unsqueeze(1)),
        independent_normal(torch.zeros(1).double(), torch.zeros(1).double()),
    )
    torch.testing.assert_close(terms.kl[0], alone, rtol=0, atol=1e-10)


def test_the_bound_rises_to_the_evidence() -> None:
    torch.manual_seed(1)
    model, x = linear_ladder(wrong=0.7), data(200)
    exact = log_evidence(x).mean()
    found = [importance_bound(model, x, samples=k).mean() for k in (1, 10, 100)]
    assert found[0] < found[1] < found[2] < exact + 0.02
    assert exact - found[0] > 0.3
    assert abs(exact - found[2]) < 0.03


def test_a_bound_does_not_depend_on_what_is_decoded_together() -> None:
    model, x = linear_ladder(wrong=0.7), data(5)
    whole = importance_bound(model, x, samples=30)
    torch.testing.assert_close(importance_bound(model, x, samples=30, block=10), whole, rtol=0, atol=1e-10)


def test_annealing_meets_the_evidence_from_below_and_above() -> None:
    torch.manual_seed(1)
    model, x = linear_ladder(wrong=0.7), data(20)
    for start in ("posterior", "prior"):
        found = annealed_bound(model, x, Annealing(40, 4, 3, 10, start))
        off = found - log_evidence(x)
        assert abs(off.mean()) < 5 * off.std() / len(x) ** 0.5 + 0.05, start
    pair = sandwich(model, 20, Annealing(40, 4, 3, 10))
    gap = pair.upper - pair.lower
    assert abs(gap.mean()) < 5 * gap.std() / 20**0.5 + 0.05


def test_classes_of_the_top_level_reach_the_data() -> None:
    """log p(x | y) and log p(x) with a mean of z_1 for each class, which only the prior knows."""
    torch.manual_seed(1)
    model, x = linear_ladder(wrong=0.5, classes=True), data(6)
    exact = torch.stack([log_evidence(x, float(centre)) for centre in MEANS], -1)
    assert not model.labels_reach_networks
    assert (class_bounds(model, x, samples=30_000) - exact).abs().max() < 0.1
    joint_exact = exact + torch.tensor(WEIGHTS).double().log()
    assert (evidence_bound(model, x, samples=30_000) - joint_exact.logsumexp(-1)).abs().max() < 0.05
    y = torch.tensor([0, 1, 2, 0, 1, -1])
    given = importance_bound(model, x, y, samples=30_000)
    wanted = torch.where(y < 0, joint_exact.logsumexp(-1), exact.gather(1, y.clamp(min=0)[:, None])[:, 0])
    assert (given - wanted).abs().max() < 0.1
    assert torch.isfinite(model(x, y).kl).all()
    torch.testing.assert_close(model.sample(3, label=1, temperature=(0.0, 0.0, 0.0)), model.sample(3, 1, 0.0))


def test_free_bits_and_beta_by_hand() -> None:
    """Each level of each example is paid for above its free nats, and no further."""
    with torch.no_grad():
        terms = linear_ladder(wrong=0.4)(data(8), None, 3)
        assert terms.kl is not None
    free = float(terms.kl.median())
    assert (terms.kl < free).any()
    paid = torch.stack(
        [torch.stack([value if value > free else 0 * value + free for value in row]) for row in terms.kl]
    )
    loss = ELBO(beta=2.0, free_bits=free)(terms, 0).losses["model"]
    torch.testing.assert_close(loss, -terms.log_likelihood.mean(0) + 2 * paid.sum(0), rtol=0, atol=1e-12)


def test_what_is_reported_of_each_level_adds_up() -> None:
    terms = linear_ladder(wrong=0.4)(data(8), None, 3)
    for objective in (ELBO(beta=3.0), ELBO(kl="sampled"), IWAE(samples=3), NaivePenalty()):
        values = objective(terms, 0).values
        levels = torch.stack([values[f"kl_level_{number}"] for number in (1, 2, 3)])
        torch.testing.assert_close(levels.sum(0), values["kl"], rtol=0, atol=1e-12)
        torch.testing.assert_close(values["kl_mean"] + values["kl_variance"], terms.kl.sum(0), rtol=0, atol=1e-12)
        assert values["elbo"].shape == values["sigma"].shape == (8,)


def test_a_residual_posterior_by_hand() -> None:
    """KL = 1/2 sum (d^2 + exp(e) - e - 1), whatever the prior; nothing new is the prior."""
    prior = independent_normal(torch.tensor([[3.0, -50.0]]).double(), torch.tensor([[4.0, -6.0]]).double())
    shift, log_ratio = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[-1.0, 0.7]]).double()
    posterior = residual_normal(prior, shift, log_ratio)
    expected = 0.5 * (shift.square() + log_ratio.exp() - log_ratio - 1).sum(-1)
    torch.testing.assert_close(kl_divergence(posterior, prior), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(posterior.mean, torch.tensor([[3 + 0.5 * math.e**2, -50 - math.e**-3]]).double())
    same = residual_normal(prior, 0 * shift, 0 * shift)
    assert kl_divergence(same, prior).abs().max() < 1e-3


def test_a_temperature_for_each_level_is_that_of_its_conditional() -> None:
    model, n = linear_ladder(), 40_000
    cold = tempered(model.prior(), (0.5, 0.0, 2.0))
    z = cold.sample((n,))
    assert abs(z[:, 0].std() - 0.5) < 0.02
    torch.testing.assert_close(z[:, 1], 0.8 * z[:, 0] + 0.3)
    rest = z[:, 2] - (-0.5 * z[:, 0] + 0.7 * z[:, 1] - 0.2)
    assert abs(rest.std() - 2 * DEVIATIONS[2]) < 5 * 2 * DEVIATIONS[2] / n**0.5
    everywhere = tempered(model.prior(), 0.5).sample((n,))
    assert abs(everywhere[:, 0].std() - 0.5) < 0.02
    for wrong in ((1.0, 1.0), (1.0,) * 4):
        with pytest.raises(UserError, match=r"3 levels of z; got \d temperatures"):
            model.sample(2, temperature=wrong)
    with pytest.raises(UserError, match="0 or more"):
        model.sample(2, temperature=(1.0, 1.0, -1.0))


def test_paths_are_mixed_where_the_prior_is_standard_normal() -> None:
    model, x, n = linear_ladder(), data(3), 40_000
    white = model.whitened(model.prior().sample((n,)))
    assert (white.mean(0).abs() < 5 / n**0.5).all()
    assert ((white.T.cov() - torch.eye(LEVELS)).abs() < 8 / n**0.5).all()
    z = model.encode(x).mean
    torch.testing.assert_close(model.coloured(model.whitened(z)), z, rtol=0, atol=1e-10)
    shown = model.interpolate(x[:1], x[1:2], steps=5)
    torch.testing.assert_close(shown[0], model.reconstruct(x[:1]), rtol=0, atol=1e-10)
    torch.testing.assert_close(shown[-1], model.reconstruct(x[1:2]), rtol=0, atol=1e-10)
