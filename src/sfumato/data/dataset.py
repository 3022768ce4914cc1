"""Data that were read, checked and split; and the small interface through which training sees them.

Values stay as they came (8-bit images as uint8): preprocessing happens on the device, one batch at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sfumato.core.errors import UserError, did_you_mean
from sfumato.data.content import SPLITS, Array, Loader
from sfumato.data.streams import Prefetched, Rows, split_classes


@runtime_checkable
class Examples(Protocol):
    """What the training loop sees of a split, whether it lies in memory or is streamed."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        ...

    def batch(self, indices: Int64[Tensor, " batch"]) -> tuple[Tensor, Int64[Tensor, " batch"] | None]:
        """Return (x, y) of the examples ``indices``: x (batch, *shape) as it came, and y (-1 unknown) or None."""
        ...


@final
class InMemory:
    """Examples that lie in memory, or on the accelerator, as they came.

    Args:
        x: (n, *shape), of any type.
        y: class numbers (n,), -1 where unknown, or None.
    """

    def __init__(self, x: Tensor, y: Int64[Tensor, " n"] | None = None) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    def batch(self, indices: Int64[Tensor, " batch"]) -> tuple[Tensor, Int64[Tensor, " batch"] | None]:
        """Gather (x, y) of the examples ``indices``, on the device where the data lie."""
        indices = indices.to(self.x.device, non_blocking=True)
        return self.x.index_select(0, indices), None if self.y is None else self.y.index_select(0, indices)

    def to(self, device: torch.device | str) -> InMemory:
        """Return the same examples on ``device``."""
        return InMemory(self.x.to(device), None if self.y is None else self.y.to(device))


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples, their classes, and which of them are for training, validation and test.

    Args:
        name: what to call the data.
        x: (n, *shape) as it came: images uint8 (n, channels, height, width), tables float32 (n, columns), other
            arrays in their own type. Never NaN or infinite. Or :class:`~sfumato.data.streams.Rows`, which read like
            an array and are not in memory.
        y: class numbers, int64 (n,), -1 where unknown; None without classes.
        class_names: the name of every class.
        columns: the names of a table's columns.
        items: one file name an example, or None.
        left_out: (what, why) of everything that was found and not taken.
        splits: "train", "validation" and "test" -> row numbers, int64, disjoint.
        origin: the arguments of ``load_dataset`` that give the same data again, ready for json.
        given_splits: whether the source came with a validation or test split of its own.
        loader: what the ``DataLoader`` that it came from says about a training, or None.
        texts: of a table that was read column by column, and may have NaN for missing cells: see
            :class:`~sfumato.data.content.Content`.
    """

    name: str
    x: Array
    y: Array | None
    splits: Mapping[str, Array]
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    items: tuple[str, ...] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    origin: Mapping[str, Any] | None = None
    given_splits: bool = False
    loader: Loader | None = None
    texts: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        rows = np.concatenate([self.splits[name] for name in SPLITS])
        if len(np.unique(rows)) != len(rows) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self.x)):
            raise ValueError("the splits must be disjoint row numbers of x")
        if self.y is not None and self.y.shape != (len(self.x),):
            raise ValueError(f"y must have shape ({len(self.x)},), got {self.y.shape}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        what = "images" if self.is_images else "rows" if self.columns else "examples"
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"Dataset({self.name}: {len(self):,} {what} {'x'.join(map(str, self.shape))}{classes})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of classes, 0 without."""
        return len(self.class_names)

    @property
    def is_images(self) -> bool:
        """Whether an example is an image, (channels, height, width)."""
        return self.x.ndim == 4

    @property
    def streamed(self) -> bool:
        """Whether the examples are read when they are asked for."""
        return isinstance(self.x, Rows)

    def checking(self, check: Callable[[Array, str], None]) -> Dataset:
        """Return the data set whose streamed examples are checked when they are read; in memory they were before."""
        return replace(self, x=self.x.with_check(check).array()) if isinstance(self.x, Rows) else self

    def array(self, name: str) -> Array:
        """Return x of one split, (n, *shape); of streamed data a fixed random part that takes at most 64 MiB."""
        rows = self.rows(name)
        return self.x.sample(rows) if isinstance(self.x, Rows) else self.x[rows]

    def rows(self, name: str) -> Array:
        """Return the row numbers of one split."""
        if name not in self.splits:
            raise UserError(f"there is no split named '{name}'. {did_you_mean(name, SPLITS)}")
        return self.splits[name]

    def split(self, name: str) -> InMemory:
        """Return the examples of "train", "validation" or "test"; those of streamed data are :class:`Prefetched`."""
        rows = self.rows(name)
        if isinstance(self.x, Rows):
            return cast(InMemory, Prefetched(split_classes(self.x, rows, self.y)))
        y = None if self.y is None else torch.from_numpy(self.y[rows])
        return InMemory(torch.from_numpy(self.x[rows]), y)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the values, types and shapes of x and y, the names of classes and columns, and the splits.

        Of streamed data, the names and sizes of the files and 64 examples stand for all values.
        """
        digest = hashlib.sha256()
        arrays = {"x": self.x, "y": self.y} | {name: self.splits[name] for name in SPLITS}
        for name, array in arrays.items():
            if isinstance(array, Rows):
                digest.update(f"{name} {array.digest()}\n".encode())
            elif array is not None:
                little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
                digest.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
                digest.update(little.reshape(-1).view(np.uint8).data)
        texts = tuple(word for column in self.texts for word in ("", *column))
        for word in (*self.class_names, "", *self.columns, *texts):
            digest.update(f"{len(word)} {word}\n".encode(errors="surrogatepass"))
        return digest.hexdigest()
