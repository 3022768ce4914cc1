"""The class number as an extra input of any network."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, Size, register


@final
@register("network")
class WithLabel(Network):
    """A network that sees the class: y as one-hot numbers (for images: constant planes) after its first axis.

    A network that takes everything in one row has no use for planes: give it the data's shape here, and it gets the
    data in one row with ``num_classes`` numbers at its end.

    A missing label (-1, or no ``y`` at all) is all zeros.

    Reference: Learning Structured Output Representation using Deep Conditional Generative Models, Sohn et al., 2015.

    Args:
        network: any network; the first axis of its ``in_shape`` has room for ``num_classes`` more entries.
        num_classes: the number of classes.
        in_shape: the shape of the data, for a network of ``in_shape`` (size of the data + num_classes,).

    Returns (call):
        (..., *network.out_shape).

    >>> from sfumato.networks import MLP
    >>> decoder = WithLabel(MLP(in_shape=(16 + 10,), out_shape=(1, 784)), num_classes=10)
    >>> decoder.in_shape
    (16,)
    >>> WithLabel(MLP(in_shape=(784 + 10,), out_shape=(16,)), num_classes=10, in_shape=(1, 28, 28)).in_shape
    (1, 28, 28)
    """

    sees_label: ClassVar[bool] = True

    def __init__(self, network: Network, num_classes: Size, in_shape: Shape | None = None) -> None:
        first, *rest = network.in_shape
        if first <= num_classes:
            raise UserError(
                f"WithLabel needs a network whose first axis has room for {num_classes} classes beside the data; "
                f"got in_shape={network.in_shape}. Build it with in_shape=(size + {num_classes}, ...)."
            )
        row = (first - num_classes, *rest)
        if in_shape is not None and row != (math.prod(in_shape),):
            raise UserError(
                f"WithLabel needs a network that takes {math.prod(in_shape)} numbers and {num_classes} classes in one "
                f"row; got in_shape={network.in_shape}. Build it with in_shape=({math.prod(in_shape) + num_classes},)."
            )
        super().__init__(in_shape or row, network.out_shape)
        self.network = network
        self.num_classes = num_classes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (..., batch, *in_shape) and (batch,) to (..., batch, *out_shape)."""
        dims = len(self.network.in_shape)
        if len(self.in_shape) > dims:
            x = x.flatten(x.ndim - len(self.in_shape))
        lead = x.shape[: x.ndim - dims]
        spatial = x.shape[x.ndim - dims + 1 :]
        if y is None:
            planes = x.new_zeros(()).expand(*lead, self.num_classes, *spatial)
        else:
            known = (y >= 0).to(x.dtype).unsqueeze(-1)
            one_hot = F.one_hot(y.clamp(min=0), self.num_classes).to(x.dtype) * known
            planes = one_hot.reshape(*one_hot.shape, *[1] * len(spatial)).expand(*lead, self.num_classes, *spatial)
        out: Tensor = self.network(torch.cat([x, planes], dim=x.ndim - dims))
        return out

    def compute(self, x: Tensor) -> Tensor:
        """Map inputs without labels."""
        return self.forward(x)
