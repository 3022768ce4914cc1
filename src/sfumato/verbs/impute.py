"""``sfumato impute``: the missing cells of a table, from what is there in their rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.core.paths import check_exists
from sfumato.core.spec import Size, checked
from sfumato.data import Column, Columns
from sfumato.data.columns import find_column, recoded, unknown_cell
from sfumato.data.files import TABLE_SUFFIXES, check_regular
from sfumato.data.tables import GAPS, delimiter_of, number_of, read_arrow_column, read_cells
from sfumato.evaluation.imputation import imputed
from sfumato.likelihoods import Masked, Mixed
from sfumato.verbs.opening import Opened, in_parts, open_model
from sfumato.verbs.writing import output_path, write

SAMPLES = 500


@dataclass(frozen=True)
class Imputed:
    """What :func:`impute` did.

    Args:
        path: the file that was written.
        rows: of the table.
        filled: column -> how many of its cells were filled in; those without a missing cell are left out.
        samples: K.
    """

    path: Path
    rows: int
    filled: Mapping[str, int]
    samples: int


def impute(
    source: str | Path,
    data: str | Path,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
) -> Imputed:
    """Fill the missing cells of a table, and leave all others, their types and their order, as they are.

    Numbers and counts become their mean, everything else its likeliest value, given what is there in the row.

    Args:
        source: a run or a model folder, of a model that takes missing cells (``--likelihood mixed``).
        data: a .csv or .parquet with the columns of the training; others are passed on.
        samples: K, draws of z for each row with a missing cell.
        seed: of the noise.
        out: where to write, with the ending of ``data``; by default ``imputed`` in the current folder.
        force: allow the file to be there.

    Raises:
        UserError: a model that takes no missing cells, a column that is not there, a cell that the model does not know.
    """
    samples = checked(samples, Size, "--samples")
    path = check_exists(str(data), ())
    check_regular(path)
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise UserError(f"{path.name} is no table; expected a .csv or a .parquet. Give one.")
    place = output_path(out, f"imputed{suffix}", (suffix,), force)
    opened = open_model(source)
    columns = _columns(opened)
    read: _Csv | _Parquet = _Csv(path, columns) if suffix == ".csv" else _Parquet(path, columns)
    y = _labels(opened, read)
    filled = _filled(opened, read.x, y, samples, seed)
    missing = np.isnan(read.x)
    write(place, read.written(filled, missing))
    counts = {column.name: int(count) for column, count in zip(columns, missing.sum(0), strict=True) if count}
    return Imputed(place, len(read.x), counts, samples)


def _columns(opened: Opened) -> Sequence[Column]:
    """Return the columns that the model knows."""
    preprocessing = opened.model.preprocessing
    if isinstance(preprocessing, Columns):
        return preprocessing.columns
    if not isinstance(opened.model.model.likelihood, Mixed | Masked):
        raise UserError(
            f"{opened.path} holds a model of complete rows; expected one that takes missing cells. Train it with "
            "--likelihood mixed."
        )
    return [Column(name, "real") for name in opened.columns]


def _labels(opened: Opened, read: _Csv | _Parquet) -> NDArray[np.int64] | None:
    """Return class numbers, -1 where unknown, of a model with classes; None without."""
    if not opened.model.model.num_classes:
        return None
    label = (opened.decided or {}).get("data", {}).get("origin", {}).get("label")
    cells = read.texts(label) if label in read.names else [""] * len(read.x)
    place = {name: number for number, name in enumerate(opened.model.class_names)}
    return np.array([place.get(cell, -1) for cell in cells])


def _filled(
    opened: Opened, x: NDArray[Any], y: NDArray[np.int64] | None, samples: int, seed: int
) -> NDArray[np.float64]:
    """Return the rows with all cells filled, in raw units."""
    packaged = opened.model
    result = x.astype(np.float64)
    rows = np.flatnonzero(np.isnan(x).any(1))
    if not len(rows):
        return result
    packaged.preprocessing.check(x[rows], "the table")
    for (part,) in in_parts(rows):
        seen = packaged.preprocessing(torch.from_numpy(x[part]))
        labels = None if y is None else torch.from_numpy(y[part])
        found = imputed(packaged.model, seen, labels, samples=samples, seed=seed)
        result[part] = packaged.preprocessing.inverse(found).double().numpy()
    return result


class _Csv:
    """A csv as it is written, and its rows as numbers, (n, columns), NaN where a cell is missing."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.columns, self.path = columns, path
        self.names, self.cells, lines = read_cells(path)
        self.headed = lines[0] > 1
        self.places = [self.names.index(find_column(column.name, self.names, path.name)) for column in columns]
        self.x = np.empty((len(self.cells), len(columns)), dtype=np.float32)
        for at, (column, place) in enumerate(zip(columns, self.places, strict=True)):
            codes = {text: float(number) for number, text in enumerate(column.texts)}
            for row, cells in enumerate(self.cells):
                cell = cells[place].strip()
                gone = not cell if column.texts else cell.lower() in GAPS
                value = math.nan if gone else codes.get(cell) if column.texts else number_of(cell)
                if value is None:
                    raise unknown_cell(f"{path.name}, line {lines[row]}", column, cell)
                self.x[row, at] = value

    def texts(self, name: str) -> list[str]:
        """Return the cells of a column."""
        place = self.names.index(name)
        return [cells[place].strip() for cells in self.cells]

    def written(self, filled: NDArray[np.float64], missing: NDArray[np.bool_]) -> bytes:
        """Return the file with the missing cells filled in."""
        for row, at in np.argwhere(missing):
            self.cells[row][self.places[at]] = str(self.columns[at].written(filled[row, at]))
        text = io.StringIO()
        with self.path.open(encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(text, lineterminator="\n", delimiter=delimiter_of(stream.readline()))
        if self.headed:
            writer.writerow(self.names)
        writer.writerows(self.cells)
        return text.getvalue().encode()


class _Parquet:
    """The same of a parquet file."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        from pyarrow import parquet

        self.columns = columns
        self.table = parquet.read_table(path)
        self.names = list(self.table.column_names)
        read = {}
        for column in columns:
            name = find_column(column.name, self.names, path.name)
            read[name] = read_arrow_column(self.table.column(name), name, path.name)
        self.x = recoded(columns, read, path.name)

    def texts(self, name: str) -> list[str]:
        """Return the cells of a column."""
        return ["" if cell is None else str(cell) for cell in self.table.column(name).to_pylist()]

    def written(self, filled: NDArray[np.float64], missing: NDArray[np.bool_]) -> bytes:
        """Return the file with the missing cells filled in."""
        import pyarrow as pa
        from pyarrow import parquet

        table = self.table
        for at, column in enumerate(self.columns):
            if not missing[:, at].any():
                continue
            place = self.names.index(column.name)
            field = table.schema.field(place)
            cells = table.column(place).to_pylist()
            for row in np.flatnonzero(missing[:, at]):
                cells[row] = _typed(column.written(filled[row, at]), field.type)
            table = table.set_column(place, field, pa.chunked_array([pa.array(cells, type=field.type)]))
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        return buffer.getvalue()


def _typed(value: str | int | float, kind: Any) -> Any:
    """Return a value in what an Arrow type takes."""
    from pyarrow import types

    rules: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
        (types.is_boolean, bool),
        (types.is_integer, round),
        (types.is_floating, float),
    ]
    if types.is_dictionary(kind):
        return _typed(value, kind.value_type)
    return next((make(value) for test, make in rules if test(kind)), value)
