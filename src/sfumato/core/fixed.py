"""A distribution whose parameters are constants for the gradient, so that it flows through the value alone."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal

PLAIN = (str, int, float, type(None), tuple)  # what a distribution may hold beside tensors


def fixed(distribution: Distribution) -> Distribution:
    """Return the same distribution with constant parameters.

    >>> import torch
    >>> mean = torch.zeros(2, requires_grad=True)
    >>> fixed(Normal(mean, 1.0)).log_prob(torch.ones(2)).requires_grad
    False

    Raises:
        UserError: it holds a network, whose weights cannot be held fast here.
    """
    normal = as_normal(distribution)
    if normal is not None:
        same: Distribution = Normal(normal.loc.detach(), normal.scale.detach(), validate_args=False)
        dims = len(distribution.event_shape)
        return Independent(same, dims, validate_args=False) if isinstance(distribution, Independent) else same
    found = copy.copy(distribution)
    found.__dict__ = {name: _constant(value, distribution) for name, value in vars(distribution).items()}
    return found


def _constant(value: Any, owner: Distribution) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Distribution):
        return fixed(value)
    if isinstance(value, PLAIN):
        return value
    raise UserError(
        f"the gradient that holds the posterior fast needs one that is made of plain numbers; {type(owner).__name__} "
        "is not. Use DiagonalGaussian, or the plain gradient."
    )
