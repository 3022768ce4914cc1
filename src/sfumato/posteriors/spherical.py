r"""What posteriors around a direction share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.numerics import soft_bound

LOG_BOUNDS = (-6.0, 12.0)
SPHERE = "on the unit sphere"


def latent_shape_of(numbers: Network, who: str) -> tuple[int, ...]:
    """Return the shape of z, (d,), for a network that gives d + 1 numbers.

    Raises:
        UserError: it gives something else.
    """
    if len(numbers.out_shape) != 1 or numbers.out_shape[0] < 3:
        raise UserError(
            f"{who} needs a network that gives a direction and a concentration, out_shape (latent_dim + 1,) with "
            f"latent_dim at least 2; got {numbers.out_shape}. Build it like that."
        )
    return (numbers.out_shape[0] - 1,)


def direction_and_concentration(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return mu, of unit length, and kappa in [0.0025, 1.6e5], of what a network gave, (..., d + 1)."""
    wide = found[..., :-1]
    # a direction that is nothing is the first axis: its own length says how little it is worth
    first = torch.zeros_like(wide)
    first[..., 0] = 1e-6
    return F.normalize(wide + first, dim=-1), soft_bound(found[..., -1], *LOG_BOUNDS).exp()
