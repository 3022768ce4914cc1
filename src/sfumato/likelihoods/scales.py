"""Where the scale of a likelihood comes from: what those of real data share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sfumato.core.numerics import soft_bound

Source = Literal["shared", "per_dimension", "predicted"]
LOG_SCALE_BOUNDS = (-7.0, 7.0)


def start_of(source: Source, shape: tuple[int, ...], scale: float) -> nn.Parameter:
    """Return log s at the start: one number for each dimension with ``per_dimension``, else one for all."""
    return nn.Parameter(torch.full(shape if source == "per_dimension" else (), math.log(scale)))


def location_and_scale(parameters: Tensor, log_scale: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Return location and scale, (..., *shape).

    Args:
        parameters: (..., 1 or 2, *shape): the location, and with ``predicted`` what is added to ``log_scale``.
        log_scale: learned, () or (*shape).
        dims: of the shape.
    """
    location, *rest = parameters.unbind(-dims - 1)
    bounded = soft_bound(rest[0] + log_scale if rest else log_scale, *LOG_SCALE_BOUNDS)
    return location, bounded.exp().expand_as(location)
