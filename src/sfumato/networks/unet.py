"""Image to image, with the small sizes seen and the large ones kept."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Shape, Size, register
from sfumato.networks.autoencoder_kl import EPSILON, Attention, Residual, Stages, check_blocks
from sfumato.networks.convolution import halved, image_shape


@final
@register("network")
class UNet(Network):
    r"""U-shaped: h_l = r(down(h_{l-1})) to the smallest size, attention there, and u_{l-1} = r(up(u_l), h_{l-1}) back.

    r are residual blocks x + conv(silu(norm(conv(silu(norm(x)))))); the state of every size on the way down joins the
    one on the way up. Sizes are halved rounding up, so images of any size come back at their own.

    Reference: U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger et al., 2015,
    https://arxiv.org/abs/1505.04597; residual blocks and attention: Denoising Diffusion Probabilistic Models, Ho et
    al., 2020, https://arxiv.org/abs/2006.11239.

    Args:
        in_shape: (channels, height, width); axes before the channels count as channels.
        out_shape: (channels, height, width) of the same height and width, or with more axes before.
        widths: channels at each size, from the image down; multiples of ``groups``.
        groups: of the group normalisation.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> UNet((3, 17, 9), (2, 3, 17, 9), widths=(8, 16))(torch.zeros(5, 3, 17, 9)).shape
    torch.Size([5, 2, 3, 17, 9])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, widths: Stages = (32, 64), groups: Size = 8) -> None:
        super().__init__(in_shape, out_shape)
        channels, height, width = image_shape(in_shape, "UNet")
        out, *places = image_shape(out_shape, "UNet")
        if tuple(places) != (height, width):
            raise UserError(
                f"UNet gives images of the size that it takes, {height}x{width}; got out_shape={out_shape}. Use "
                "ConvEncoder and ConvDecoder for another."
            )
        check_blocks("UNet", widths, (), groups)
        self.sizes = halved(height, width, len(widths) - 1)
        before = (widths[0], *widths[:-1])
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Residual(a, b, groups, "silu") for a, b in zip(before, widths, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(size, size, 3, stride=2, padding=1) for size in widths[:-1])
        self.middle = Attention(widths[-1], groups)
        above = (widths[-1], *widths[:0:-1])
        self.up = nn.ModuleList(Residual(a + b, b, groups, "silu") for a, b in zip(above, widths[::-1], strict=True))
        self.norm = nn.GroupNorm(groups, widths[0], EPSILON)
        self.last = nn.Conv2d(widths[0], out, 3, padding=1)

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, out channels, height, width)."""
        h, kept = self.first(x.flatten(1, -3)), []
        for number, block in enumerate(self.down):
            h = block(h if number == 0 else self.halve[number - 1](h))
            kept.append(h)
        h = self.middle(h)
        for block, size in zip(self.up, self.sizes[::-1], strict=True):
            h = block(torch.cat([F.interpolate(h, size=size, mode="nearest"), kept.pop()], 1))
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out
