r"""A normal wrapped onto the Poincare ball, the hyperbolic space of curvature -1 inside the unit ball.

    lambda(z) = 2 / (1 - |z|^2),   u + v = ((1 + 2 u.v + |v|^2) u + (1 - |u|^2) v) / (1 + 2 u.v + |u|^2 |v|^2)

where + is Moebius addition. The geodesic distance is d(u, v) = 2 artanh |(-u) + v|.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

EDGE = 1e-5  # in float32 1 - |z|^2 has no digits left beyond
TINY = 1e-15


def add(u: Tensor, v: Tensor) -> Tensor:
    """Return the Moebius sum of two points of the ball, (..., d)."""
    uv, uu, vv = (u * v).sum(-1, True), u.square().sum(-1, True), v.square().sum(-1, True)
    return ((1 + 2 * uv + vv) * u + (1 - uu) * v) / (1 + 2 * uv + uu * vv).clamp(min=TINY)


def inside(z: Tensor) -> Tensor:
    """Return ``z``, (..., d), pulled back to |z| <= 1 - 1e-5 where rounding has put it on the edge."""
    return z * ((1 - EDGE) / length(z)).clamp(max=1)


def length(v: Tensor) -> Tensor:
    """Return |v|, (..., 1), with a gradient at 0."""
    return v.square().sum(-1, True).clamp(min=TINY**2).sqrt()


def from_origin(v: Tensor) -> Tensor:
    """Return the point, (..., d), at geodesic distance |v| from the origin along v: tanh(|v| / 2) v / |v|."""
    size = length(v)
    return inside((size / 2).tanh() * v / size)


def to_origin(z: Tensor) -> Tensor:
    """Return the v whose :func:`from_origin` is ``z``, (..., d)."""
    size = length(inside(z))
    return 2 * size.atanh() * z / length(z)


@final
class PoincareNormal(Distribution):
    r"""z = mu + exp(v) with v ~ N(0, diag sigma^2), where exp goes from the origin along v as far as v is long.

    log p(z) = log N(v; 0, sigma^2) - (d - 1) log(sinh(r) / r) + d log lambda(z),  r = |v| = d(mu, z),

    a density in nats with respect to the Lebesgue measure of the ball, like every other density here. The unit of v is
    the geodesic distance; sigma of all dimensions equal makes it isotropic around mu.

    Reference: Continuous Hierarchical Representations with Poincare Variational Auto-Encoders, Mathieu et al., 2019,
    https://arxiv.org/abs/1901.06033; A Wrapped Normal Distribution on Hyperbolic Space, Nagano et al., 2019,
    https://arxiv.org/abs/1902.02992.

    Args:
        mean: mu, (*batch, d), inside the unit ball.
        scale: sigma, broadcastable to it.

    >>> PoincareNormal(torch.zeros(4, 2), torch.ones(2)).rsample((3,)).shape
    torch.Size([3, 4, 2])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        shape = torch.broadcast_shapes(mean.shape, scale.shape)  # type: ignore[no-untyped-call]
        self.centre, self.scale = mean.expand(shape), scale.expand(shape)
        super().__init__(self.centre.shape[:-1], self.centre.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """mu: the Frechet mean, of which the squared distance is least in expectation."""
        return self.centre

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - immutable
        """Return draws, (*sample_shape, *batch, d), inside the ball."""
        shape = torch.Size(sample_shape) + self.centre.shape
        noise = torch.randn(shape, device=self.centre.device, dtype=self.centre.dtype)
        return inside(add(self.centre, from_origin(self.scale * noise)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), nats, for z of (..., *batch, d)."""
        z = inside(value)
        v = to_origin(add(-self.centre, z))
        normal = -0.5 * (v / self.scale).square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        d, r = z.shape[-1], length(v).squeeze(-1)
        volume = -(1 - z.square().sum(-1)).log()  # log of lambda / 2
        found: Tensor = normal.sum(-1) - (d - 1) * log_sinh_ratio(r) + d * (volume + math.log(2))
        return found

    def tempered(self, temperature: float) -> PoincareNormal:
        """Return the distribution with sigma times ``temperature``."""
        return PoincareNormal(self.centre, self.scale * max(temperature, TINY))


def log_sinh_ratio(r: Tensor) -> Tensor:
    """Return log(sinh(r) / r) for r >= 0; r^2 / 6 near 0."""
    safe = r.clamp(min=1e-2)
    far = safe + torch.log(-torch.expm1(-2 * safe)) - math.log(2) - safe.log()
    return torch.where(r < 1e-2, r.square() / 6, far)
