"""Invertible maps from the library zuko."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sfumato.core.errors import UserError
from sfumato.core.library import library

MOST = 10**8  # weights, in the widest pair of layers


def zuko_transform(family: str, who: str, dims: int, context: int = 0, **more: Any) -> Any:
    """Return the lazy transform of a flow: a module whose call, with features or none, returns a transform.

    zuko decides by the values of tensors while it builds, so it builds on the processor, whatever the default device;
    the weights are then moved there. That they are not too many is therefore checked before.

    Args:
        family: a class of ``zuko.flows``.
        who: needs it.
        dims: of z.
        context: how many features it depends on.
        more: what the class takes, ``transforms`` and ``hidden_features`` among it.

    Raises:
        UserError: zuko is not installed; the networks would be huge.
    """
    found = getattr(library("zuko.flows", "flows", who), family)
    hidden: Sequence[int] = more.get("hidden_features", ())
    widths = (dims + context, *hidden, 32 * dims)  # of splines 3 * 8 - 1 numbers a dimension
    weights = more.get("transforms", 1) * sum(a * b for a, b in itertools.pairwise(widths))
    if weights > MOST:
        raise UserError(
            f"{who} of {dims} dimensions with layers of {tuple(hidden)} has about {weights:,} weights; at most "
            f"{MOST:,} are allowed. Use fewer transforms, or narrower ones."
        )
    device = torch.get_default_device()
    with torch.device("cpu"):
        transform = found(features=dims, context=context, **more).transform
    return transform.to(device) if isinstance(transform, nn.Module) else transform
