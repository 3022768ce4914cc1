"""Labels as people have them, whole numbers or texts, to class numbers 0 ... K - 1 and names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.content import Array


def class_numbers(
    labels: Array | None, count: int, source: str, class_names: tuple[str, ...] = ()
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the class number of every example and the names of the classes.

    Without names, the classes are the values that occur, in rising order, each named by its value.

    Args:
        labels: (n,), whole numbers with -1 for unknown, or texts with "" for unknown; None without classes.
        count: the number of examples.
        source: what to call the data in an error.
        class_names: the names of 0, 1, ... where the source has them.

    Raises:
        UserError: labels of another length or shape, numbers with a fraction, negative ones, too few names.
    """
    if labels is None:
        return None, ()
    if labels.shape != (count,):
        got = f"{len(labels):,}" if labels.ndim == 1 else f"an array of shape {labels.shape}"
        raise UserError(
            f"{source} should have one label for each of its {count:,} examples; got {got}. Fix the labels."
        )
    if labels.dtype.kind in "US":
        texts = labels.astype(str)
        names = tuple(str(name) for name in np.unique(texts[texts != ""]))
        numbers = {name: number for number, name in enumerate(names)} | {"": -1}
        return np.array([numbers[text] for text in texts.tolist()], dtype=np.int64), names
    if labels.dtype.kind not in "biuf":
        raise UserError(
            f"the labels of {source} should be whole numbers or texts; got {labels.dtype}. Convert them first."
        )
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
        bad = labels[~np.isfinite(labels) | (labels != np.floor(labels))][0]
        raise UserError(f"the labels of {source} should be whole numbers or texts; got {bad:g}. Choose other labels.")
    y = labels.astype(np.int64)
    if (y < -1).any():
        raise UserError(f"the labels of {source} should be 0 or more, or -1 for unknown; got {y.min()}. Renumber them.")
    if class_names:
        if y.max(initial=-1) >= len(class_names):
            raise UserError(
                f"{source} names {len(class_names)} classes but holds the label {y.max()}. Name them all, from 0."
            )
        return y, class_names
    values = np.unique(y[y >= 0])
    numbered = np.where(y < 0, -1, np.searchsorted(values, y)).astype(np.int64)
    return numbered, tuple(str(value) for value in values.tolist())
