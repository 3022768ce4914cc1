r"""The networks of latent diffusion's first stage: images to a grid of latent vectors and back.

An image of (C, H, W) becomes a grid of (c, H / f, W / f), f = 2^(sizes - 1): at each size some residual blocks

    x + conv(silu(norm(conv(silu(norm(x)))))),   norm = GroupNorm,

where asked for each followed by attention over all places, x + softmax(q k^T / sqrt(d)) v; then one more block,
attention and block at the smallest size. The decoder goes back with nearest-neighbour doubling. Parameters have the
names and shapes of diffusers' ``AutoencoderKL``, so that weights go either way as they are.

In sfumato z lies in one row: a grid is reshaped, channels first, and ``grid`` of the networks is its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Length, Positive, Range, Real, Shape, Size, register
from sfumato.networks.convolution import image_shape

EPSILON = 1e-6
Activation = Literal["silu", "mish", "gelu", "relu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}
Flags = Annotated[tuple[bool, ...], Length(16)]
Stages = Annotated[tuple[Size, ...], Length(16)]
Layers = Annotated[int, Range(1, 64)]


class Residual(nn.Module):
    """x + conv(a(norm(conv(a(norm(x)))))), 3x3; where the number of channels changes, W x in the place of x."""

    def __init__(self, channels: int, out: int, groups: int, activation: str) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, EPSILON)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, EPSILON)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None
        self.nonlinearity = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to (batch, out, h, w)."""
        change: Tensor = self.conv1(self.nonlinearity(self.norm1(x)))
        change = self.conv2(self.nonlinearity(self.norm2(change)))
        kept: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return kept + change


class Attention(nn.Module):
    """x + W softmax(q k^T / sqrt(channels)) v over all places, one head, on normalised x."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPSILON)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to the same shape."""
        places = self.group_norm(x).flatten(2).transpose(1, 2)
        query, key, value = (part(places).unsqueeze(1) for part in (self.to_q, self.to_k, self.to_v))
        seen = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        change: Tensor = self.to_out[0](seen)
        return x + change.transpose(1, 2).reshape(x.shape)


class Halving(nn.Module):
    """A 3x3 convolution of stride 2 after one row and column of zeros at the end: (h, w) to (h // 2, w // 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to (batch, channels, h // 2, w // 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Doubling(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to (batch, channels, 2 h, 2 w)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Stage(nn.Module):
    """The residual blocks of one size, with or without attention after each, and the way to the next size."""

    def __init__(
        self,
        channels: int,
        out: int,
        layers: int,
        groups: int,
        activation: str,
        attention: bool,
        move: Literal["down", "up"] | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            Residual(channels if number == 0 else out, out, groups, activation) for number in range(layers)
        )
        self.attentions = nn.ModuleList(Attention(out, groups) for _ in range(layers)) if attention else None
        self.downsamplers = nn.ModuleList([Halving(out)]) if move == "down" else None
        self.upsamplers = nn.ModuleList([Doubling(out)]) if move == "up" else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to (batch, out, ...) of the next size."""
        for number, block in enumerate(self.resnets):
            x = block(x)
            if self.attentions is not None:
                x = self.attentions[number](x)
        for move in (self.downsamplers, self.upsamplers):
            x = x if move is None else move[0](x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the smallest size."""

    def __init__(self, channels: int, groups: int, activation: str, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Residual(channels, channels, groups, activation) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to the same shape."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


def grid_size(height: int, width: int, sizes: int) -> tuple[int, int]:
    """Return the height and width of the latent grid of images of a height and width.

    Raises:
        UserError: they cannot be halved as often as that.

    >>> grid_size(64, 48, sizes=4)
    (8, 6)
    """
    factor: int = 2 ** (sizes - 1)
    if height % factor or width % factor:
        raise UserError(
            f"the autoencoder halves images {sizes - 1} times, so it needs sides that are multiples of {factor}; got "
            f"{height}x{width}. Use --size {max(1, round(height / factor)) * factor}, or another --recipe."
        )
    return height // factor, width // factor


def check_blocks(name: str, widths: Sequence[int], attention: Sequence[bool], groups: int) -> tuple[bool, ...]:
    """Return ``attention`` at each size, without by default, or raise UserError where numbers do not go together."""
    if not widths:
        raise UserError(f"{name} needs at least one width; got none. Use widths=(32,).")
    if attention and len(attention) != len(widths):
        raise UserError(
            f"{name} needs one entry of attention for each of {len(widths)} widths; got {len(attention)}. Give as many."
        )
    odd = [width for width in widths if width % groups]
    if odd:
        raise UserError(
            f"{name} normalises in {groups} groups, so its widths must be multiples of {groups}; got {odd[0]}. "
            "Change groups or widths."
        )
    return tuple(attention) or (False,) * len(widths)


@final
@register("network")
class KLEncoder(Network):
    r"""Image to the moments of a grid of latent vectors: means, then log-variances; (C, H, W) to (2, c, H / f, W / f).

    Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
    https://arxiv.org/abs/2112.10752.

    Args:
        in_shape: (channels, height, width); height and width multiples of f = 2^(len(widths) - 1).
        out_shape: the moments, 2 c (H / f) (W / f) numbers: (2, latent_dim), or (2, c, H / f, W / f).
        widths: channels at each size, from the image down; multiples of ``groups``.
        layers: residual blocks at each size.
        attention: whether each residual block of a size is followed by attention, one entry a size; none by default.
        middle_attention: attention at the smallest size.
        groups: of the group normalisation.
        activation: of the residual blocks.
        mix: end with a 1x1 convolution over the moments (diffusers' ``quant_conv``).
        centre: what is subtracted from x at first, and
        scale: what it is then divided by: they bring x to [-1, 1].

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> encoder = KLEncoder((3, 16, 8), (2, 4 * 8 * 4), widths=(8, 16), groups=8)
    >>> encoder(torch.zeros(5, 3, 16, 8)).shape, encoder.grid
    (torch.Size([5, 2, 128]), (4, 8, 4))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        widths: Stages = (32, 64, 64),
        layers: Layers = 1,
        attention: Flags = (),
        middle_attention: bool = True,
        groups: Size = 8,
        activation: Activation = "silu",
        mix: bool = True,
        centre: Real = 0.0,
        scale: Positive = 1.0,
    ) -> None:
        super().__init__(in_shape, out_shape)
        channels, height, width = image_shape(in_shape, "KLEncoder")
        attention = check_blocks("KLEncoder", widths, attention, groups)
        self.grid = _grid("KLEncoder", math.prod(out_shape), 2, grid_size(height, width, len(widths)))
        self.factor = 2 ** (len(widths) - 1)
        self.centre, self.scale = centre, scale
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        before = (widths[0], *widths)
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            Stage(before[i], out, layers, groups, activation, attention[i], "down" if i < last else None)
            for i, out in enumerate(widths)
        )
        self.mid_block = Middle(widths[-1], groups, activation, middle_attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 2 * self.grid[0], 3, padding=1)
        self.quant_conv = nn.Conv2d(2 * self.grid[0], 2 * self.grid[0], 1) if mix else None

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *channels, height, width), of any such size, to (batch, 2 c, height / f, width / f)."""
        h = self.conv_in((x.flatten(1, -3) - self.centre) / self.scale)
        for stage in self.down_blocks:
            h = stage(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))
        return out if self.quant_conv is None else self.quant_conv(out)


@final
@register("network")
class KLDecoder(Network):
    r"""A grid of latent vectors to an image: (c, H / f, W / f) to (numbers per value, C, H, W).

    Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
    https://arxiv.org/abs/2112.10752.

    Args:
        in_shape: the grid, c (H / f) (W / f) numbers: (latent_dim,), or (c, H / f, W / f).
        out_shape: (numbers per value, channels, height, width), what the likelihood asks for.
        widths: channels at each size, from the image down (the same order as the encoder's).
        layers: residual blocks at each size, as in the encoder: the decoder has one more.
        attention: one entry a size, from the image down; see :class:`KLEncoder`.
        middle_attention: attention at the smallest size.
        groups: of the group normalisation.
        activation: of the residual blocks.
        mix: begin with a 1x1 convolution (diffusers' ``post_quant_conv``).
        scale: what the result, which lies about [-1, 1], is multiplied by.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> decoder = KLDecoder((4 * 8 * 4,), (1, 3, 16, 8), widths=(8, 16), groups=8)
    >>> decoder(torch.zeros(5, 128)).shape, decoder.grid
    (torch.Size([5, 1, 3, 16, 8]), (4, 8, 4))
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        widths: Stages = (32, 64, 64),
        layers: Layers = 1,
        attention: Flags = (),
        middle_attention: bool = True,
        groups: Size = 8,
        activation: Activation = "silu",
        mix: bool = True,
        scale: Positive = 1.0,
    ) -> None:
        super().__init__(in_shape, out_shape)
        channels, height, width = image_shape(out_shape, "KLDecoder")
        attention = check_blocks("KLDecoder", widths, attention, groups)
        self.grid = _grid("KLDecoder", math.prod(in_shape), 1, grid_size(height, width, len(widths)))
        self.factor = 2 ** (len(widths) - 1)
        self.scale = scale
        self.post_quant_conv = nn.Conv2d(self.grid[0], self.grid[0], 1) if mix else None
        self.conv_in = nn.Conv2d(self.grid[0], widths[-1], 3, padding=1)
        self.mid_block = Middle(widths[-1], groups, activation, middle_attention)
        up = list(reversed(list(zip(widths, attention, strict=True))))
        before = [up[0][0], *[out for out, _ in up]]
        last = len(up) - 1
        self.up_blocks = nn.ModuleList(
            Stage(before[i], out, layers + 1, groups, activation, attends, "up" if i < last else None)
            for i, (out, attends) in enumerate(up)
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], EPSILON)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, numbers per value * channels, height, width)."""
        return self.picture(x.reshape(-1, *self.grid))

    def picture(self, grid: Tensor) -> Tensor:
        """Map (batch, c, h, w), of any height and width, to (batch, numbers per value * channels, f h, f w)."""
        h = grid if self.post_quant_conv is None else self.post_quant_conv(grid)
        h = self.mid_block(self.conv_in(h))
        for stage in self.up_blocks:
            h = stage(h)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out * self.scale


def _grid(name: str, numbers: int, parts: int, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the latent grid (channels, height, width) that has ``numbers`` / ``parts`` numbers."""
    channels, rest = divmod(numbers, parts * size[0] * size[1])
    if rest or not channels:
        places = size[0] * size[1]
        raise UserError(
            f"{name} has a grid of {size[0]}x{size[1]} latent vectors, so the latent size must be a multiple of "
            f"{places}; got {numbers / parts:g}. Use --latent-dim {max(1, round(numbers / parts / places)) * places}."
        )
    return channels, size[0], size[1]
