r"""A network that pays for its slope and for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp

from sfumato.core.interfaces import Network
from sfumato.core.spec import NonNegative, register


@final
@register("network")
class Penalised(Network):
    r"""A decoder g with the penalties a |dg/dz|^2 + b |weights|^2, which every bound adds to its loss.

    The square of the Jacobian, summed over all its entries, is estimated by |u^T dg/dz|^2 with u from N(0, I), without
    bias, at the cost of one pass backward.

    Reference: From Variational to Deterministic Autoencoders, Ghosh et al., 2020, https://arxiv.org/abs/1903.12436
    (RAE-GP and RAE-L2); the estimate: Hutchinson, 1989.

    Args:
        network: g.
        gradient: a, nats for each squared unit of output per unit of z.
        weights: b, nats for each squared weight, per example.

    Returns (call):
        what ``network`` returns.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> decoder = Penalised(MLP((2,), (3,)), gradient=0.1)
    >>> decoder.penalties(torch.zeros(5, 4, 2))["decoder_gradient"].shape
    torch.Size([4])
    """

    def __init__(self, network: Network, gradient: NonNegative = 0.0, weights: NonNegative = 0.0) -> None:
        super().__init__(network.in_shape, network.out_shape)
        self.network, self.gradient, self.weights = network, gradient, weights
        self.sees_label = network.sees_label  # type: ignore[misc]
        self.num_classes = getattr(network, "num_classes", 0)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (..., *in_shape) to (..., *out_shape)."""
        out: Tensor = self.network(x, y)
        return out

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, *out_shape)."""
        out: Tensor = self.network(x)
        return out

    def penalties(
        self, z: Float[Tensor, "samples batch ..."], y: Tensor | None = None
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """Return ``decoder_gradient``, averaged over the samples, and ``decoder_weights``, those that have a weight."""
        found: dict[str, Tensor] = {}
        if self.gradient:
            out, pull = vjp(lambda points: self.network(points, y), z)  # type: ignore[misc]
            (slope,) = pull(torch.randn_like(out))
            found["decoder_gradient"] = self.gradient * slope.square().flatten(2).sum(-1).mean(0)
        if self.weights:
            squares = torch.stack([parameter.square().sum() for parameter in self.network.parameters()]).sum()
            found["decoder_weights"] = (self.weights * squares).expand(z.shape[1])
        return found
