"""Residual convolutional networks for images of any height, width and number of channels.

Sizes are halved, rounding up, once for each further width; the decoder goes through the same sizes backwards, so every
image comes back at exactly its own size. There is no normalisation layer, so no statistics of the batch: the last
convolution of each block starts at zero instead (Fixup Initialization, Zhang et al., 2019,
https://arxiv.org/abs/1901.09321).
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, Size, Widths, register


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), 3x3, the same number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + change


def halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Return the sizes from the image down: [(h, w), (ceil(h / 2), ceil(w / 2)), ...], ``times`` halvings."""
    sizes = [(height, width)]
    for _ in range(times):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        sizes.append((height, width))
    return sizes


def image_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """Return ``shape`` as (channels, height, width) or raise UserError."""
    if len(shape) < 3:
        raise UserError(f"{name} needs images, (channels, height, width); got shape {shape}. Use MLP for vectors.")
    return math.prod(shape[:-2]), shape[-2], shape[-1]


@final
@register("network")
class ConvEncoder(Network):
    """Image to vector: a residual block at each size, a strided convolution between sizes, one affine map at the end.

    Reference: Deep Residual Learning, He et al., 2016, https://arxiv.org/abs/1512.03385.

    Args:
        in_shape: (channels, height, width); axes before the channels count as channels.
        out_shape: the shape of one output.
        widths: channels at each size, from the image down.
        blocks: residual blocks at each size.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> ConvEncoder(in_shape=(3, 17, 9), out_shape=(8,), widths=(4, 8))(torch.zeros(2, 3, 17, 9)).shape
    torch.Size([2, 8])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, widths: Widths = (32, 64, 128), blocks: Size = 1) -> None:
        super().__init__(in_shape, out_shape)
        channels, height, width = image_shape(in_shape, "ConvEncoder")
        last = halved(height, width, len(widths))[-1]
        layers: list[nn.Module] = []
        for size in widths:
            layers.append(nn.Conv2d(channels, size, 3, stride=2, padding=1))
            layers.extend(ResidualBlock(size) for _ in range(blocks))
            channels = size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels * math.prod(last), math.prod(out_shape))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, size of out_shape)."""
        out: Tensor = self.head(F.silu(self.layers(x.flatten(1, -3))).flatten(1))
        return out


@final
@register("network")
class ConvDecoder(Network):
    """Vector to image: one affine map, then at each size a doubling, a convolution and residual blocks.

    Reference: Deep Residual Learning, He et al., 2016, https://arxiv.org/abs/1512.03385; nearest-neighbour doubling
    before a convolution: Deconvolution and Checkerboard Artifacts, Odena et al., 2016.

    Args:
        in_shape: the shape of one input.
        out_shape: (numbers per value, channels, height, width), what the likelihood asks for.
        widths: channels at each size, from the image down (the same order as the encoder's).
        blocks: residual blocks at each size.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> ConvDecoder(in_shape=(8,), out_shape=(2, 3, 17, 9), widths=(4, 8))(torch.zeros(5, 2, 8)).shape
    torch.Size([5, 2, 2, 3, 17, 9])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, widths: Widths = (32, 64, 128), blocks: Size = 1) -> None:
        super().__init__(in_shape, out_shape)
        channels, height, width = image_shape(out_shape, "ConvDecoder")
        if not widths:
            raise UserError("ConvDecoder needs at least one width; got none. Use widths=(32,).")
        self.sizes = halved(height, width, len(widths))[::-1]
        down = list(widths)[::-1]
        self.start = (down[0], *self.sizes[0])
        self.stem = nn.Linear(math.prod(in_shape), math.prod(self.start))
        self.stages = nn.ModuleList()
        for above, below in zip(down, [*down[1:], down[-1]], strict=True):
            residual = [ResidualBlock(above) for _ in range(blocks)]
            self.stages.append(nn.Sequential(*residual, nn.SiLU(), nn.Conv2d(above, below, 3, padding=1)))
        self.head = nn.Conv2d(down[-1], channels, 3, padding=1)

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, channels, height, width)."""
        h: Tensor = self.stem(x.flatten(1)).reshape(-1, *self.start)
        for stage, size in zip(self.stages, self.sizes[1:], strict=True):
            h = F.interpolate(stage(h), size=size, mode="nearest")
        out: Tensor = self.head(F.silu(h))
        return out
