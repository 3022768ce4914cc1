"""Against exact answers: models whose log p(x) is known."""

from __future__ import annotations

import itertools

import pytest
import torch
from ladder import Ladder
from torch.distributions import kl_divergence

from linear_gaussian import DATA, LATENT, evidence, linear_vae, loadings, trained_linear_vae
from sfumato.core.gaussians import independent_normal
from sfumato.core.terms import Level, Terms
from sfumato.objectives import ELBO, IWAE

VARIANCE = 0.3
BIAS = torch.linspace(-1, 1, DATA, dtype=torch.float64)
W = loadings()
EVIDENCE = evidence(W, BIAS, VARIANCE)


def rows(n: int = 16) -> torch.Tensor:
    return EVIDENCE.sample((n,))


def elbo(terms: Terms, kl: str) -> torch.Tensor:
    return ELBO(kl=kl)(terms, 0).values["elbo"]


def at_sigma_points(model, x: torch.Tensor, q) -> Terms:
    """Return the terms at 2 d points with q's mean and variance: exact expectations of anything quadratic in z."""
    offsets = torch.cat([torch.eye(LATENT), -torch.eye(LATENT)]).double() * LATENT**0.5
    z = q.mean + q.stddev * offsets.unsqueeze(1)
    return Terms(x, None, (Level(z, q, model.prior()),), model.decode(z))


def shifted(model, x: torch.Tensor, samples: int) -> tuple[Terms, torch.Tensor]:
    """Return the terms at a wrong posterior, and KL(q || exact)."""
    exact = model.encode(x)
    q = independent_normal(exact.mean + 0.3, (exact.variance * 1.7).log())
    z = q.rsample((samples,))
    return Terms(x, None, (Level(z, q, model.prior()),), model.decode(z)), kl_divergence(q, exact)


@pytest.mark.parametrize("samples", [1, 7])
def test_the_bound_is_log_p_at_the_exact_posterior(samples: int) -> None:
    """log p(z, x) - log q(z | x) is the same number for every z: no noise is left, whatever the draws."""
    model, x = linear_vae(W, BIAS, VARIANCE), rows()
    exact = EVIDENCE.log_prob(x)
    terms = model(x, None, samples)
    assert (elbo(terms, "sampled") - exact).abs().max() < 1e-10
    assert (IWAE(samples=samples)(terms, 0).values["iwae"] - exact).abs().max() < 1e-10
    assert (ELBO(kl="sampled")(terms, 0).losses["model"] + exact).abs().max() < 1e-10


def test_the_analytic_bound_is_log_p_at_the_exact_posterior() -> None:
    model, x = linear_vae(W, BIAS, VARIANCE), rows()
    terms = at_sigma_points(model, x, model.encode(x))
    assert (elbo(terms, "analytic") - EVIDENCE.log_prob(x)).abs().max() < 1e-10


def test_the_gap_is_the_kl_to_the_exact_posterior() -> None:
    model, x = linear_vae(W, BIAS, VARIANCE), rows()
    exact = model.encode(x)
    q = independent_normal(exact.mean + 0.3, (exact.variance * 1.7).log())
    terms = at_sigma_points(model, x, q)
    gap = EVIDENCE.log_prob(x) - elbo(terms, "analytic")
    torch.testing.assert_close(gap, kl_divergence(q, exact), rtol=0, atol=1e-10)


def test_the_sampled_gap_is_the_kl_within_its_error() -> None:
    torch.manual_seed(1)
    model, x = linear_vae(W, BIAS, VARIANCE), rows(4)
    terms, kl = shifted(model, x, 40_000)
    draws = terms.log_likelihood + terms.log_prior - terms.log_posterior
    error = draws.std(0) / 200
    gap = EVIDENCE.log_prob(x) - elbo(terms, "sampled")
    assert ((gap - kl).abs() < 5 * error).all()


def test_iwae_rises_with_k_to_log_p_and_uses_exactly_k() -> None:
    torch.manual_seed(2)
    model, x = linear_vae(W, BIAS, VARIANCE), rows(1)
    repeated = x.expand(4000, DATA)
    means = []
    for k in (1, 2, 5, 20, 100):
        terms, _ = shifted(model, repeated, IWAE(samples=k).samples)
        assert terms.log_posterior.shape[0] == k
        bound = IWAE(samples=k)(terms, 0).values["iwae"]
        by_hand = (terms.log_likelihood + terms.log_prior - terms.log_posterior).exp().sum(0).div(k).log()
        torch.testing.assert_close(bound, by_hand)
        means.append((float(bound.mean()), float(bound.std()) / 4000**0.5))
    for (lower, error), (higher, other) in itertools.pairwise(means):
        assert higher - lower > 2 * (error**2 + other**2) ** 0.5
    exact = float(EVIDENCE.log_prob(x))
    assert means[-1][0] < exact + 5 * means[-1][1]
    assert means[-1][0] == pytest.approx(exact, abs=0.02)


def test_iwae_with_one_sample_is_the_sampled_elbo() -> None:
    model, x = linear_vae(W, BIAS, VARIANCE), rows()
    terms, _ = shifted(model, x, 1)
    torch.testing.assert_close(IWAE(samples=1)(terms, 0).losses["model"], ELBO(kl="sampled")(terms, 0).losses["model"])


def test_optimal_observation_noise_is_found_by_the_evidence() -> None:
    """The evidence of its own data is highest at the true variance: no scale hides in the terms."""
    x = rows(20_000)
    found = [float(elbo(linear_vae(W, BIAS, v)(x), "sampled").mean()) for v in (0.27, 0.3, 0.33)]
    assert found[1] > max(found[0], found[2])


def test_a_trained_linear_vae_reaches_probabilistic_pca() -> None:
    found = trained_linear_vae(seed=0, rows=1000, steps=600, data=6, latent=2)
    assert found["elbo"] <= found["evidence"] + 0.002
    assert found["evidence"] <= found["pca"] + 1e-6
    assert found["pca"] - found["elbo"] < 0.01
    assert found["pca"] - found["evidence"] < 0.01


# The design's own test: a ladder of two levels, with no special case in Terms, ELBO or IWAE.


@pytest.mark.parametrize("samples", [1, 6])
def test_a_ladder_goes_through_terms_elbo_and_iwae(samples: int) -> None:
    ladder = Ladder()
    x = ladder.evidence().sample((16,))
    exact = ladder.evidence().log_prob(x)
    terms = ladder(x, samples=samples)
    assert [z.shape for z in terms.z] == [(samples, 16, 1)] * 2
    assert (elbo(terms, "sampled") - exact).abs().max() < 1e-10
    assert (IWAE(samples=samples)(terms, 0).values["iwae"] - exact).abs().max() < 1e-10
    assert terms.kl.shape == terms.sampled_kl.shape == (2, 16)


def test_a_ladder_in_closed_form() -> None:
    """With each level's closed form the bound is log p(x) in the mean over draws, and (L_mu, L_sigma) add up to KL."""
    torch.manual_seed(3)
    ladder = Ladder()
    x = ladder.evidence().sample((3,))
    n = 40_000
    terms = ladder(x, samples=n)
    values = ELBO()(terms, 0).values
    per_draw = terms.log_likelihood - kl_divergence(terms.levels[1].posterior, terms.levels[1].prior)
    error = per_draw.std(0) / n**0.5
    assert ((values["elbo"] - ladder.evidence().log_prob(x)).abs() < 5 * error).all()
    torch.testing.assert_close(values["kl_mean"] + values["kl_variance"], values["kl"])
    torch.testing.assert_close(terms.kl.sum(0), values["kl"])
    sampled_error = (terms.log_posterior - terms.log_prior).std(0) / n**0.5
    assert ((terms.sampled_kl.sum(0) - terms.kl.sum(0)).abs() < 5 * (sampled_error + error)).all()
    assert values["sigma"].shape == (3,)


def test_a_wrong_ladder_is_below_its_evidence() -> None:
    torch.manual_seed(4)
    ladder = Ladder(shift=0.4)
    x = ladder.evidence().sample((64,))
    exact = float(ladder.evidence().log_prob(x).mean())
    terms = ladder(x, samples=200)
    bounds = [float(elbo(terms, kl).mean()) for kl in ("analytic", "sampled")]
    assert all(bound < exact - 0.05 for bound in bounds)
    assert bounds[0] == pytest.approx(bounds[1], abs=0.05)
    assert bounds[1] < float(IWAE(samples=200)(terms, 0).values["iwae"].mean()) < exact + 0.01


def test_free_bits_and_beta_act_on_each_level() -> None:
    terms = Ladder()(torch.ones(4, 3, dtype=torch.float64), samples=3)
    expected = -terms.log_likelihood.mean(0) + 2.0 * terms.kl.clamp(min=0.7).sum(0)
    torch.testing.assert_close(ELBO(beta=2.0, free_bits=0.7)(terms, 0).losses["model"], expected)
