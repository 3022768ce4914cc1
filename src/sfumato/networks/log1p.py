"""Counts as a network likes them."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, register


@final
@register("network")
class Log1p(Network):
    """f(x) = log(1 + x) of counts: what the encoder sees, while the likelihood scores the counts themselves.

    A missing value, NaN, stays one. Nothing is learned.

    Reference: Deep generative modeling for single-cell transcriptomics, Lopez et al., 2018,
    https://doi.org/10.1038/s41592-018-0229-2 (``log_variational``).

    Args:
        in_shape: the shape of one example.

    Returns (call):
        (..., *in_shape).

    >>> import torch
    >>> Log1p((2,))(torch.tensor([0.0, 9.0]))
    tensor([0.0000, 2.3026])
    """

    def __init__(self, in_shape: Shape) -> None:
        super().__init__(in_shape, in_shape)

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to the same shape."""
        return x.clamp(min=0).log1p()
