r"""A logistic distribution cut into bins: exact masses for 8-bit values."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from sfumato.core.numerics import sum_event


@final
class DiscretizedLogistic(Distribution):
    r"""Masses of the levels k / (levels - 1), k = 0 ... levels - 1, under a logistic with the given location and scale.

    P(k) = sigmoid((x + h - mu) / s) - sigmoid((x - h - mu) / s) with the half bin h = 1 / (2 (levels - 1)); the first
    bin reaches down to minus infinity and the last up to plus infinity, so the masses add up to one exactly.

    Reference: Improving Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016,
    https://arxiv.org/abs/1606.04934; PixelCNN++, Salimans et al., 2017, https://arxiv.org/abs/1701.05517.

    Args:
        loc: mu, (*batch, *event), in the scale of x, where the levels span [0, 1].
        log_scale: log s, of the same shape.
        levels: the number of levels.
        event_dims: how many of the last dimensions are one event.

    ``log_prob`` returns nats (*batch), the logarithm of a mass (never above 0), summed over the event.

    >>> coin = DiscretizedLogistic(torch.tensor([0.5]), torch.tensor([0.0]), levels=2)
    >>> coin.log_prob(torch.tensor([1.0])).exp()
    tensor(0.5000)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int = 256, event_dims: int = 1) -> None:
        self.loc, self.log_scale, self.levels, self.event_dims = loc, log_scale, levels, event_dims
        split = loc.ndim - event_dims
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``, whose entries are k / (levels - 1)."""
        half = 0.5 / (self.levels - 1)
        inverse = (-self.log_scale).exp()
        centred = value - self.loc
        upper, lower = (centred + half) * inverse, (centred - half) * inverse
        first, last = value < half, value > 1 - half
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), in logarithms and without cancellation.
        width = 2 * half * inverse
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + log1mexp(width)
        edges = torch.where(first, F.logsigmoid(upper), F.logsigmoid(-lower))
        return sum_event(torch.where(first | last, edges, inside), self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The location, clipped to [0, 1]: where the mass is centred (the bins' exact mean differs at the edges)."""
        return self.loc.clamp(0, 1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return levels in [0, 1], (*sample_shape, *batch, *event)."""
        with torch.no_grad():
            shape = (*sample_shape, *self.loc.shape)
            u = torch.rand(shape, device=self.loc.device, dtype=self.loc.dtype).clamp(1e-7, 1 - 1e-7)
            draw = self.loc + self.log_scale.exp() * (u.log() - (-u).log1p())
            steps = self.levels - 1
            return (draw * steps).round().clamp(0, steps) / steps


def log1mexp(width: Tensor) -> Tensor:
    """Return log(1 - exp(-width)) for width > 0, exact for small and for large ``width``."""
    small = width < math.log(2)
    near = torch.log(-torch.expm1(-torch.where(small, width, 1.0)))
    far = torch.log1p(-torch.exp(-torch.where(small, 1.0, width)))
    return torch.where(small, near, far)
