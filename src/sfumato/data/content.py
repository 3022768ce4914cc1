"""What a source holds before it is split: the record between the readers of files and :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
SPLITS = ("train", "validation", "test")
MISSING = "missing or infinite values"


@dataclass(frozen=True)
class Loader:
    """What a torch ``DataLoader`` has decided by itself.

    Args:
        batch_size: examples a step, or None where its batches have no size of their own.
        sampler: the class that chooses the examples.
    """

    batch_size: int | None
    sampler: str


@dataclass(frozen=True, eq=False)
class Content:
    """The examples of a source as they came.

    Args:
        name: what to call the data, without a file's ending.
        x: (n, *shape).
        y: labels as they came, (n,): whole numbers or texts; None without classes.
        class_names: the names of the classes 0, 1, ... where the source has them.
        columns: the names of a table's columns.
        items: one file name an example, or None.
        left_out: (what, why) of everything that was not taken.
        given: split -> row numbers, where the source comes already split; "train" is always among them.
        loader: what the ``DataLoader`` that the examples came from says about a training, or None.
        texts: of a table that was read column by column, with NaN for missing cells: for each column the texts that its
            numbers 0, 1, ... stand for, () where they are numbers. Empty for all other data.
    """

    name: str
    x: Array
    y: Array | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    items: tuple[str, ...] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    given: Mapping[str, Array] = field(default_factory=dict)
    loader: Loader | None = None
    texts: tuple[tuple[str, ...], ...] = ()
