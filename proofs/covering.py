"""Covering arrays: few rows in which every pair of settings meets at least once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Mapping, Sequence

Row = dict[str, Hashable]


def pairwise(
    axes: Mapping[str, Sequence[Hashable]], allowed: Callable[[Row], bool] = lambda row: True, seed: int = 0
) -> list[Row]:
    """Return rows in which every allowed pair of values of two axes is met; greedy, so not the fewest.

    Args:
        axes: name -> values.
        allowed: whether a whole row makes sense.
        seed: of the order in which rows are tried.

    >>> rows = pairwise({"a": (0, 1), "b": (0, 1), "c": (0, 1)})
    >>> 4 <= len(rows) < 8
    True
    """
    rows = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    rows = [row for row in rows if allowed(row)]
    random.Random(seed).shuffle(rows)
    open_pairs = {pair for row in rows for pair in _pairs(row)}
    chosen = []
    while open_pairs:
        best = max(rows, key=lambda row: len(_pairs(row) & open_pairs))
        chosen.append(best)
        open_pairs -= _pairs(best)
    return chosen


def _pairs(row: Row) -> set[tuple[tuple[str, Hashable], tuple[str, Hashable]]]:
    return set(itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2))
