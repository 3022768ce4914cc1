"""Residual convolutions for series of any length and number of channels.

Lengths are halved, rounding up, once for each width; the decoder goes through the same lengths backwards. As in
:mod:`sfumato.networks.convolution` nothing is normalised, and the last convolution of a block starts at zero.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, Size, Widths, register


class SeriesBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))) along the series, the second convolution ``dilation`` places apart."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, kernel, padding="same")
        self.second = nn.Conv1d(channels, channels, kernel, padding="same", dilation=dilation)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, length) to the same shape."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + change


def lengths(length: int, times: int) -> list[int]:
    """Return the lengths from the series down, ``times`` halvings."""
    return [math.ceil(length / 2**number) for number in range(times + 1)]


def series_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return ``shape`` as (channels, length) or raise UserError."""
    if len(shape) < 2:
        raise UserError(f"{name} needs series, (channels, length); got shape {shape}. Use MLP for vectors.")
    return math.prod(shape[:-1]), shape[-1]


@final
@register("network")
class SeriesEncoder(Network):
    """Series to vector: at each length a strided convolution and dilated residual blocks, one affine map at the end.

    Reference: WaveNet: A Generative Model for Raw Audio, van den Oord et al., 2016, https://arxiv.org/abs/1609.03499
    (dilation); An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling,
    al., 2018, https://arxiv.org/abs/1803.01271. Block k of a length looks 2^k places away.

    Args:
        in_shape: (channels, length); axes before the last count as channels.
        out_shape: the shape of one output.
        widths: channels at each length, from the series down.
        blocks: residual blocks at each length.
        kernel: places that a convolution looks at, odd.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> SeriesEncoder((2, 101), (8,), widths=(4, 8))(torch.zeros(5, 2, 101)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, widths: Widths = (32, 64, 128), blocks: Size = 2, kernel: Size = 3
    ) -> None:
        super().__init__(in_shape, out_shape)
        channels, length = series_shape(in_shape, "SeriesEncoder")
        layers: list[nn.Module] = []
        for size in widths:
            layers.append(nn.Conv1d(channels, size, 3, stride=2, padding=1))
            layers.extend(SeriesBlock(size, kernel, 2**number) for number in range(blocks))
            channels = size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels * lengths(length, len(widths))[-1], math.prod(out_shape))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, channels, length) to (batch, size of out_shape)."""
        out: Tensor = self.head(F.silu(self.layers(x.flatten(1, -2))).flatten(1))
        return out


@final
@register("network")
class SeriesDecoder(Network):
    """Vector to series: one affine map, then at each length residual blocks, a convolution and a doubling.

    Reference: An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling,
    Bai et al., 2018, https://arxiv.org/abs/1803.01271; nearest-neighbour doubling: Odena et al.,
    2016. Length l is ceil(n / 2^l).

    Args:
        in_shape: the shape of one input.
        out_shape: (numbers per value, channels, length), what the likelihood asks for.
        widths: channels at each length, from the series down (the same order as the encoder's).
        blocks: residual blocks at each length.
        kernel: places that a convolution looks at, odd.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> SeriesDecoder((8,), (1, 2, 101), widths=(4, 8))(torch.zeros(5, 8)).shape
    torch.Size([5, 1, 2, 101])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, widths: Widths = (32, 64, 128), blocks: Size = 2, kernel: Size = 3
    ) -> None:
        super().__init__(in_shape, out_shape)
        channels, length = series_shape(out_shape, "SeriesDecoder")
        if not widths:
            raise UserError("SeriesDecoder needs at least one width; got none. Use widths=(32,).")
        self.lengths = lengths(length, len(widths))[::-1]
        down = list(widths)[::-1]
        self.stem = nn.Linear(math.prod(in_shape), down[0] * self.lengths[0])
        self.stages = nn.ModuleList()
        for above, below in zip(down, [*down[1:], down[-1]], strict=True):
            residual = [SeriesBlock(above, kernel, 2**number) for number in range(blocks)]
            self.stages.append(nn.Sequential(*residual, nn.SiLU(), nn.Conv1d(above, below, 3, padding=1)))
        self.head = nn.Conv1d(down[-1], channels, 3, padding=1)

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, channels, length)."""
        h: Tensor = self.stem(x.flatten(1)).unflatten(1, (-1, self.lengths[0]))
        for stage, length in zip(self.stages, self.lengths[1:], strict=True):
            h = F.interpolate(stage(h), size=length, mode="nearest")
        out: Tensor = self.head(F.silu(h))
        return out
