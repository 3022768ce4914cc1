"""Tables: csv and parquet, numbers in every column but the label; or read column by column, texts and gaps included."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import UserError, did_you_mean
from sfumato.data.columns import MOST_TEXTS
from sfumato.data.content import Array, Content
from sfumato.data.files import check_memory

GAPS = ("", "na", "n/a", "nan", "null", "none", "?")  # how a missing number is written, whatever the case


def read_csv(path: Path, label: str | None, skip_bad: bool, mixed: bool = False) -> Content:
    """Read a csv of numbers: utf-8 (with or without a mark), separated by comma, semicolon or tab, strictly quoted.

    The first row names the columns, unless all its cells are numbers: then they are c0, c1, ...

    Args:
        path: the file.
        label: the column that holds the classes; its cells may be texts, and empty ones mean unknown.
        skip_bad: leave out rows with empty cells.
        mixed: read every column by itself: texts become numbers with names, and cells may be missing.

    Raises:
        UserError: ragged rows, cells that are no numbers (with line and column), an unknown column, bad quotes or text.
    """
    columns, cells, lines = read_cells(path)
    wanted, target = choose_columns(columns, label, path.name)
    y = None if target is None else read_labels([row[target].strip() for row in cells])
    names = tuple(columns[column] for column in wanted)
    if mixed:
        read = [read_column([row[column].strip() for row in cells], columns[column], path.name) for column in wanted]
        return by_column(path.stem, read, y, names, path.name)
    values = np.empty((len(cells), len(wanted)), dtype=np.float64)
    empty: list[tuple[int, str]] = []
    for position, row in enumerate(cells):
        for place, column in enumerate(wanted):
            number = number_of(row[column])
            if number is None and row[column].strip():
                raise UserError(
                    f"{path.name}, line {lines[position]}, column '{columns[column]}': expected a number; got "
                    f"{row[column][:40]!r}. Fix it, take the column out, name it with --label, or read every column by "
                    "its kind with --likelihood mixed."
                )
            if number is None:
                empty.append((lines[position], columns[column]))
            values[position, place] = math.nan if number is None else number
    if empty and not skip_bad:
        raise UserError(
            f"{path.name} should have a number in each cell; {len(empty):,} are empty, the first in line {empty[0][0]},"
            f" column '{empty[0][1]}'. Fill them in, leave such rows out with --skip-bad, or train with --likelihood "
            "mixed, for which cells may be missing."
        )
    return Content(path.stem, narrow(values, path.name), y, columns=names)


def read_cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the names of the columns of a csv, its rows as they are written, and the line of each."""
    cells: list[list[str]] = []
    lines: list[int] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = delimiter_of(stream.readline())
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
    if cells and not all(number_of(cell) is not None for cell in cells[0]):
        columns, cells, lines = [cell.strip() for cell in cells[0]], cells[1:], lines[1:]
    else:
        columns = [f"c{number}" for number in range(len(cells[0]))] if cells else []
    if not cells:
        raise UserError(f"{path.name} should be a table with rows of numbers; it has none. Give another file.")
    return columns, cells, lines


def delimiter_of(first: str) -> str:
    """Return what separates the cells of the first line of a csv."""
    return max(",;\t", key=first.count)


def read_column(cells: Sequence[Any], name: str, source: str) -> tuple[Array, tuple[str, ...]]:
    """Return a column as numbers, float64 with NaN where nothing is there, and the texts that they stand for.

    It holds numbers where at least half of its filled cells are numbers; then gaps may also be written as one of
    ``GAPS``. Else it holds texts, and the numbers are their places in alphabetical order.

    Args:
        cells: texts, or None where nothing is there.
        name: of the column.
        source: of the table.

    Raises:
        UserError: a text among numbers, or too many different texts.
    """
    numbers = [None if cell is None else number_of(cell) for cell in cells]
    filled = [cell for cell in cells if cell is not None and cell.lower() not in GAPS]
    if 2 * sum(number is not None and not math.isnan(number) for number in numbers) >= len(filled):
        odd = next((cell for cell in filled if number_of(cell) is None), None)
        if odd is not None:
            raise UserError(
                f"{source}, column '{name}': expected numbers, as in most of its cells; got {odd[:40]!r}. Fix it, or "
                "take the column out."
            )
        return np.array([math.nan if number is None else number for number in numbers]), ()
    texts = sorted({cell for cell in cells if cell})
    if len(texts) > MOST_TEXTS:
        raise UserError(
            f"{source}, column '{name}': expected at most {MOST_TEXTS} different texts; got {len(texts):,}. Take the "
            "column out, or name it with --label."
        )
    place = {text: float(number) for number, text in enumerate(texts)}
    return np.array([place.get(cell, math.nan) if cell else math.nan for cell in cells]), tuple(texts)


def by_column(
    name: str, read: Sequence[tuple[Array, tuple[str, ...]]], y: Array | None, names: tuple[str, ...], source: str
) -> Content:
    """Return a table that was read column by column."""
    values = narrow(np.stack([column for column, _ in read], axis=1), source)
    return Content(name, values, y, columns=names, texts=tuple(texts for _, texts in read))


def read_parquet(path: Path, label: str | None, skip_bad: bool, mixed: bool = False) -> Content:
    """Read a parquet file of numbers; its schema is checked first. Arguments and errors as :func:`read_csv`.

    With ``mixed``, columns of texts and of Arrow's dictionaries are categories; of the latter also where they are
    numbers.
    """
    check_arrow(path.name)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = list(schema.names)
            wanted, target = choose_columns(columns, label, path.name)
            if not mixed:
                check_numeric(schema, wanted, path.name)
            check_memory(8 * file.metadata.num_rows * len(columns), path.name)
            table = file.read()
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise unreadable(path, error) from None
    if not table.num_rows:
        raise UserError(f"{path.name} should be a table with rows of numbers; it has none. Give another file.")
    y = None
    if target is not None:
        y = read_labels(["" if cell is None else str(cell) for cell in table.column(target).to_pylist()])
    names = tuple(columns[column] for column in wanted)
    if mixed:
        read = [read_arrow_column(table.column(column), columns[column], path.name) for column in wanted]
        return by_column(path.stem, read, y, names, path.name)
    values = np.stack([table.column(column).cast(pa.float64()).to_numpy() for column in wanted], axis=1)
    missing = {columns[column]: table.column(column).null_count for column in wanted}
    if any(missing.values()) and not skip_bad:
        name = next(name for name, count in missing.items() if count)
        row = int(np.flatnonzero(np.isnan(values[:, [columns[column] for column in wanted].index(name)]))[0])
        raise UserError(
            f"{path.name} should have a number in each cell; {sum(missing.values()):,} are empty, the first in row "
            f"{row}, column '{name}'. Fill them in, leave such rows out with --skip-bad, or train with --likelihood "
            "mixed, for which cells may be missing."
        )
    return Content(path.stem, narrow(values, path.name), y, columns=names)


def read_arrow_column(column: Any, name: str, source: str) -> tuple[Array, tuple[str, ...]]:
    """Return a column of an Arrow table as :func:`read_column` does; its type says whether it holds texts."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64), ()
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type).cast(pa.string())
    elif not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise UserError(f"{source}, column '{name}': expected numbers or texts; got {kind}. Take the column out.")
    cells = column.to_pylist()
    texts = [None if cell is None else f"={cell}" for cell in cells]  # so that no text is taken for a number
    values, named = read_column(texts, name, source)
    return values, tuple(text[1:] for text in named)


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
                f"{source}, column '{field.name}': expected numbers; got {field.type}. Take the column out, name it "
                "with --label, or read every column by its kind with --likelihood mixed."
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


def number_of(cell: str) -> float | None:
    """Return the number that ``cell`` writes, None for anything else (also for Python's 1_000)."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return None if "_" in cell else number


def read_labels(cells: list[str]) -> Array:
    """Return numbers where all cells are numbers (an empty one is -1, unknown), else texts."""
    numbers = [number_of(cell) if cell else -1.0 for cell in cells]
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
