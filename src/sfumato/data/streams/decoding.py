"""Encoded images to one row of an array. No torch: this is all that a decoding process loads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.images import BadImage, decode, image_size

MAX_ENCODED = 1 << 28


class Place(NamedTuple):
    """Where an encoded image lies.

    Args:
        path: of the file.
        offset: of its first byte, in a shard.
        size: in bytes; -1 for a whole file.
        name: what to call it.
    """

    path: str
    offset: int
    size: int
    name: str


@dataclass(frozen=True)
class Decoder:
    """What every image becomes.

    Args:
        shape: (channels, height, width).
        size: (height, width) to cut and resize to, or None where every image must have that size already.
        max_pixels: the largest width times height that is decoded.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    max_pixels: int

    def to_json(self) -> list[Any]:
        """Return the arguments, ready for json."""
        return [list(self.shape), None if self.size is None else list(self.size), self.max_pixels]

    @classmethod
    def from_json(cls, tree: Sequence[Any]) -> Decoder:
        """Return what :meth:`to_json` described."""
        shape, size, most = tree
        return cls((shape[0], shape[1], shape[2]), None if size is None else (size[0], size[1]), most)

    def __call__(self, place: Place, out: NDArray[np.uint8]) -> None:
        """Decode the image at ``place`` into ``out``, (channels, height, width).

        Raises:
            UserError: it cannot be read, or it has another size.
        """
        try:
            array = decode(io.BytesIO(encoded(place)), self.size, self.max_pixels)
        except (BadImage, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UserError(
                f"{place.name} should be an image; it cannot be read ({reason}). Remove it, and train anew."
            ) from None
        channels, height, width = self.shape
        if array.shape[:2] != (height, width):
            raise UserError(
                f"the images should have one size; the first is {width}x{height} and {place.name} is "
                f"{image_size(array)}. Choose one, for instance --size {min(*array.shape[:2], height, width)}."
            )
        if array.ndim == 3 and channels == 1:
            raise UserError(
                f"the images were grey by their headers; {place.name} has colours. It was changed: put the original "
                "back, or train anew."
            )
        out[:] = array.transpose(2, 0, 1) if array.ndim == 3 else array


def encoded(place: Place) -> bytes:
    """Return the bytes at ``place``.

    Raises:
        BadImage: the file is larger than any image of the allowed size, or was cut.
    """
    with open(place.path, "rb") as stream:
        if place.size < 0:
            data = stream.read(MAX_ENCODED + 1)
            if len(data) > MAX_ENCODED:
                raise BadImage(f"more than {MAX_ENCODED / 2**20:,.0f} MiB")
            return data
        stream.seek(place.offset)
        data = stream.read(place.size)
    if len(data) < place.size:
        raise BadImage(f"{PurePath(place.path).name} ends after {len(data):,} of its {place.size:,} bytes")
    return data
