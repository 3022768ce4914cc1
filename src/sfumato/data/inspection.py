"""Facts about data: what they are, before anything is decided.

Facts that decide something come from the training split alone; duplicates are counted over all splits, to report how
many cross from one into another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sfumato.data.columns import Column, guess_columns
from sfumato.data.content import MISSING, SPLITS, Array
from sfumato.data.dataset import Dataset
from sfumato.data.randomness import random_keys
from sfumato.data.splits import duplicate_groups
from sfumato.data.streams import Rows

Kind = Literal["binary", "8-bit", "counts", "real", "mixed"]
FEW_LEVELS = 32
_STREAM = 0x706361  # "pca"
_ROWS = 1024
_PCA_ROWS, _PCA_WORK = 1000, 2e10
_DISTINCT = 1_000_000


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_dataset` found.

    Args:
        source: what to call the data in a sentence, with a file's ending.
        layout: images, table or array.
        shape: of one example.
        dtype: the type of the values, as they came.
        splits: split -> number of examples.
        given_splits: whether the source came with a test or validation split of its own.
        split: the shares that were asked for.
        kind: "binary" (two values, 0 and 1 or 0 and 255), "8-bit" (whole 0 ... 255, or these divided by 255), "counts"
            (other whole numbers from 0), "real", or "mixed": a table that was read column by column.
        low, high: the range in the training split.
        top: the raw value of the highest level that the kind allows: 1, 255, or the largest count; high for real.
        distinct: how many values occur in the training split (of real data among the first million).
        extremes: the share of training values that are exactly low or high.
        missing: examples left out for missing or infinite values (there are none among those that were taken).
        left_out: everything that was found and not taken.
        classes: name -> number of examples, all splits.
        unlabelled: examples without a class, where there are classes.
        duplicates: examples that equal an earlier one exactly.
        crossing: groups of equal examples that lie in more than one split.
        constant: dimensions with a single value in the training split.
        pca_95: the principal components that hold 95 % of the training variance, on at most 1,000 examples; of tables,
            with every column at deviation 1.
        streamed: why the data are read when they are asked for; "" where they are in memory. Of streamed data the
            facts about values come from a fixed random part of the training split, and duplicates are not looked for.
        whole: whether all training values are whole numbers.
        columns: of a table that was read column by column, what each is; with cells of all splits, so that there is no
            level that the model does not know.
        guesses: why each is taken for that.
        empty: its missing cells. The other facts about its values are those with each column's mean in their place.
    """

    source: str
    layout: Literal["images", "table", "array"]
    shape: tuple[int, ...]
    dtype: str
    splits: Mapping[str, int]
    given_splits: bool
    split: tuple[float, ...]
    kind: Kind
    low: float
    high: float
    top: float
    distinct: int
    extremes: float
    missing: int
    left_out: int
    classes: Mapping[str, int]
    unlabelled: int
    duplicates: int
    crossing: int
    constant: int
    pca_95: int
    streamed: str = ""
    whole: bool = False
    columns: tuple[Column, ...] = ()
    guesses: tuple[str, ...] = ()
    empty: int = 0

    @property
    def dimensions(self) -> int:
        """The number of values in one example."""
        return math.prod(self.shape)

    @property
    def levels(self) -> int | None:
        """The number of levels that the kind allows, None for real data."""
        fixed = {"binary": 2, "8-bit": 256, "counts": int(self.top) + 1}
        return fixed.get(self.kind)

    @property
    def balance(self) -> float | None:
        """The largest class divided by the smallest; None without classes, infinite where one is empty."""
        counts = self.classes.values()
        return None if not counts else max(counts) / min(counts) if min(counts) else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return all facts, ready for json."""
        facts = asdict(replace(self, columns=())) | {
            "shape": list(self.shape),
            "split": list(self.split),
            "levels": self.levels,
        }
        kinds = {column.name: column.kind for column in self.columns}
        return facts | {"splits": dict(self.splits), "classes": dict(self.classes), "columns": kinds}


def inspect_dataset(dataset: Dataset) -> Inspection:
    """Return the facts about ``dataset``."""
    train, columns, guesses, empty = dataset.array("train"), (), (), 0
    if dataset.texts:
        columns, guesses = zip(*guess_columns(dataset.x, dataset.columns, dataset.texts), strict=True)
        missing = np.isnan(train)
        empty = int(np.isnan(dataset.x).sum())
        train = np.where(missing, np.where(missing, 0, train).sum(0) / np.maximum(1, (~missing).sum(0)), train)
    low, high, whole, eighths, constant = _scan(train)
    kind, top = ("mixed", high) if columns else _kind(dataset, train, low, high, whole, eighths)
    groups = duplicate_groups(dataset.x)
    origin = dataset.origin or {}
    source = origin.get("source") or dataset.name
    known = np.zeros(0, dtype=np.int64) if dataset.y is None else dataset.y[dataset.y >= 0]
    counts = np.bincount(known, minlength=dataset.num_classes).tolist()
    return Inspection(
        source=Path(source).name,
        layout="images" if dataset.is_images else "table" if dataset.columns else "array",
        shape=dataset.shape,
        dtype=str(dataset.x.dtype),
        splits={name: len(dataset.splits[name]) for name in SPLITS},
        given_splits=dataset.given_splits,
        split=tuple(origin.get("split", ())),
        kind=kind,
        low=low,
        high=high,
        top=top,
        distinct=_distinct(train, whole, low, high),
        extremes=sum(int(((part == low) | (part == high)).sum()) for part in _parts(train)) / train.size,
        missing=sum(why == MISSING for _, why in dataset.left_out),
        left_out=len(dataset.left_out),
        classes=dict(zip(dataset.class_names, counts, strict=True)),
        unlabelled=0 if dataset.y is None else len(dataset.y) - len(known),
        duplicates=int((groups != np.arange(len(groups))).sum()),
        crossing=_crossing(dataset, groups),
        constant=constant,
        pca_95=_pca(train),
        streamed=dataset.x.because if isinstance(dataset.x, Rows) else "",
        whole=whole,
        columns=columns,
        guesses=guesses,
        empty=empty,
    )


def _parts(x: Array) -> list[Array]:
    return [x[start : start + _ROWS] for start in range(0, len(x), _ROWS)]


def _scan(x: Array) -> tuple[float, float, bool, bool, int]:
    """Return the range, whether all values are whole, whether all are k / 255, and how many dimensions are constant."""
    smallest, largest = x.min(0), x.max(0)
    low, high = float(smallest.min()), float(largest.max())
    whole = x.dtype.kind != "f" or all(bool((part == np.floor(part)).all()) for part in _parts(x))
    eighths = not whole and low >= 0 and high <= 1
    eighths = eighths and all(float(np.abs(part * 255 - (part * 255).round()).max()) < 1e-3 for part in _parts(x))
    return low, high, whole, eighths, int((smallest == largest).sum())


def _kind(dataset: Dataset, train: Array, low: float, high: float, whole: bool, eighths: bool) -> tuple[Kind, float]:
    """Return the kind and its top value."""
    if eighths and dataset.is_images:
        return "8-bit", 1.0
    if not whole or low < 0:
        return "real", high
    if high <= 1:
        return "binary", 1.0
    if high == 255 and all(bool(((part == 0) | (part == 255)).all()) for part in _parts(train)):
        return "binary", 255.0
    if high < FEW_LEVELS:
        return "counts", high
    if high == 255 or (high < 255 and (dataset.is_images or dataset.x.dtype == np.uint8)):
        return "8-bit", 255.0
    return "counts", high


def _distinct(x: Array, whole: bool, low: float, high: float) -> int:
    if whole and high - low < 1 << 16:
        seen = np.zeros(int(high - low) + 1, dtype=bool)
        for part in _parts(x):
            seen[(part.reshape(-1) - np.asarray(low, dtype=x.dtype)).astype(np.int64)] = True
        return int(seen.sum())
    return len(np.unique(x.reshape(-1)[:_DISTINCT]))


def _crossing(dataset: Dataset, groups: Array) -> int:
    """Count the groups of equal examples that lie in more than one split."""
    owner = np.full(len(groups), -1)
    for number, name in enumerate(SPLITS):
        owner[dataset.splits[name]] = number
    pairs = np.unique(np.stack([groups, owner], axis=1)[owner >= 0], axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def _pca(x: Array) -> int:
    """Count the principal components that hold 95 % of the variance of a fixed random part of ``x``."""
    count = min(_PCA_ROWS, len(x), max(2, int(math.sqrt(_PCA_WORK / math.prod(x.shape[1:])))))
    rows = np.sort(np.argsort(random_keys(len(x), _STREAM), kind="stable")[:count])
    flat = x[rows].reshape(count, -1).astype(np.float64)
    flat -= flat.mean(0)
    if x.ndim == 2:  # the columns of a table have units of their own
        deviation = flat.std(0)
        flat /= np.where(deviation > 0, deviation, 1)
    gram = flat @ flat.T if flat.shape[1] > count else flat.T @ flat
    variances = np.linalg.eigvalsh(gram)[::-1].clip(0)
    total = variances.sum()
    return int(np.searchsorted(variances.cumsum(), 0.95 * total) + 1) if total > 0 else 0
