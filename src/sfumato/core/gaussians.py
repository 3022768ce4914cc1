r"""The closed forms for Gaussians, and the article's two parts of the KL term.

For independent dimensions with q = N(mu, sigma^2) and p = N(m, s^2), per dimension and in nats,

    KL(q || p) = L_mu + L_sigma,
    L_mu    = 1/2 (mu - m)^2 / s^2,
    L_sigma = 1/2 (sigma^2 / s^2 - log(sigma^2 / s^2) - 1),

both never negative; with m = 0 and s = 1 these are the article's. Reference: Auto-Encoding Variational Bayes, Kingma
and Welling, 2014, https://arxiv.org/abs/1312.6114, appendix B.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from sfumato.core.numerics import sum_event


def closed_form_kl(posterior: Distribution, prior: Distribution) -> Tensor | None:
    """Return KL(posterior || prior) in nats, summed over event dimensions, or None where no closed form is known."""
    if not has_density(posterior):
        return None
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:
        return None


def kl_parts(posterior: Distribution, prior: Distribution) -> tuple[Tensor, Tensor] | None:
    """Return (L_mu, L_sigma) per dimension in nats, of the shape batch + event; None unless both are normal.

    Which normal a prior is says :func:`stated_normal`.
    """
    q, p = as_normal(posterior), stated_normal(prior)
    if q is None or p is None:
        return None
    ratio = (q.scale / p.scale).square()
    l_mu = 0.5 * ((q.loc - p.loc) / p.scale).square()
    l_sigma = 0.5 * (ratio - ratio.log() - 1)
    return l_mu.expand_as(l_mu + l_sigma), l_sigma.expand_as(l_mu + l_sigma)


def as_normal(distribution: Distribution) -> Normal | None:
    """Return the element-wise normal inside ``distribution``, or None if it is something else."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    return base if isinstance(base, Normal) else None


def stated_normal(prior: Distribution) -> Normal | None:
    """Return the element-wise normal that ``prior`` is, or that its ``gaussian()`` names as equal to it for these
    examples; None if it is none.
    """
    target: Distribution | None = prior.gaussian() if hasattr(prior, "gaussian") else prior
    return None if target is None else as_normal(target)


def independent_normal(mean: Tensor, log_variance: Tensor, event_dims: int = 1) -> Independent[Normal]:
    """Return N(mean, exp(log_variance)) with independent dimensions, the last ``event_dims`` of them one event."""
    scale = (0.5 * log_variance).exp()
    return Independent(Normal(mean, scale, validate_args=False), event_dims, validate_args=False)


def has_density(distribution: Distribution) -> bool:
    """Whether ``log_prob`` means anything: a point mass says ``has_density = False``."""
    return bool(getattr(distribution, "has_density", True))


__all__ = ["as_normal", "closed_form_kl", "has_density", "independent_normal", "kl_parts", "stated_normal", "sum_event"]
