"""The KL term: closed forms against torch and Monte Carlo, its two parts, and examples without a label."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sfumato.core.gaussians import independent_normal, kl_parts
from sfumato.core.terms import Level, Terms
from sfumato.objectives import ELBO, IWAE
from sfumato.priors import ClassConditional, StandardNormal

BATCH, LATENT = 4, 3
LABELS = torch.tensor([0, 2, -1, 1])


def posterior():
    mean, log_variance = torch.randn(BATCH, LATENT).double(), torch.randn(BATCH, LATENT).double()
    return independent_normal(mean.requires_grad_(), log_variance.requires_grad_()), (mean, log_variance)


def class_conditional() -> ClassConditional:
    return ClassConditional(3, LATENT, frequencies=(0.2, 0.5, 0.3)).double()


def terms_of(q, prior, y: Tensor | None, samples: int) -> Terms:
    z = q.rsample((samples,))
    observation = independent_normal(z.sum(-1, keepdim=True), torch.zeros(1).double())
    return Terms(torch.zeros(BATCH, 1).double(), y, (Level(z, q, prior(y)),), observation)


def by_hand(mean: Tensor, log_variance: Tensor, centre: Tensor) -> Tensor:
    """The formula of the article."""
    return 0.5 * (-log_variance + (mean - centre).square() + log_variance.exp() - 1).sum(-1)


def test_standard_normal() -> None:
    q, (mean, log_variance) = posterior()
    terms = terms_of(q, StandardNormal(LATENT).double(), None, 20_000)
    torch.testing.assert_close(terms.kl[0], by_hand(mean, log_variance, torch.zeros(LATENT)))
    reference = independent_normal(torch.zeros_like(mean), torch.zeros_like(mean))
    torch.testing.assert_close(terms.kl[0], kl_divergence(q, reference))
    agrees_with_draws(terms)


def test_class_conditional_with_known_labels() -> None:
    q, (mean, log_variance) = posterior()
    prior, y = class_conditional(), torch.tensor([0, 2, 2, 1])
    terms = terms_of(q, prior, y, 20_000)
    torch.testing.assert_close(terms.kl[0], by_hand(mean, log_variance, prior.means[y]))
    torch.testing.assert_close(
        terms.kl[0], kl_divergence(q, independent_normal(prior.means[y], torch.zeros_like(mean)))
    )
    agrees_with_draws(terms)


def agrees_with_draws(terms: Terms) -> None:
    draws = terms.log_posterior - terms.log_prior
    error = draws.std(0) / draws.shape[0] ** 0.5
    assert ((terms.sampled_kl[0] - terms.kl[0]).abs() < 5 * error).all()


@pytest.mark.parametrize("labels", [None, [0, 2, 2, 1], [0, 2, -1, 1], [-1, -1, -1, -1]])
def test_the_two_parts_add_up_to_the_kl(labels: list[int] | None) -> None:
    q, _ = posterior()
    y = None if labels is None else torch.tensor(labels)
    prior = StandardNormal(LATENT).double() if y is None else class_conditional()
    values = ELBO()(terms_of(q, prior, y, 3), 0).values
    torch.testing.assert_close(values["kl_mean"] + values["kl_variance"], values["kl"])
    assert (values["kl_variance"] >= 0).all()
    torch.testing.assert_close(values["elbo"], -values["reconstruction"] - values["kl"])


def test_the_two_parts_per_dimension() -> None:
    q, (mean, log_variance) = posterior()
    l_mu, l_sigma = kl_parts(q, StandardNormal(LATENT).double()())
    torch.testing.assert_close(l_mu, 0.5 * mean.square())
    torch.testing.assert_close(l_sigma, 0.5 * (log_variance.exp() - log_variance - 1))


def test_without_a_label_the_prior_is_the_mixture_by_hand() -> None:
    prior = class_conditional()
    z = torch.randn(5, BATCH, LATENT).double()
    found = prior(LABELS).log_prob(z).detach()
    for sample in range(5):
        for row, label in enumerate(LABELS.tolist()):
            parts = [float(Normal(mean, 1.0).log_prob(z[sample, row]).sum()) for mean in prior.means.detach()]
            mixture = math.log(sum(w * math.exp(p) for w, p in zip((0.2, 0.5, 0.3), parts, strict=True)))
            expected = parts[label] if label >= 0 else mixture
            assert float(found[sample, row]) == pytest.approx(expected, abs=1e-7)
    torch.testing.assert_close(prior().log_prob(z)[:, 2].detach(), found[:, 2])


def test_in_a_mixed_batch_only_the_unlabelled_kl_is_sampled() -> None:
    q, (mean, log_variance) = posterior()
    prior = class_conditional()
    terms = terms_of(q, prior, LABELS, 2)
    known = LABELS >= 0
    exact = by_hand(mean[known], log_variance[known], prior.means[LABELS[known]])
    torch.testing.assert_close(terms.kl[0, known], exact)
    torch.testing.assert_close(terms.kl[0, 2], terms.sampled_kl[0, 2])
    assert not torch.isclose(terms.kl[0, known], terms.sampled_kl[0, known]).any()


@pytest.mark.parametrize("objective", [ELBO(), ELBO(kl="sampled"), ELBO(free_bits=0.5), IWAE(samples=3)])
def test_gradients_of_unlabelled_examples_are_finite(objective) -> None:
    q, leaves = posterior()
    prior = class_conditional()
    output = objective(terms_of(q, prior, LABELS, 3), 0)
    output.losses["model"].sum().backward()
    for leaf in (*leaves, prior.means):
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().sum() > 0
    assert all(torch.isfinite(value).all() for value in output.values.values())


def test_an_entirely_unlabelled_batch_equals_no_labels_at_all() -> None:
    q, _ = posterior()
    prior, z = class_conditional(), torch.randn(2, BATCH, LATENT).double()
    none, unknown = prior(None), prior(torch.full((BATCH,), -1))
    torch.testing.assert_close(none.log_prob(z), unknown.log_prob(z))
    assert terms_of(q, prior, None, 2).kl is None, "no closed form: objectives take the sampled one"


def test_a_sampled_kl_below_zero_is_not_cut() -> None:
    """An estimate may be negative; clamping it would bias the loss and stop its gradient."""
    q, _ = posterior()
    prior = StandardNormal(LATENT).double()
    terms = terms_of(q, prior, None, 1)
    while not (terms.sampled_kl < 0).any():
        terms = terms_of(q, prior, None, 1)
    expected = -(terms.log_likelihood + terms.log_prior - terms.log_posterior)[0]
    torch.testing.assert_close(ELBO(kl="sampled")(terms, 0).losses["model"], expected)
