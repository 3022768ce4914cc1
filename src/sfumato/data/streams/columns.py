"""Parquet and Arrow tables, laid out once as rows of float32.

One row of a parquet file costs its whole row group, and an exact shuffle asks for 128 rows of nearly as many groups. So
the groups are read once, one after the other and a part at a time, and their rows written to an unnamed file in the
folder for temporary files (``TMPDIR``), which is gone when the process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.content import MISSING, Array, Content
from sfumato.data.labels import class_numbers
from sfumato.data.streams.flat import FlatRows
from sfumato.data.streams.rows import stamp
from sfumato.data.tables import check_arrow, check_numeric, choose_columns, narrow, read_labels, unreadable

ARROW_SUFFIXES = (".arrow", ".feather")
_ROWS = 1 << 15


def stream_table(path: Path, label: str | None, skip_bad: bool) -> Content:
    """Lay out a ``.parquet``, ``.arrow`` or ``.feather`` file of numbers and return its rows.

    Args:
        path: the file.
        label: the column that holds the classes.
        skip_bad: leave out rows with missing or infinite values.

    Raises:
        UserError: not such a file; columns that hold no numbers; missing values; no room for the rows.
    """
    check_arrow(path.name)
    import pyarrow as pa

    try:
        with path.open("rb") as stream:
            schema, batches = _open(path, stream)
            columns = list(schema.names)
            wanted, target = choose_columns(columns, label, path.name)
            check_numeric(schema, wanted, path.name)
            return _lay_out(path, columns, wanted, target, batches, skip_bad)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise unreadable(path, error) from None


def table_bytes(path: Path) -> int:
    """Return how much memory a parquet or Arrow file would take as numbers: by its header, or its size."""
    import pyarrow as pa
    from pyarrow import parquet

    if path.suffix.lower() != ".parquet":
        return path.stat().st_size
    try:
        with parquet.ParquetFile(path) as file:
            return 8 * int(file.metadata.num_rows) * int(file.metadata.num_columns)
    except (pa.ArrowException, OSError, UnicodeError):
        return 0  # whoever reads it says why it cannot be


def _open(path: Path, stream: Any) -> tuple[Any, Iterator[Any]]:
    """Return the schema and the record batches of a file, in order."""
    import pyarrow as pa
    from pyarrow import ipc, parquet

    if path.suffix.lower() == ".parquet":
        file = parquet.ParquetFile(stream, pre_buffer=False)
        return file.schema_arrow, file.iter_batches(batch_size=_ROWS, use_threads=False)
    try:
        reader = ipc.open_file(stream)
        return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        stream.seek(0)
        reader = ipc.open_stream(stream)
        return reader.schema, iter(reader)


def _lay_out(
    path: Path, columns: list[str], wanted: list[int], target: int | None, batches: Iterator[Any], skip_bad: bool
) -> Content:
    names = [columns[place] for place in wanted]
    codes: dict[str, int] = {}
    labels: list[NDArray[np.int64]] = []
    left_out: list[tuple[str, str]] = []
    count = seen = 0
    with tempfile.TemporaryFile(prefix="sfumato-") as out:
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS):
                part = batch.slice(start, _ROWS)
                values = _values(part, wanted, path.name)
                good: Array = np.asarray(np.isfinite(values).all(1))
                if not good.all():
                    _note_bad(values, good, seen, names, path.name, skip_bad, left_out)
                if target is not None:
                    labels.append(_codes(part.column(target), codes)[good])
                values = values[good]
                _check_room(values.nbytes, path)
                out.write(np.ascontiguousarray(values).data)
                count, seen = count + len(values), seen + part.num_rows
        if not count:
            raise UserError(f"{path.name} should be a table with rows of numbers; it has none. Give another file.")
        out.flush()
        rows = FlatRows(os.dup(out.fileno()), 0, np.dtype(np.float32), (count, len(wanted)), path.name, stamp(path))
    y: Array | None = None
    class_names: tuple[str, ...] = ()
    if target is not None:
        distinct = read_labels(list(codes))
        numbers, class_names = class_numbers(distinct, len(distinct), path.name)
        assert numbers is not None
        y = numbers[np.concatenate(labels)]
    return Content(
        path.stem,
        rows.array(),
        y,
        class_names=class_names,
        columns=tuple(names),
        left_out=tuple(left_out),
    )


def _values(part: Any, wanted: list[int], source: str) -> Array:
    """Return the numbers of a record batch as float32, NaN where there is none."""
    import pyarrow as pa

    values = [part.column(place).cast(pa.float64()).to_numpy(zero_copy_only=False) for place in wanted]
    return narrow(np.stack(values, axis=1), source)


def _codes(column: Any, codes: dict[str, int]) -> NDArray[np.int64]:
    """Return a number for each label; labels that are new are added to ``codes``."""
    encoded = column.dictionary_encode()
    texts = ["" if cell is None else str(cell) for cell in encoded.dictionary.to_pylist()]
    numbers = np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.int64)
    places: Array = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    missing = codes.setdefault("", len(codes)) if (places < 0).any() else -1
    return np.append(numbers, missing)[places]


def _note_bad(
    values: Array,
    good: Array,
    seen: int,
    names: list[str],
    source: str,
    skip_bad: bool,
    left_out: list[tuple[str, str]],
) -> None:
    rows = np.flatnonzero(~good)
    if not skip_bad:
        column = names[int(np.flatnonzero(~np.isfinite(values[rows[0]]))[0])]
        raise UserError(
            f"{source} should have a finite number in each cell; row {seen + int(rows[0])}, column '{column}', has "
            "none. Fill it in, or leave such rows out with --skip-bad."
        )
    left_out += [(f"row {seen + row}", MISSING) for row in rows.tolist()]


def _check_room(size: int, path: Path) -> None:
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size + (1 << 28):
        raise UserError(
            f"{path.name} is laid out once as rows in {folder}, which is full. Name a folder with more room: TMPDIR=..."
        )
