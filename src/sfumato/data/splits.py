"""Training, validation and test: fixed by a seed, stratified by class, exact duplicates kept together.

Within a class the examples are put in random order; the first go to the test split until it has its share, the next to
validation, the rest to training. A group of exact duplicates moves as one, and to training where it fits nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.content import SPLITS, Array, Content
from sfumato.data.randomness import random_keys
from sfumato.data.streams import Rows

_STREAM = 0x73706C6974  # "split"


def duplicate_groups(x: Array) -> NDArray[np.int64]:
    """Return for every row the number of the first row with the same bytes, int64 (n,).

    Of streamed data, which are not all read for it, every row counts as its own.
    """
    if isinstance(x, Rows):
        return np.arange(len(x))
    first: dict[bytes, int] = {}
    rows = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x)
    return np.fromiter((first.setdefault(key, row) for row, key in enumerate(rows)), dtype=np.int64, count=len(x))


def make_splits(content: Content, fractions: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return train, validation and test as rising row numbers.

    What the source gives is respected. A missing validation or test split is then a fraction of the training examples.

    Args:
        content: the examples, with class numbers for y, and the splits that are given.
        fractions: the shares of train, validation and test; they add up to 1.
        seed: the same seed, the same splits.

    Raises:
        UserError: fewer than 3 examples, or a class with a single one, where there is something to split.
    """
    groups = duplicate_groups(content.x)
    strata = np.zeros(len(groups), dtype=np.int64) if content.y is None else content.y[groups]
    if content.given:
        given = {name: np.sort(np.asarray(rows, dtype=np.int64)) for name, rows in content.given.items()}
        wanted = {
            name: fraction for name, fraction in zip(SPLITS, fractions, strict=True) if name not in given and fraction
        }
        parts = _cut(given["train"], groups, strata, wanted, seed)
        return {name: given[name] if name in given and name != "train" else parts[name] for name in SPLITS}
    wanted = {name: fraction for name, fraction in zip(SPLITS, fractions, strict=True) if name != "train" and fraction}
    if wanted:
        _check_enough(content)
    return _cut(np.arange(len(groups)), groups, strata, wanted, seed)


def _cut(rows: Array, groups: Array, strata: Array, wanted: Mapping[str, float], seed: int) -> dict[str, Array]:
    """Cut ``wanted`` (validation, test -> fraction) out of ``rows``; the rest is train."""
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    keys = random_keys(len(groups), _STREAM, seed)
    labels, counts = np.unique(strata[rows], return_counts=True)
    rooms = _rooms(counts, wanted)
    for stratum, room in zip(labels, rooms, strict=True):
        members = rows[strata[rows] == stratum]
        heads, sizes = np.unique(groups[members], return_counts=True)
        chosen = {}
        for position in np.argsort(keys[heads], kind="stable"):
            name = next((name for name in room if sizes[position] <= room[name]), "train")
            chosen[heads[position]] = name
            if name in room:
                room[name] -= int(sizes[position])
        for row in members:
            parts[chosen[groups[row]]].append(int(row))
    return {name: np.sort(np.array(part, dtype=np.int64)) for name, part in parts.items()}


def _rooms(counts: Array, wanted: Mapping[str, float]) -> list[dict[str, int]]:
    """How many examples of each class go to test and validation.

    The total of a split is its share of all, rounded; the classes with the largest remainders are rounded up. Every
    class has at least one example in each split while one is left for training.
    """
    rooms: list[dict[str, int]] = [{} for _ in counts]
    for name in ("test", "validation"):
        if name not in wanted:
            continue
        shares = counts * wanted[name]
        floors = np.floor(shares).astype(int)
        up = np.argsort(floors - shares, kind="stable")[: round(float(shares.sum())) - int(floors.sum())]
        floors[up] += 1
        for room, share, count in zip(rooms, floors.tolist(), counts.tolist(), strict=True):
            room[name] = min(max(1, share), max(0, count - 1 - sum(room.values())))
    return rooms


def _check_enough(content: Content) -> None:
    if len(content.x) < 3:
        raise UserError(
            f"{content.name} should hold at least 3 examples, to train, validate and test; got {len(content.x)}. "
            "Add more."
        )
    if content.y is None:
        return
    for number in np.flatnonzero(np.bincount(content.y[content.y >= 0]) == 1):
        row = int(np.flatnonzero(content.y == number)[0])
        where = content.items[row] if content.items else f"row {row}"
        name = content.class_names[number]
        raise UserError(
            f"every class of {content.name} should have at least 2 examples; '{name}' has one ({where}) and "
            "cannot be split. Add examples of it, or take it out."
        )
