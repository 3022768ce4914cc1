r"""The columns of a table that is read one by one: what kind each is.

The kind follows from a column's type and its different values, never from its name: texts are categories; two values
are binary; whole or not, few values that come again and again are ordered levels; other whole numbers from 0 are
counts; everything else is real.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, final

import numpy as np

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Length, Name, Real, register
from sfumato.data.content import Array

ColumnKind = Literal["real", "count", "binary", "category", "ordinal"]
Values = Annotated[tuple[Real, ...], Length(1_000)]
Texts = Annotated[tuple[Name, ...], Length(1_000)]
MOST_TEXTS = 256
_FEW = 10  # values of an ordered column at most,
_EACH = 5  # which come so often on average


@final
@register("column")
class Column:
    """One column.

    Args:
        name: its name.
        kind: what the likelihood makes of it.
        values: of a column of levels, the raw values in their order.
        texts: of a column of texts, what the raw values 0, 1, ... stand for.
        whole: whether the raw values are whole numbers.

    >>> Column("size", "ordinal", values=(1.0, 2.0, 5.0), whole=True).levels
    3
    """

    def __init__(
        self, name: Name, kind: ColumnKind, values: Values = (), texts: Texts = (), whole: bool = False
    ) -> None:
        self.name, self.kind, self.values, self.texts, self.whole = name, kind, values, texts, whole

    @property
    def levels(self) -> int:
        """How many levels it has: 0 for real numbers and counts, else at least 2."""
        return 0 if self.kind in ("real", "count") else max(2, len(self.values))

    def written(self, value: float) -> str | int | float:
        """Return a raw value as the column writes its cells: a text, a whole number, or one of seven digits."""
        if self.texts:
            return self.texts[int(value)]
        return round(value) if self.whole else float(f"{value:.7g}")


def guess_columns(x: Array, names: Sequence[str], texts: Sequence[tuple[str, ...]]) -> list[tuple[Column, str]]:
    """Return each column of ``x``, (n, columns) with NaN where a cell is missing, and why it is taken for its kind.

    Args:
        x: of texts their numbers in ``texts``.
        names: one a column.
        texts: of each column, () for numbers.
    """
    return [
        guess_column(column[~np.isnan(column)], name, named)
        for column, name, named in zip(x.T, names, texts, strict=True)
    ]


def guess_column(filled: Array, name: str, texts: tuple[str, ...]) -> tuple[Column, str]:
    """Return the column with the cells ``filled``, and why it is taken for its kind."""
    values = np.unique(filled.astype(np.float64))
    whole = bool((values == np.floor(values)).all())
    levels = tuple(map(float, values)) if len(values) <= MOST_TEXTS else ()
    if texts:
        found = tuple(float(number) for number in range(len(texts)))
        return Column(name, "category", found, texts), f"{len(texts)} texts"
    if len(values) <= 2:
        text = " and ".join(f"{value:g}" for value in values)
        return Column(name, "binary", levels, (), whole), f"its values are {text or 'none'}"
    if len(values) <= _FEW and len(filled) >= _EACH * len(values):
        return Column(name, "ordinal", levels, (), whole), f"{len(values)} numbers that come again and again"
    if whole and values[0] == 0 and values[-1] <= 2**24:
        return Column(name, "count", (), (), True), f"whole numbers from 0 to {values[-1]:,.0f}"
    kind = f"whole numbers from {values[0]:,.0f}" if whole else "numbers with fractions"
    return Column(name, "real", (), (), whole), f"{kind}, {len(values):,} of them"


def recoded(columns: Sequence[Column], read: Mapping[str, tuple[Array, tuple[str, ...]]], source: str) -> Array:
    """Return the rows of another table as those of ``columns``, float32 (n, columns), NaN where a cell is missing.

    Args:
        columns: that the rows are wanted in.
        read: name -> a column's numbers, and the texts that they stand for; others than ``columns`` are left out.
        source: of the table.

    Raises:
        UserError: a column that is not there, or a text that is not one of its own.
    """
    found = []
    for column in columns:
        values, texts = read[find_column(column.name, list(read), source)]
        if column.texts:
            there = ~np.isnan(values)
            named = texts or tuple(f"{value:g}" for value in np.unique(values[there]))
            index = values if texts else np.searchsorted(np.unique(values[there]), values)
            strange = [text for text in named if text not in column.texts]
            if strange:
                raise unknown_cell(source, column, strange[0])
            codes = np.array([column.texts.index(text) for text in named] or [0], dtype=np.float64)
            values = np.where(there, codes[np.where(there, index, 0).astype(int)], np.nan)
        elif texts:
            raise unknown_cell(source, column, texts[0])
        found.append(values)
    return np.stack(found, axis=1).astype(np.float32)


def by_name(
    x: Array, names: Sequence[str], texts: Sequence[tuple[str, ...]]
) -> dict[str, tuple[Array, tuple[str, ...]]]:
    """Return name -> what :func:`recoded` takes, of a table that was read column by column."""
    return {name: (x[:, place], own) for place, (name, own) in enumerate(zip(names, texts, strict=True))}


def find_column(name: str, names: Sequence[str], source: str) -> str:
    """Return ``name`` where it is one of ``names``, or raise UserError."""
    if name not in names:
        raise UserError(f"{source} has no column '{name}', which the model was trained on. {did_you_mean(name, names)}")
    return name


def unknown_cell(where: str, column: Column, cell: str) -> UserError:
    """Return what is to be said of a cell that a column cannot hold."""
    return UserError(
        f"{where}, column '{column.name}': expected {described(column)}; got {cell[:40]!r}. Empty that cell."
    )


def kinds_text(columns: Sequence[Column]) -> str:
    """Return "3 real · 1 count"."""
    return " · ".join(f"{count} {kind}" for kind, count in Counter(column.kind for column in columns).most_common())


def described(column: Column) -> str:
    """Return what a column may hold."""
    if column.kind in ("real", "count"):
        return {"real": "numbers", "count": "whole numbers from 0"}[column.kind]
    shown = column.texts or tuple(f"{value:g}" for value in column.values)
    return f"one of {', '.join(shown[:8])}{', ...' if len(shown) > 8 else ''}"
