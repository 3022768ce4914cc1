r"""A normal on hyperbolic space."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from sfumato.core.interfaces import Prior
from sfumato.core.spec import Positive, Size, register
from sfumato.distributions import PoincareNormal as Normal

BALL = "the Poincare ball"


@final
@register("prior")
class PoincareNormal(Prior):
    r"""p(z) = the normal around the origin of the Poincare ball whose geodesic radius has the scale s.

    For posteriors on the ball: :class:`~sfumato.posteriors.PoincareGaussian`. Space grows exponentially with the radius
    there, as trees do.

    Reference: Continuous Hierarchical Representations with Poincare Variational Auto-Encoders, Mathieu et al., 2019,
    https://arxiv.org/abs/1901.06033.

    Args:
        latent_dim: d.
        scale: s, in geodesic distance; the curvature is -1.

    Returns (call):
        a :class:`~sfumato.distributions.PoincareNormal` of batch shape () and event shape (latent_dim,); labels make no
        difference to it.

    >>> bool((PoincareNormal(latent_dim=2)().sample((100,)).norm(dim=-1) < 1).all())
    True
    """

    space: ClassVar[str] = BALL
    zeros: Tensor

    def __init__(self, latent_dim: Size, scale: Positive = 1.0) -> None:
        super().__init__()
        self.latent_shape, self.scale = (latent_dim,), scale
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, y: Tensor | None = None) -> Normal:
        """Return the normal."""
        return Normal(self.zeros, self.zeros + self.scale)
