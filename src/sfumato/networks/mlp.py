"""The multi-layer perceptron, plain and gated."""

from __future__ import annotations

import math
from typing import Literal, final

from torch import Tensor, nn

from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, Widths, register

Activation = Literal["relu", "silu", "gelu", "tanh", "elu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}


@final
@register("network")
class MLP(Network):
    r"""Fully connected layers from a tensor of any shape to a tensor of any shape.

    Each hidden layer is a(W h + b), or gated (W h + b) * sigmoid(V h + c). With no hidden layer it is one affine map.
    Hidden weights start normal with variance 2 / fan-in (Delving Deep into Rectifiers, He et al., 2015,
    https://arxiv.org/abs/1502.01852); torch's own start is so small that gated layers learned several times slower.

    Reference: Language Modeling with Gated Convolutional Networks, Dauphin et al., 2017,
    https://arxiv.org/abs/1612.08083 (the gate); VAE with a VampPrior, Tomczak and Welling, 2018,
    https://arxiv.org/abs/1705.07120 (gated 300-300 on MNIST).

    Args:
        in_shape: the shape of one input.
        out_shape: the shape of one output.
        hidden: the widths of the hidden layers.
        gated: multiply each hidden layer by a learned gate instead of applying ``activation``.
        activation: the non-linearity of the hidden layers that are not gated.
        activate_output: end with a hidden layer's non-linearity, for a trunk that heads sit on.

    Returns (call):
        (..., *out_shape), by default with no activation at the end.

    >>> import torch
    >>> MLP(in_shape=(1, 28, 28), out_shape=(40,), gated=True)(torch.zeros(2, 5, 1, 28, 28)).shape
    torch.Size([2, 5, 40])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Widths = (300, 300),
        gated: bool = False,
        activation: Activation = "relu",
        activate_output: bool = False,
    ) -> None:
        super().__init__(in_shape, out_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(in_shape)
        out = math.prod(out_shape)
        for size in (*hidden, out) if activate_output else hidden:
            layers.append(nn.Linear(width, 2 * size if gated else size))
            nn.init.kaiming_normal_(layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
            layers.append(nn.GLU() if gated else ACTIVATIONS[activation]())
            width = size
        self.layers = nn.Sequential(*layers, *([] if activate_output else [nn.Linear(width, out)]))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, size of out_shape)."""
        out: Tensor = self.layers(x)
        return out
