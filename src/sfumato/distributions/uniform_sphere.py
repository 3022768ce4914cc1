r"""The uniform distribution on the unit sphere, and the sphere itself."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F


def log_area(dims: int) -> float:
    """Return log of the area of the unit sphere S^(d-1) in d dimensions, 2 pi^(d/2) / Gamma(d/2).

    >>> round(log_area(3) - math.log(4 * math.pi), 12)
    0.0
    """
    return math.log(2) + dims / 2 * math.log(math.pi) - math.lgamma(dims / 2)


def on_sphere(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform draws, (*shape), of unit length along the last dimension; dtype and device as ``like``."""
    return F.normalize(torch.randn(*shape, dtype=like.dtype, device=like.device), dim=-1)


@final
class UniformSphere(Distribution):
    r"""p(z) = Gamma(d/2) / (2 pi^(d/2)) for |z| = 1: a density on the surface S^(d-1) of the ball in d dimensions.

    Reference: Hyperspherical Variational Auto-Encoders, Davidson et al., 2018, https://arxiv.org/abs/1804.00891.

    Args:
        like: zeros of shape (d,), for dtype and device.

    ``log_prob`` takes (..., d), all of unit length, and returns nats per unit of area, (...).

    >>> UniformSphere(torch.zeros(3)).log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()
    tensor(0.0796)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, like: Tensor) -> None:
        self.like = like
        super().__init__(torch.Size(), like.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The centre, 0, which is not on the sphere."""
        return self.like

    def log_prob(self, value: Tensor) -> Tensor:
        """Return minus the logarithm of the area."""
        return torch.full_like(value[..., 0], -log_area(value.shape[-1]))

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of unit length, (*sample_shape, d)."""
        return on_sphere(self.like, (*sample_shape, *self.event_shape))
