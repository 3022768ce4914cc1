r"""A distribution of z that is known together with a momentum only."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from sfumato.core.errors import UserError
from sfumato.core.numerics import sum_event

Dynamics = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | float]]


@final
class WithMomentum(Distribution):
    r"""(z, r) = Phi(z_0, r_0) with z_0 ~ q_0 and r_0 ~ N(0, I), for invertible dynamics Phi.

    The density of z alone is an integral over r. What bounds need is a ratio of densities of (z, r), under this and
    under p(x, z) N(r; 0, I), so that at draws of its own

        log q(z) := log q_0(z_0) + log N(r_0; 0, I) - log N(r; 0, I) - log|det Phi'(z_0, r_0)|,

    which is not a function of z. Reference: Hamiltonian Variational Auto-Encoder, Caterini et al., 2018,
    https://arxiv.org/abs/1805.11328.

    Args:
        base: q_0, of batch shape (batch,).
        dynamics: Phi, on tensors (..., batch, *event); its third result is log|det Phi'|, (..., batch), or 0 for
            dynamics that keep volumes.

    ``log_prob`` takes what :meth:`carried` returned, and nothing else.

    >>> from torch.distributions import Independent, Normal
    >>> turn = lambda z, r: (r, -z, 0.0)
    >>> q = WithMomentum(Independent(Normal(torch.zeros(2, 1), 1.0), 1), turn)
    >>> z, same = q.carried(q.noise((3,)))
    >>> same.log_prob(z).shape
    torch.Size([3, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, base: Distribution, dynamics: Dynamics) -> None:
        self.base, self.dynamics = base, dynamics
        self.known: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Where the mean of the base goes when it starts at rest, (*batch, *event): its centre, not its mean."""
        return self.dynamics(self.base.mean, torch.zeros_like(self.base.mean))[0]

    def noise(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Return draws of (z_0, r_0), (*sample_shape, *batch, 2, *event)."""
        place: Tensor = self.base.rsample(torch.Size(sample_shape))
        return torch.stack([place, torch.randn_like(place)], place.ndim - len(self.event_shape))

    def carried(self, noise: Tensor) -> tuple[Tensor, WithMomentum]:
        """Return z, and this distribution with log q(z) of these z known."""
        dims = len(self.event_shape)
        place, momentum = noise.unbind(noise.ndim - dims - 1)
        z, last, volume = self.dynamics(place, momentum)
        same = copy.copy(self)
        same.known = z, self.base.log_prob(place) + _log_normal(momentum, dims) - _log_normal(last, dims) - volume
        return z, same

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of z, (*sample_shape, *batch, *event)."""
        return self.carried(self.noise(tuple(sample_shape)))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z) of draws of its own.

        Raises:
            UserError: they are others.
        """
        if self.known is None or value is not self.known[0]:
            raise UserError(
                "a Hamiltonian posterior knows its density together with the momentum, at its own draws alone; this "
                "needs it at other z. Use the ELBO or the importance bound, or DiagonalGaussian."
            )
        return self.known[1]


def _log_normal(momentum: Tensor, dims: int) -> Tensor:
    return sum_event(-0.5 * momentum.square() - 0.5 * math.log(2 * math.pi), dims)
