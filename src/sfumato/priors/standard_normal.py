"""The standard normal."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Prior
from sfumato.core.spec import Shape, Size, register


@final
@register("prior")
class StandardNormal(Prior):
    """p(z) = N(0, I).

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args:
        latent_dim: the number of dimensions of z, or its shape.

    Returns (call):
        a normal of batch shape () and event shape ``latent_shape``; labels make no difference to it.

    >>> StandardNormal(latent_dim=2)().event_shape
    torch.Size([2])
    """

    zeros: Tensor

    def __init__(self, latent_dim: Size | Shape) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
        self.register_buffer("zeros", torch.zeros(self.latent_shape), persistent=False)

    def forward(self, y: Tensor | None = None) -> Independent[Normal]:
        """Return N(0, I)."""
        return independent_normal(self.zeros, self.zeros, len(self.latent_shape))
