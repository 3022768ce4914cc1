"""Ladders of convolutions: z has a map of channels at each size of the image, and a vector at the top."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, final

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.spec import Count, Length, Shape, Size, Widths, register
from sfumato.networks.convolution import ResidualBlock, halved, image_shape
from sfumato.networks.ladder.paths import BottomUp, Rung, TopDown, as_numbers, shrink_for, started, wide

Counts = Annotated[tuple[Count, ...], Length(256)]


def one(channels: int, out: int) -> nn.Module:
    """Return a convolution of each place by itself."""
    return nn.Conv2d(channels, out, 1)


def near(channels: int, out: int) -> nn.Module:
    """Return a convolution of each place with its neighbours."""
    return nn.Conv2d(channels, out, 3, padding=1)


def refuse_sizes(name: str, widths: tuple[int, ...], levels: tuple[int, ...]) -> None:
    """Raise UserError unless there is a number of levels for each size."""
    if not widths or len(widths) != len(levels):
        raise UserError(
            f"{name} needs a width and a number of levels for each size of the image, from the image down; got "
            f"{len(widths)} widths and {len(levels)} numbers of levels. Give as many of both."
        )


@final
@register("bottom_up")
class ConvBottomUp(BottomUp):
    r"""At each size a strided convolution, then for each level g <- g + conv(silu(conv(silu(g)))) and f_l = U_l g.

    Reference: Very Deep VAEs, Child, 2021, https://arxiv.org/abs/2011.10650.

    Args:
        in_shape: (channels, height, width).
        widths: channels at each size, from the image down; sizes are halved once for each.
        levels: the number of levels at each size, from the image down; one more, a vector, is above all of them.
        hidden: half the number of channels of each level's features.

    Returns (call):
        the features of each level, top first: (batch, 2 hidden) and (batch, 2 hidden, height, width).

    >>> import torch
    >>> [f.shape[1:] for f in ConvBottomUp((3, 9, 6), (8, 16), (1, 1), hidden=4)(torch.zeros(5, 3, 9, 6))]
    [torch.Size([8]), torch.Size([8, 3, 2]), torch.Size([8, 5, 3])]
    """

    def __init__(self, in_shape: Shape, widths: Widths = (32, 64), levels: Counts = (1, 2), hidden: Size = 32) -> None:
        refuse_sizes("ConvBottomUp", widths, levels)
        channels, height, width = image_shape(in_shape, "ConvBottomUp")
        sizes = halved(height, width, len(widths))[1:]
        maps = [(2 * hidden, *size) for size, count in zip(sizes, levels, strict=True) for _ in range(count)]
        super().__init__(in_shape, ((2 * hidden,), *maps[::-1]))
        self.downs, self.blocks, self.outs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.levels = levels
        for size, count in zip(widths, levels, strict=True):
            self.downs.append(started(nn.Conv2d(channels, size, 3, stride=2, padding=1), 1.0))
            self.blocks.extend(ResidualBlock(size) for _ in range(count))
            self.outs.extend(started(one(size, 2 * hidden), 1.0) for _ in range(count))
            channels = size
        self.top = started(nn.Linear(channels * math.prod(sizes[-1]), 2 * hidden), 1.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (batch, channels, height, width) to the features."""
        state, found, number = x.flatten(1, -3), [], 0
        for down, count in zip(self.downs, self.levels, strict=True):
            state = down(state)
            for _ in range(count):
                state = self.blocks[number](state)
                found.append(self.outs[number](F.silu(state)))
                number += 1
        found.append(self.top(F.silu(state).flatten(1)))
        return found[::-1]


@final
@register("top_down")
class ConvTopDown(TopDown):
    r"""A vector z_1 makes the smallest map; each level adds to the map at its size; sizes are doubled in between.

    The last doubling, to the image, is a convolution with four channels for each of the image's (Real-Time Single Image
    and Video Super-Resolution, Shi et al., 2016, https://arxiv.org/abs/1609.05158).

    Reference: Very Deep VAEs, Child, 2021, https://arxiv.org/abs/2011.10650; NVAE, Vahdat and Kautz, 2020,
    https://arxiv.org/abs/2007.03898.

    Args:
        out_shape: (numbers per value, channels, height, width), what the likelihood asks for.
        latent_dim: dimensions of the vector at the top.
        latent_channels: channels of z at each place of every other level.
        widths: channels at each size, from the image down (the same order as the encoder's).
        levels: the number of levels at each size, from the image down.
        hidden: channels of each posterior's hidden layer; features have twice as many.

    >>> path = ConvTopDown((2, 3, 9, 6), latent_dim=4, latent_channels=2, widths=(8, 16), levels=(1, 1), hidden=4)
    >>> path.latent_shapes
    ((4,), (2, 3, 2), (2, 5, 3))
    """

    def __init__(
        self,
        out_shape: Shape,
        latent_dim: Size = 16,
        latent_channels: Size = 4,
        widths: Widths = (32, 64),
        levels: Counts = (1, 2),
        hidden: Size = 32,
    ) -> None:
        refuse_sizes("ConvTopDown", widths, levels)
        channels, height, width = image_shape(out_shape, "ConvTopDown")
        sizes = halved(height, width, len(widths))
        places = [index for index, count in reversed(list(enumerate(levels))) for _ in range(count)]
        maps = [sizes[index + 1] for index in places]
        super().__init__(
            ((latent_dim,), *((latent_channels, *size) for size in maps)),
            ((2 * hidden,), *((2 * hidden, *size) for size in maps)),
            out_shape,
        )
        self.sizes, self.start = sizes, (widths[-1], *sizes[-1])
        self.places = [len(widths) - 1, *places, 0]  # where the top begins, each level lies, and the image is made
        self.top = started(nn.Linear(hidden, 2 * latent_dim), 0.5)
        self.first = started(nn.Linear(latent_dim, 2 * math.prod(self.start)), 1.0)
        shrink = shrink_for(len(places))
        rungs = [Rung(one, near, widths[index], hidden, latent_channels, shrink) for index in places]
        self.rungs = nn.ModuleList(rungs)
        self.ups = nn.ModuleList(near(above, below) for below, above in itertools.pairwise(widths))
        self.last = started(near(widths[0], 2 * widths[0]), 1.0)
        self.out = near(widths[0], 4 * channels)
        self.gate = nn.GLU(1)

    def begin(self, z: Tensor) -> Tensor:
        """Return the smallest map."""
        state: Tensor = self.gate(self.first(z)).reshape(-1, *self.start)
        return self._grown(0, state)

    def prior(self, level: int, state: Tensor) -> Tensor:
        """Return (rows, 2, channels, height, width)."""
        return as_numbers(self.rungs[level - 1].prior(state), self.latent_shapes[level])  # type: ignore[operator]

    def posterior(self, level: int, state: Tensor | None, features: Tensor) -> Tensor:
        """Return (rows, 2, *latent_shape)."""
        if state is None:
            return as_numbers(self.top(self.gate(features)), self.latent_shapes[0])
        return as_numbers(self.rungs[level - 1].infer(state, features), self.latent_shapes[level])  # type: ignore[operator]

    def merge(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        """Return the next state, at the size of the next level."""
        return self._grown(level, self.rungs[level - 1].merge(state, z))  # type: ignore[operator]

    def finish(self, state: Tensor) -> Tensor:
        """Return (rows, *out_shape)."""
        height, width = self.sizes[0]
        out = F.pixel_shuffle(self.out(self.gate(self.last(state))), 2)[..., :height, :width]
        return wide(out).reshape(-1, *self.out_shape)

    def _grown(self, level: int, state: Tensor) -> Tensor:
        """Return the state after ``level`` at the size of the next one, or of the last map."""
        for index in range(self.places[level] - 1, self.places[level + 1] - 1, -1):
            state = self.ups[index](F.interpolate(state, size=self.sizes[index + 1], mode="nearest"))
        return state
