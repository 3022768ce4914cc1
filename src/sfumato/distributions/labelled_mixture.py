r"""A mixture of unit normals of which the label, where there is one, names the component."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints, register_kl
from torch.nn import functional as F

from sfumato.core.gaussians import as_normal, independent_normal


@final
class LabelledMixture(Distribution):
    r"""p(z | y) = N(z; mu_y, s_y^2) where y is known, and p(z) = sum_y p(y) N(z; mu_y, s_y^2) where it is not.

    KL to it has a closed form for a normal and a known label; entries of unknown ones are NaN (``partly_closed_form``).

    Reference: Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298; the learned class means: Su Jianlin's conditional VAE (see the article page).

    Args:
        means: mu, (classes, latent).
        log_weights: log p(y), (classes,), nats.
        y: class numbers, (batch,), -1 where unknown; None: one distribution with an unknown label, batch shape ().
        scale: s, one number for all components and dimensions, or (classes, latent).

    ``log_prob`` takes (..., batch, latent) and returns nats, (..., batch).

    >>> means, weights = torch.tensor([[-2.0], [2.0]]), torch.tensor([0.5, 0.5])
    >>> LabelledMixture(means, weights.log(), torch.tensor([0, -1])).log_prob(torch.zeros(2, 1))
    tensor([-2.9189, -2.9189])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    partly_closed_form = True

    def __init__(
        self, means: Tensor, log_weights: Tensor, y: Tensor | None = None, scale: float | Tensor = 1.0
    ) -> None:
        self.means, self.log_weights, self.y, self.scale = means, log_weights, y, scale
        super().__init__(torch.Size(() if y is None else y.shape), means.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z | y), or log p(z) where y is unknown."""
        components = self.log_components(value)
        mixture = torch.logsumexp(components + self.log_weights, -1)
        if self.y is None:
            return mixture
        index = self.y.clamp(min=0).unsqueeze(-1).expand(*components.shape[:-1], 1)
        return torch.where(self.y >= 0, components.gather(-1, index).squeeze(-1), mixture)

    def log_components(self, value: Tensor) -> Tensor:
        """Return log p(z | y) in nats for every class: (..., classes)."""
        squared = ((value.unsqueeze(-2) - self.means) / self.scale).square().sum(-1)
        return -0.5 * (squared + self.log_variances.sum(-1) + value.shape[-1] * math.log(2 * math.pi))

    @property
    def log_variances(self) -> Tensor:
        """log s_y^2 of every component, (classes, latent)."""
        if isinstance(self.scale, Tensor):
            return 2 * self.scale.log()
        return torch.full_like(self.means, 2 * math.log(self.scale) if self.scale else -math.inf)

    def gaussian(self) -> Independent[Normal] | None:
        """Return the normal of each example's class, its mean NaN where the class is unknown; None without labels."""
        if self.y is None:
            return None
        labels = self.y.clamp(min=0)
        mean = torch.where((self.y >= 0).unsqueeze(-1), self.means[labels], torch.nan)
        return independent_normal(mean, self.log_variances[labels])

    def tempered(self, temperature: float) -> LabelledMixture:
        """Return the same mixture with every component's scale multiplied by ``temperature``."""
        return LabelledMixture(self.means, self.log_weights, self.y, self.scale * temperature)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws, (*sample_shape, *batch, latent); where y is unknown, first a class, then z."""
        with torch.no_grad():
            shape = (*sample_shape, *self.batch_shape)
            weights = self.log_weights.exp()
            drawn = torch.multinomial(weights, max(1, math.prod(shape)), replacement=True)[: math.prod(shape)]
            drawn = drawn.reshape(shape)
            labels = drawn if self.y is None else torch.where(self.y >= 0, self.y.expand(shape), drawn)
            centre = F.embedding(labels, self.means)
            scale = F.embedding(labels, self.scale) if isinstance(self.scale, Tensor) else self.scale
            return centre + scale * torch.randn_like(centre)


@register_kl(Independent, LabelledMixture)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_normal_to_labelled_mixture(q: Independent[Normal], p: LabelledMixture) -> Tensor:
    normal = as_normal(q)
    if normal is None or p.y is None:
        raise NotImplementedError
    # The NaN of unknown labels comes last: inside the formula it would make their gradient NaN too.
    labels = p.y.clamp(min=0)
    scale = p.scale[labels] if isinstance(p.scale, Tensor) else p.scale
    ratio = (normal.scale / scale).square()
    shift = ((normal.loc - p.means[labels]) / scale).square()
    kl = 0.5 * (shift + ratio - ratio.log() - 1).sum(-1)
    return torch.where(p.y >= 0, kl, torch.nan)
