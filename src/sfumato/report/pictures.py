"""Tensors to pictures: displayable 8-bit values, grids with small gaps, PNG.

Pictures are (channels, height, width); 1 channel is grey, 3 are colour, 4 have opacity, of others the first is shown.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

Raw = Tensor | NDArray[Any]
_INK = "#282828"


def display_range(preprocessing: nn.Module | None) -> tuple[float, float]:
    """Return the raw values that are shown as black and white.

    0 and the highest level for discrete data; mean -/+ 2.5 standard deviations where the data were standardised, or the
    range that was given for that; else, and for binary data, 0 and 1.
    """
    high = getattr(preprocessing, "high", None)
    if high is not None:
        return 0.0, float(high)
    mean, scale = (getattr(preprocessing, name, None) for name in ("mean", "scale"))
    if isinstance(mean, Tensor) and isinstance(scale, Tensor):
        centre, spread = float(mean.mean()), float(scale.mean())
        reach = spread if getattr(preprocessing, "fixed", False) else 2.5 * spread
        return centre - reach, centre + reach
    return 0.0, 1.0


def to_uint8(raw: Raw, preprocessing: nn.Module | None = None) -> NDArray[np.uint8]:
    """Return raw values as 0 ... 255, of the same shape.

    Args:
        raw: in the data's own units.
        preprocessing: says which raw values are black and white (:func:`display_range`). Without it uint8 stays as it
            is and other types are taken to lie in [0, 1].
    """
    values: NDArray[Any] = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    low, high = display_range(preprocessing)
    if values.dtype == np.uint8 and (preprocessing is None or (low, high) == (0.0, 255.0)):
        return values
    unit: NDArray[Any] = (np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (
        high - low
    )
    return (unit.clip(0, 1) * 255).round().astype(np.uint8)


def grid(images: Shaped[Raw, "rows columns channels height width"], scale: int = 1, gap: int = 2) -> Image.Image:
    """Return one picture of rows and columns, the gaps transparent.

    Args:
        images: 8-bit values.
        scale: the side of the square that a pixel becomes.
        gap: pixels between neighbours, not scaled.
    """
    pixels = _with_opacity(np.asarray(images)).repeat(scale, 2).repeat(scale, 3)
    rows, columns, height, width, channels = pixels.shape
    canvas = np.zeros((rows, height + gap, columns, width + gap, channels), np.uint8)
    canvas[:, :height, :, :width] = pixels.transpose(0, 2, 1, 3, 4)
    flat = canvas.reshape(rows * (height + gap), columns * (width + gap), channels)
    return Image.fromarray(flat[: flat.shape[0] - gap, : flat.shape[1] - gap])


def image_grid(
    x_raw: Shaped[Raw, "n channels height width"],
    columns: int,
    captions: Sequence[str] | None = None,
    preprocessing: nn.Module | None = None,
) -> Image.Image:
    """Return the images in rows, on white, small ones enlarged: what is written to a PNG file.

    Args:
        x_raw: in raw units.
        columns: images a row; the last row may be shorter.
        captions: a text for each row, drawn beside it.
        preprocessing: see :func:`to_uint8`.
    """
    images = to_uint8(x_raw, preprocessing)
    rows = math.ceil(len(images) / columns)
    missing = np.full((rows * columns - len(images), *images.shape[1:]), 255, np.uint8)
    cells = np.concatenate([images, missing]).reshape(rows, columns, *images.shape[1:])
    scale = cell_scale(images.shape[2], images.shape[3], 56)
    whole = grid(cells, scale)
    step = images.shape[2] * scale + 2
    font = ImageFont.load_default(size=max(11, min(18, step // 3)))
    left = 2 + max((math.ceil(font.getlength(text)) + 10 for text in captions or ()), default=0)
    page = Image.new("RGB" if images.shape[1] in (3, 4) else "L", (left + whole.width + 2, whole.height + 4), "white")
    page.paste(whole.convert(page.mode), (left, 2), whole.getchannel("A"))
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(captions or ()):
        draw.text((left - 8, 2 + row * step + step // 2), text, fill=_INK, font=font, anchor="rm")
    return page


def cell_scale(height: int, width: int, target: int) -> int:
    """Return the whole factor that brings the longer side of a small picture to at least ``target`` pixels."""
    return max(1, math.ceil(target / max(height, width)))


def shrink(images: UInt8[NDArray[Any], "*any height width"], limit: int) -> UInt8[NDArray[Any], "*any h w"]:
    """Return pictures whose longer side is at most about ``limit``, by the means of whole blocks."""
    height, width = images.shape[-2:]
    block = min(math.ceil(max(height, width) / limit), height, width)
    if block <= 1:
        return images
    h, w = height // block, width // block
    parts = images[..., : h * block, : w * block].reshape(*images.shape[:-2], h, block, w, block)
    means: NDArray[np.uint8] = parts.mean((-3, -1)).round().astype(np.uint8)
    return means


def png_uri(image: Image.Image) -> str:
    """Return the picture as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False, compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _with_opacity(images: UInt8[NDArray[Any], "... c h w"]) -> UInt8[NDArray[Any], "... h w d"]:
    """Return grey + opacity (2 channels) or colour + opacity (4), channels last."""
    last = np.moveaxis(images, -3, -1)
    if last.shape[-1] == 4:
        return last.copy()
    colour = last if last.shape[-1] == 3 else last[..., :1]
    return np.concatenate([colour, np.full_like(colour[..., :1], 255)], -1)
