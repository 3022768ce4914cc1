"""Examples that do not fit in memory: x[rows] reads these rows, now, from their files, and keeps nothing.

The order of a training is a pure function of (seed, epoch, position), so an exact shuffle is random access and nothing
else: there is no buffer to shuffle in, no state to save, and the share of one process among many is other row numbers.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, final, overload

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.content import Array
from sfumato.data.files import check_memory
from sfumato.data.randomness import random_keys

SAMPLE_BYTES = 1 << 26
SAMPLE_ROWS = 4096
_FINGERPRINT_ROWS = 64
_STREAM = 0x73616D70  # "samp"

Check = Callable[[Array, str], None]


class Rows(ABC):
    """What a reader of files offers: an array of n examples, (n, *shape), that is read when it is indexed.

    Args:
        shape: (n, *shape of an example).
        dtype: of the values.
        source: what to call the data in a sentence.

    ``because`` says why they are streamed; ``check`` is called with every batch, and refuses it with a UserError.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, source: str) -> None:
        self.shape, self.dtype, self.source = tuple(shape), np.dtype(dtype), source
        self.check: Check | None = None
        self.because = ""

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source}: {'x'.join(map(str, self.shape))} {self.dtype}, read when asked)"

    def array(self) -> Array:
        """Return this object, as the array that it reads like: for whoever only indexes it."""
        return cast(Array, self)

    @property
    def ndim(self) -> int:
        """The number of dimensions, with that of the examples."""
        return len(self.shape)

    @property
    def row_bytes(self) -> int:
        """The size of one example in memory."""
        return math.prod(self.shape[1:]) * int(self.dtype.itemsize)

    def __getitem__(self, index: Any) -> Array:
        """Return the examples of a slice, a mask or row numbers, or one example."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        check_memory(rows.size * self.row_bytes, self.source)
        found = self.checked(np.where(rows < 0, rows + len(self), rows).reshape(-1).astype(np.int64))
        return found.reshape(*rows.shape, *self.shape[1:])

    def checked(self, rows: NDArray[np.int64]) -> Array:
        """Return the examples ``rows``, (len(rows), *shape).

        Raises:
            UserError: one of them cannot be read, is not finite, or fails the check that was set; names it.
        """
        return self.verified(self.read(rows), rows)

    def verified(self, x: Array, rows: NDArray[np.int64]) -> Array:
        """Return ``x``, the examples ``rows``, if it passes the checks."""
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            bad = int(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(-1))[0])
            raise UserError(
                f"{self.source} should hold finite numbers; {self.name(int(rows[bad]))} holds NaN or infinity. Fill "
                "them in, and train anew."
            )
        if self.check is not None:
            self.check(x, self.source)
        return x

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> Array:
        """Return the examples ``rows``, unchecked."""

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """Yield what tells these files from others without reading them: names, sizes, places."""

    def name(self, row: int) -> str:
        """Return what to call one example in a sentence."""
        return f"row {row}"

    def with_check(self, check: Check) -> Rows:
        """Return the same rows, which from now on refuse what ``check`` refuses."""
        again = type(self).__new__(type(self))
        again.__dict__.update(self.__dict__)
        again.check = check
        return again

    def only(self, rows: NDArray[np.int64]) -> Array:
        """Return the examples ``rows`` as the array that they read like, still read when asked."""
        return Part(self, rows).array()

    def sample(self, rows: NDArray[np.int64]) -> Array:
        """Return a fixed random part of ``rows`` that takes at most 64 MiB: what facts about them are drawn from."""
        most = max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, self.row_bytes)))
        return self[rows if len(rows) <= most else _some(rows, most)]

    def digest(self) -> str:
        """Return the SHA-256 of the type, the shape, the names and sizes of the files, and 64 examples."""
        digest = hashlib.sha256(f"{self.dtype.newbyteorder('<').str} {self.shape}\n".encode())
        for part in self.identity():
            digest.update(part)
        few = self[_some(np.arange(len(self)), min(_FINGERPRINT_ROWS, len(self)))]
        digest.update(np.ascontiguousarray(few, dtype=few.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


@final
class Part(Rows):
    """Some of the examples of others.

    Args:
        whole: where they lie.
        chosen: their row numbers.
    """

    def __init__(self, whole: Rows, chosen: NDArray[np.int64]) -> None:
        super().__init__((len(chosen), *whole.shape[1:]), whole.dtype, whole.source)
        self._whole, self._chosen = whole, np.asarray(chosen, dtype=np.int64)

    def read(self, rows: NDArray[np.int64]) -> Array:
        """Return the rows, checked as those of the whole are."""
        return self._whole.checked(self._chosen[rows])

    def identity(self) -> Iterator[bytes]:
        """Yield that of the whole, and which rows."""
        yield from self._whole.identity()
        yield self._chosen.tobytes()

    def name(self, row: int) -> str:
        """Return the name in the whole."""
        return self._whole.name(int(self._chosen[row]))


@final
class ArrayRows(Rows):
    """The rows of an array that is there already, for instance of ``numpy.memmap``.

    Args:
        x: (n, *shape).
        source: what to call it.
    """

    def __init__(self, x: Array, source: str = "the array") -> None:
        super().__init__(x.shape, x.dtype, source)
        self._x = x

    def read(self, rows: NDArray[np.int64]) -> Array:
        """Return the rows."""
        return np.asarray(self._x[rows])

    def identity(self) -> Iterator[bytes]:
        """Yield nothing: the type, the shape and the sample say what there is."""
        yield b""


@final
class Streamed:
    """Examples of a split that are read when they are asked for.

    Args:
        rows: where they lie.
        chosen: the row numbers of the split.
        y: class numbers of the split, (n,), -1 where unknown; None without classes.
    """

    def __init__(self, rows: Rows, chosen: NDArray[np.int64], y: Int64[Tensor, " n"] | None = None) -> None:
        self.rows, self.chosen, self.y = rows, np.asarray(chosen, dtype=np.int64), y

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.rows.shape[1:]

    def batch(self, indices: Int64[Tensor, " batch"]) -> tuple[Tensor, Int64[Tensor, " batch"] | None]:
        """Read (x, y) of the examples ``indices``."""
        indices = indices.cpu()
        x = torch.from_numpy(self.rows.checked(self.chosen[indices.numpy()]))
        return x, self.labels(indices)

    def labels(self, indices: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"] | None:
        """Return y of the examples ``indices``."""
        return None if self.y is None else self.y.index_select(0, indices.cpu())


@final
class Names(Sequence[str]):
    """Millions of names, packed: about as many bytes as they have characters.

    >>> names = Names(["a.png", "b.png"])
    >>> len(names), names[1]
    (2, 'b.png')
    """

    def __init__(self, names: Iterator[str] | Sequence[str]) -> None:
        text, ends = bytearray(), [0]
        for name in names:
            text += name.encode(errors="surrogateescape")
            ends.append(len(text))
        self._text, self._ends = bytes(text), np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return one name, or those of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._text[self._ends[index] : self._ends[index + 1]].decode(errors="surrogateescape")

    def as_tuple(self) -> tuple[str, ...]:
        """Return this object, as the tuple that it reads like."""
        return cast(tuple[str, ...], self)

    def packed(self) -> bytes:
        """Return all of them as bytes, with where each ends."""
        return self._text + self._ends.tobytes()


def split_classes(x: Rows, chosen: NDArray[np.int64], y: Array | None) -> Streamed:
    """Return the split of ``chosen`` rows of ``x``, with its part of all labels ``y``."""
    return Streamed(x, chosen, None if y is None else torch.from_numpy(y[chosen]))


def stamp(path: Path) -> bytes:
    """Return the name and the size of a file; its time is never read."""
    return f"{path.name} {path.stat().st_size}\n".encode(errors="surrogateescape")


def _some(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ``count`` of ``rows``, a function of their number alone, rising."""
    if count >= len(rows):
        return rows
    return rows[np.sort(np.argsort(random_keys(len(rows), _STREAM), kind="stable")[:count])]
