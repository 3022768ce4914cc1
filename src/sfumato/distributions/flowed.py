r"""What an invertible map makes of a distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

from sfumato.core.gaussians import as_normal

Map = Callable[[Tensor], tuple[Tensor, Tensor]]


@final
class Flowed(Distribution):
    r"""z = g(u) with u from the base: log p(z) = log p_0(u) - log|det dg/du|, u = g^-1(z).

    Reference: Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015,
    https://arxiv.org/abs/1505.05770.

    Args:
        base: p_0, of batch shape (batch,) or (), event shape (d,).
        there: g, u to (z, log|det dg/du|).
        back: its inverse, z to (u, log|det du/dz|). It may be slow: draws of its own need it not (:meth:`carried`).

    ``log_prob`` takes (..., batch, d) and returns nats, (..., batch).

    >>> twice = lambda u: (2 * u, torch.full(u.shape[:-1], 0.6931472))
    >>> half = lambda z: (z / 2, torch.full(z.shape[:-1], -0.6931472))
    >>> wide = Flowed(Independent(Normal(torch.zeros(1), 1.0), 1), twice, half)
    >>> wide.log_prob(torch.zeros(1))
    tensor(-1.6121)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, base: Distribution, there: Map, back: Map) -> None:
        self.base, self.there, self.back = base, there, back
        self.known: tuple[Tensor, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Where g sends the mean of the base, (*batch, d): its centre, and its mean only if g is affine."""
        return self.there(self.base.mean)[0]

    def noise(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Return draws of u, (*sample_shape, *batch, d), with gradients."""
        found: Tensor = self.base.rsample(torch.Size(sample_shape))
        return found

    def carried(self, noise: Tensor) -> tuple[Tensor, Flowed]:
        """Return z = g(u), and this distribution with log p(z) of these z known, so that they need not go back."""
        z, log_slope = self.there(noise)
        same = copy.copy(self)
        same.known = z, self.base.log_prob(noise) - log_slope
        return z, same

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws, (*sample_shape, *batch, d)."""
        return self.there(self.noise(tuple(sample_shape)))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        if self.known is not None and value is self.known[0]:
            return self.known[1]
        noise, log_slope = self.back(value)
        return self.base.log_prob(noise) + log_slope

    def tempered(self, temperature: float) -> Flowed:
        """Return what g makes of the base with its deviation multiplied by ``temperature``."""
        normal = as_normal(self.base)
        if normal is None:
            raise NotImplementedError("only a normal base has a temperature")
        cold = Normal(normal.loc, normal.scale * temperature, validate_args=False)
        return Flowed(Independent(cold, len(self.event_shape), validate_args=False), self.there, self.back)
