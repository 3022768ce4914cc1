r"""dSprites, drawn: white shapes on black, 64x64, every combination of six factors once, 737,280 images.

Image i has the factor classes (c_1 ... c_6) with i = sum_k c_k prod_{j>k} size_j, so position y varies fastest, as in
the original; it is a pure function of i. The values of the factors are the original's too: its 40 orientations run from
0 to 2 pi *inclusive*, so the first and the last are the same picture; all others differ. The shapes are drawn here, by
their formulas at the pixel centres, and no file is needed; so the pixels are not those of the original.

    square   max(|u|, |v|) <= 10.35
    ellipse  (u / 12.5)^2 + (v / 6.5)^2 <= 1
    heart    (a^2 + b^2 - 1)^3 <= a^2 b^3,   a = u / 8.2,   b = 0.3 - v / 8.2

with (u, v) in pixels, right and down from the centre, turned by the orientation and divided by the scale. Each step of
a position is one pixel, and the centres lie off the grid, where no symmetry makes two orientations alike.

Reference: dSprites: Disentanglement testing Sprites dataset, Matthey, Higgins, Hassabis and Lerchner, 2017,
https://github.com/google-deepmind/dsprites-dataset (its factors and their order; neither its code nor its data).
"""

from __future__ import annotations

import functools
import math
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.content import Array, Content
from sfumato.data.randomness import random_keys

SHAPES = ("square", "ellipse", "heart")
SIDE = 64
MINI = 36_864
_RADIUS = 15
_FIRST = 16
_OFF_GRID = (0.13, 0.12)
_ROWS = 4_096
_STREAM = 0x6473707269746573  # "dsprites"


@final
class DSprites:
    """The full grid of dSprites: images and factors by number.

    >>> sprites = DSprites()
    >>> len(sprites), sprites.images(np.array([0, 737_279])).shape
    (737280, (2, 1, 64, 64))
    >>> sprites.factors(np.array([737_279]))
    array([[ 0,  2,  5, 39, 31, 31]])
    """

    name = "dsprites"
    names = ("color", "shape", "scale", "orientation", "x", "y")
    sizes = (1, 3, 6, 40, 32, 32)
    shape = (1, SIDE, SIDE)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def factors(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class of every factor, from 0, int64 (n, 6), of the images ``indices``, (n,)."""
        return np.stack(np.unravel_index(self._checked(indices), self.sizes), -1).astype(np.int64)

    def index_of(self, factors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers (n,) of the images with the factor classes ``factors``, (n, 6).

        Raises:
            UserError: not six columns, or a class that there is not.
        """
        table = np.asarray(factors)
        good = table.ndim == 2 and table.shape[1] == len(self.sizes) and table.dtype.kind in "iu"
        if not good or (table < 0).any() or (table >= self.sizes).any():
            raise UserError(
                f"dSprites needs whole numbers (n, 6) from 0 to below {self.sizes}, in the order {self.names}; "
                f"got an array of shape {table.shape}. Count classes from 0."
            )
        return np.asarray(np.ravel_multi_index(tuple(table.T.astype(np.int64)), self.sizes), dtype=np.int64)

    def values(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what the factors mean, float64 (n, 6).

        Color 1; shape 1, 2, 3; scale 0.5 ... 1; orientation 0 ... 2 pi, radians; x (right) and y (down) 0 ... 1.
        """
        tables = [np.ones(1), np.arange(1.0, 4.0), _scales(), np.linspace(0, 2 * math.pi, 40)]
        tables += [np.linspace(0, 1, 32)] * 2
        columns = self.factors(indices).T
        return np.stack([table[column] for table, column in zip(tables, columns, strict=True)], -1)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images ``indices``, uint8 (n, 1, 64, 64): 0 black, 1 white."""
        result = np.zeros((len(indices), *self.shape), dtype=np.uint8)
        window = np.arange(-_RADIUS, _RADIUS + 1) + _FIRST
        for start in range(0, len(indices), _ROWS):
            _, shape, scale, orientation, x, y = self.factors(indices[start : start + _ROWS]).T
            rows, columns = y[:, None] + window, x[:, None] + window
            part = result[start : start + _ROWS, 0]
            which = np.arange(len(part))[:, None, None]
            part[which, rows[:, :, None], columns[:, None, :]] = _sprites()[shape, scale, orientation]
        return result

    def some(self, count: int, seed: int = 0) -> NDArray[np.int64]:
        """Return ``count`` different image numbers, rising, that follow from ``seed`` on every machine."""
        if not 1 <= count <= len(self):
            raise UserError(f"dSprites has {len(self):,} images; got {count:,} to choose. Choose from 1 to that many.")
        return np.sort(np.argsort(random_keys(len(self), _STREAM, seed), kind="stable")[:count])

    def _checked(self, indices: Any) -> Array:
        numbers = np.asarray(indices)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise UserError(
                f"dSprites takes image numbers as a row of whole numbers; got {numbers.dtype} of shape {numbers.shape}."
                " Give for instance np.arange(10)."
            )
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise UserError(
                f"dSprites has the images 0 to {len(self) - 1:,}; got {numbers.min()} to {numbers.max()}. "
                "Choose among them."
            )
        return numbers


def dsprites() -> Content:
    """Return all 737,280 images, 3 GB in memory; the class is the shape."""
    return _content("dsprites", np.arange(len(DSprites())))


def dsprites_mini() -> Content:
    """Return one image in twenty, 36,864 of them, 151 MB: those of ``DSprites().some(36_864)``, in that order."""
    return _content("dsprites-mini", DSprites().some(MINI))


def _content(name: str, indices: NDArray[np.int64]) -> Content:
    sprites = DSprites()
    return Content(name, sprites.images(indices), sprites.factors(indices)[:, 1], SHAPES)


def _scales() -> NDArray[np.float64]:
    return np.linspace(0.5, 1, 6)


@functools.cache
def _sprites() -> NDArray[np.uint8]:
    """Return every shape at every scale and orientation, uint8 (3, 6, 40, 31, 31)."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    down, right = np.meshgrid(offsets - _OFF_GRID[1], offsets - _OFF_GRID[0], indexing="ij")
    angle = np.linspace(0, 2 * math.pi, 40)
    angle[-1] = 0
    cosine, sine = (turn(angle)[None, :, None, None] for turn in (np.cos, np.sin))
    scale = _scales()[:, None, None, None]
    u = (cosine * right + sine * down) / scale
    v = (cosine * down - sine * right) / scale
    a, b = u / 8.2, 0.3 - v / 8.2
    square = np.maximum(np.abs(u), np.abs(v)) <= 10.35
    ellipse = (u / 12.5) ** 2 + (v / 6.5) ** 2 <= 1
    heart = (a**2 + b**2 - 1) ** 3 <= a**2 * b**3
    return np.stack([square, ellipse, heart]).astype(np.uint8)
