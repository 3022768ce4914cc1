"""What objectives that train a network against the model share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network


def one_number(network: Network, name: str) -> Network:
    """Return ``network``, or raise UserError where it does not give one number."""
    if network.out_shape != (1,):
        raise UserError(
            f"{name} needs a network with one output, out_shape=(1,); got {network.out_shape}. Build it so."
        )
    return network


def logits(network: Network, rows: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Return log D / (1 - D) for every row."""
    found: Tensor = network(rows)
    return found.squeeze(-1)


def told_apart(real: Float[Tensor, " batch"], made: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Return -log D(real) - log(1 - D(made)) from the logits, nats: what the network minimises."""
    return F.softplus(-real) + F.softplus(made)
