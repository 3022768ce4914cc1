"""``sfumato reconstruct MODEL IMAGE --tile SIDE``: an image of any size through a first stage, a tile at a time.

What the tiles cost is measured: the whole image is computed at once as well, where it is small enough, and the two are
compared in grey values.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.data.images import MAX_PIXELS, BadImage, decode_file
from sfumato.data.preprocessing import Levels
from sfumato.io.store import shown
from sfumato.models import PackagedModel
from sfumato.networks.tiling import SeamError, seam_error, tiled_decode, tiled_encode
from sfumato.report import to_uint8
from sfumato.verbs.opening import open_model
from sfumato.verbs.to_diffusers import parts_of
from sfumato.verbs.writing import output_path, write

WHOLE = 1_000_000  # pixels that are computed at once too, unless asked otherwise
TILE = 256


@dataclass(frozen=True)
class Large:
    """A reconstruction in tiles.

    Args:
        x: uint8 (channels, height, width).
        seam: how far it is from the one of the whole image, in grey values of 0 to 255; None where not compared.
        path: what was written, or None.
    """

    x: NDArray[np.uint8]
    seam: SeamError | None
    path: Path | None


@torch.no_grad()
def reconstruct_large(
    source: str | Path | PackagedModel,
    image: str | Path | NDArray[np.uint8],
    *,
    tile: int = TILE,
    overlap: float = 0.25,
    compare: bool | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> Large:
    """Encode and decode an image of any size in overlapping tiles.

    Args:
        source: a run, a model folder or a model of the recipe autoencoder-kl.
        image: a file, or uint8 (channels, height, width).
        tile: the side of a tile.
        overlap: the share that neighbours have in common, from 0 to 0.5.
        compare: compute the whole image too and measure the seams; None: up to a million pixels.
        out: a PNG to write; None: none, for an image that was given as an array.
        force: allow the file to be there.

    Raises:
        UserError: another architecture; an image of other channels.
    """
    path = None
    if out is not None or not isinstance(image, np.ndarray):
        path = output_path(out, "reconstruction.png", (".png",), force)
    packaged = source if isinstance(source, PackagedModel) else open_model(source).model
    encoder, decoder = parts_of(packaged)
    pixels = image if isinstance(image, np.ndarray) else _read(Path(image))
    channels = packaged.preprocessing.shape[0]
    if pixels.ndim != 3 or len(pixels) != channels:
        raise UserError(f"this model takes images of {channels} channels; got an array of shape {pixels.shape}.")
    height, width = pixels.shape[1:]
    x = packaged.preprocessing.transform(torch.from_numpy(pixels[None]))
    more = (0, -width % encoder.factor, 0, -height % encoder.factor)
    x = F.pad(x, more, mode="replicate")
    size = max(encoder.factor, tile // encoder.factor * encoder.factor)
    moments = tiled_encode(encoder, x, tile=size, overlap=overlap)
    made = tiled_decode(decoder, moments[:, : encoder.grid[0]], tile=size, overlap=overlap)
    result = _picture(packaged, made)
    seam = None
    if compare or (compare is None and height * width <= WHOLE):
        whole = decoder.picture(encoder.compute(x)[:, : encoder.grid[0]])
        seam = seam_error(_picture(packaged, whole), result, tile=size, overlap=overlap)
    array = to_uint8(result[0, :, :height, :width].round().clamp(0, 255).to(torch.uint8))
    if path is not None:
        buffer = io.BytesIO()
        Image.fromarray(array[0] if channels == 1 else np.moveaxis(array, 0, -1)).save(buffer, "PNG")
        write(path, buffer.getvalue())
    return Large(array, seam, path)


def _picture(packaged: PackagedModel, made: Tensor) -> Tensor:
    """Return what the decoder made as grey values of 0 to 255, not rounded."""
    mean = made[:, : packaged.preprocessing.shape[0]]
    if isinstance(packaged.preprocessing, Levels):  # the logistic's location starts at mid-grey
        return 255 * (mean + 0.5).clamp(0, 1)
    return 127.5 * (mean.clamp(-1, 1) + 1)


def _read(path: Path) -> NDArray[np.uint8]:
    """Return the image in a file, channels first."""
    if not path.is_file():
        raise UserError(f"'{path}' is no image. --tile takes one image; leave it out for folders and arrays.")
    try:
        array = decode_file(path, None, MAX_PIXELS)
    except BadImage as error:
        raise UserError(f"{shown(path)} cannot be used: {error}. Give another image.") from None
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy()
