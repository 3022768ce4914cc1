"""Tables: csv and parquet, numbers in every column but the label."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import UserError, did_you_mean
from sfumato.data.content import Array, Content
from sfumato.data.files import check_memory


def read_csv(path: Path, label: str | None, skip_bad: bool) -> Content:
    """Read a csv of numbers: utf-8 (with or without a mark), separated by comma, semicolon or tab, strictly quoted.

    The first row names the columns, unless all its cells are numbers: then they are c0, c1, ...

    Args:
        path: the file.
        label: the column that holds the classes; its cells may be texts, and empty ones mean unknown.
        skip_bad: leave out rows with empty cells.

    Raises:
        UserError: ragged rows, cells that are no numbers (with line and column), an unknown column, bad quotes or text.
    """
    cells: list[list[str]] = []
    lines: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            delimiter = max(",;\t", key=first.count)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for row in reader:
                if not row:
                    continue
                if cells and len(row) != len(cells[0]):
                    raise UserError(
                        f"{path.name}, line {reader.line_num}: expected {len(cells[0])} cells as in the first line; got"
                        f" {len(row)}. Fix that line."
                    )
                cells.append(row)
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} should be utf-8 text; byte {error.start:,} is not. Save it as utf-8.") from None
    except csv.Error as error:
        line = lines[-1] + 1 if lines else 1
        raise UserError(f"{path.name}, line {line}: expected csv with closed quotes; got: {error}. Fix it.") from None
    if cells and not all(_number(cell) is not None for cell in cells[0]):
        columns, cells, lines = [cell.strip() for cell in cells[0]], cells[1:], lines[1:]
    else:
        columns = [f"c{number}" for number in range(len(cells[0]))] if cells else []
    if not cells:
        raise UserError(f"{path.name} should be a table with rows of numbers; it has none. Give another file.")
    wanted, target = choose_columns(columns, label, path.name)
    values = np.empty((len(cells), len(wanted)), dtype=np.float64)
    empty: list[tuple[int, str]] = []
    for position, row in enumerate(cells):
        for place, column in enumerate(wanted):
            number = _number(row[column])
            if number is None and row[column].strip():
                raise UserError(
                    f"{path.name}, line {lines[position]}, column '{columns[column]}': expected a number; got "
                    f"{row[column][:40]!r}. Fix it, take the column out, or name it with --label."
                )
            if number is None:
                empty.append((lines[position], columns[column]))
            values[position, place] = math.nan if number is None else number
    if empty and not skip_bad:
        raise UserError(
            f"{path.name} should have a number in each cell; {len(empty):,} are empty, the first in line {empty[0][0]},"
            f" column '{empty[0][1]}'. Fill them in, or leave such rows out with --skip-bad."
        )
    y = None if target is None else read_labels([row[target].strip() for row in cells])
    return Content(path.stem, narrow(values, path.name), y, columns=tuple(columns[column] for column in wanted))


def read_parquet(path: Path, label: str | None, skip_bad: bool) -> Content:
    """Read a parquet file of numbers; its schema is checked first. Arguments and errors as :func:`read_csv`."""
    check_arrow(path.name)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = list(schema.names)
            wanted, target = choose_columns(columns, label, path.name)
            check_numeric(schema, wanted, path.name)
            check_memory(8 * file.metadata.num_rows * len(columns), path.name)
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    if not table.num_rows:
        raise UserError(f"{path.name} should be a table with rows of numbers; it has none. Give another file.")
    values = np.stack([table.column(column).cast(pa.float64()).to_numpy() for column in wanted], axis=1)
    missing = {columns[column]: table.column(column).null_count for column in wanted}
    if any(missing.values()) and not skip_bad:
        name = next(name for name, count in missing.items() if count)
        row = int(np.flatnonzero(np.isnan(values[:, [columns[column] for column in wanted].index(name)]))[0])
        raise UserError(
            f"{path.name} should have a number in each cell; {sum(missing.values()):,} are empty, the first in row "
            f"{row}, column '{name}'. Fill them in, or leave such rows out with --skip-bad."
        )
    y = None
    if target is not None:
        y = read_labels(["" if cell is None else str(cell) for cell in table.column(target).to_pylist()])
    return Content(path.stem, narrow(values, path.name), y, columns=tuple(columns[column] for column in wanted))


def check_arrow(source: str) -> None:
    """Raise UserError unless pyarrow is installed, which reading ``source`` needs."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{source} needs pyarrow, which is not installed. Run: pip install 'sfumato[parquet]'.")


def unreadable(path: Path, error: Exception) -> UserError:
    """Return what is to be said of a parquet or Arrow file that pyarrow cannot read."""
    text = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    kind = "a parquet" if path.suffix.lower() == ".parquet" else "an Arrow"
    return UserError(f"{path.name} should be {kind} file; it cannot be read ({text}). Make it again.")


def check_numeric(schema: Any, wanted: Sequence[int], source: str) -> None:
    """Raise UserError unless the columns ``wanted`` of an Arrow ``schema`` hold numbers."""
    from pyarrow import types

    for column in wanted:
        field = schema.field(column)
        if not (types.is_integer(field.type) or types.is_floating(field.type) or types.is_boolean(field.type)):
            raise UserError(
                f"{source}, column '{field.name}': expected numbers; got {field.type}. Take the column out, "
                "or name it with --label."
            )


def choose_columns(columns: Sequence[str], label: str | None, source: str) -> tuple[list[int], int | None]:
    """Return the places of the data columns and of the label."""
    if len({*columns}) < len(columns):
        twice = next(name for place, name in enumerate(columns) if name in columns[:place])
        raise UserError(f"{source} should name every column once; '{twice}' is there twice. Rename one.")
    if label is not None and label not in columns:
        raise UserError(
            f"{source} has no column '{label}'. {did_you_mean(label, columns)} Columns: {', '.join(columns[:20])}."
        )
    target = None if label is None else columns.index(label)
    wanted = [place for place in range(len(columns)) if place != target]
    if not wanted:
        raise UserError(f"{source} should have columns of numbers beside the label; it has none. Give another file.")
    return wanted, target


def _number(cell: str) -> float | None:
    """Return the number that ``cell`` writes, None for anything else (also for Python's 1_000)."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number


def read_labels(cells: list[str]) -> Array:
    """Return numbers where all cells are numbers (an empty one is -1, unknown), else texts."""
    numbers = [_number(cell) if cell else -1.0 for cell in cells]
    if any(number is None for number in numbers):
        return np.array(cells, dtype=str)
    return np.array(numbers, dtype=np.float64)


def narrow(values: Array, source: str) -> Array:
    """Return float32; numbers too large for it are refused."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(values)
    if lost.any():
        raise UserError(f"{source} should hold numbers below 3.4e38; got {values[lost][0]:g}. Rescale that column.")
    return narrow
