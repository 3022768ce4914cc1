"""Rows of one size that lie one after the other in a file: ``.npy``, and tables that were laid out so once.

They are read with ``pread`` and not mapped: pages of a map count as this process's memory, and a file that shrinks
under a map kills the process where a read returns an error.
"""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.arrays import as_data, read_header
from sfumato.data.content import Array
from sfumato.data.files import check_memory, check_regular
from sfumato.data.streams.rows import Rows, stamp


@final
class FlatRows(Rows):
    """Rows of equal size in one open file.

    Args:
        descriptor: of the file; this object closes it.
        start: the bytes before the first row.
        stored: the type of the values in the file.
        shape: (n, *shape) in the file; image-like rows come out with their channels first.
        source: what to call the data.
        identity: what tells the file from others.
    """

    def __init__(
        self, descriptor: int, start: int, stored: np.dtype[Any], shape: tuple[int, ...], source: str, identity: bytes
    ) -> None:
        like = as_data(np.zeros((1, *shape[1:]), dtype=stored), source)
        super().__init__((shape[0], *like.shape[1:]), like.dtype, source)
        self._file, self._start, self._stored, self._inside = descriptor, start, stored, shape[1:]
        self._stride = math.prod(shape[1:]) * stored.itemsize
        self._identity = identity
        self._holder = _Descriptor(descriptor)

    def read(self, rows: NDArray[np.int64]) -> Array:
        """Return the examples ``rows``; neighbours in one call."""
        raw = np.empty((len(rows), *self._inside), dtype=self._stored)
        view, stride = raw.reshape(-1).view(np.uint8).data, self._stride
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        edges = [0, *breaks.tolist(), len(rows)]
        for begin, end in itertools.pairwise(edges):
            if begin < end:
                self._fill(view[begin * stride : end * stride], self._start + int(rows[begin]) * stride)
        return as_data(raw, self.source) if len(raw) else np.empty((0, *self.shape[1:]), dtype=self.dtype)

    def identity(self) -> Iterator[bytes]:
        """Yield name and size."""
        yield self._identity

    def _fill(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._file, [view[done:]], offset + done)
            except OSError as error:
                raise UserError(f"{self.source} cannot be read any more ({error.strerror}). Check its disk.") from None
            if not count:
                raise UserError(
                    f"{self.source} ends before row {(offset + done - self._start) // self._stride:,} of "
                    f"{len(self):,}: it was cut while it was in use. Put the whole file back, and resume."
                )
            done += count


class _Descriptor:
    """Closes a file when nobody reads it any more."""

    def __init__(self, descriptor: int) -> None:
        weakref.finalize(self, os.close, descriptor)


def open_npy(path: Path) -> FlatRows:
    """Return the rows of an array in numpy's format, by its header alone.

    Raises:
        UserError: not such a file, cut, not of plain numbers, or with columns that come first (Fortran's order).
    """
    check_regular(path)
    with path.open("rb") as stream:
        shape, fortran, dtype, start = read_header(cast(BufferedIOBase, stream), path.name)
        size = os.fstat(stream.fileno()).st_size
        if dtype.hasobject or dtype.kind not in "biuf":
            raise UserError(f"{path.name} should hold plain numbers; got {dtype}. Save it again with a numeric dtype.")
        expected = start + math.prod(shape) * dtype.itemsize
        if min(shape, default=1) < 0 or expected != size:
            raise UserError(
                f"{path.name} should have {expected:,} bytes by its header ({dtype}, {shape}); it has {size:,}. "
                "The file is cut or damaged: make it again."
            )
        if len(shape) < 2 or 0 in shape:
            raise UserError(
                f"{path.name} should have the shape (examples, ...) with at least 2 dimensions; got {shape}. Reshape "
                "it."
            )
        if fortran:
            raise UserError(
                f"{path.name} is in Fortran's order, in which an example does not lie in one place; expected C's. "
                "Save it again: numpy.save(path, numpy.ascontiguousarray(array))."
            )
        check_memory(math.prod(shape[1:]) * dtype.itemsize, f"one example of {path.name}")
        return FlatRows(os.dup(stream.fileno()), start, dtype, shape, path.name, stamp(path))
