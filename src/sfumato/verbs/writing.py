"""Files that verbs write: pictures, arrays, tables. Whole or not at all, and never over something that is there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data import Column, Preprocessing
from sfumato.io import store
from sfumato.io.store import explained, shown
from sfumato.report import image_grid, to_uint8
from sfumato.verbs.opening import Opened

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = 16


def output_path(path: str | Path | None, default: str, suffixes: Sequence[str], force: bool) -> Path:
    """Return where to write, refused before any work is done.

    Args:
        path: what was asked for; None: ``default`` in the current folder.
        default: a name.
        suffixes: the endings that are possible here.
        force: allow a file to be there.

    Raises:
        UserError: another ending, something is there, or a folder.
    """
    path = Path(default) if path is None else Path(path).expanduser()
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path} should end in {' or '.join(suffixes)}. Choose another name.")
    if path.is_dir():
        raise UserError(f"{shown(path)} is a folder. Give the name of a file.")
    if os.path.lexists(path) and not force:
        raise UserError(f"{shown(path)} exists. Choose another name, or replace it with --force.")
    return path


def result_path(opened: Opened, path: str | Path | None, stem: str, force: bool) -> Path:
    """Return where examples that a model made go: a picture for images, else a table or arrays."""
    if opened.is_images:
        return output_path(path, f"{stem}.png", (".png", ".npz"), force)
    table = len(opened.model.preprocessing.shape) == 1
    if path is not None and Path(path).suffix.lower() == ".png":
        what = "rows of a table" if table else "arrays"
        raise UserError(f"this model makes {what}, not images, so there is no PNG. Write to a file that ends in .npz.")
    suffixes = (".csv", ".npz") if table else (".npz",)
    return output_path(path, stem + suffixes[0], suffixes, force)


def write_picture(path: Path, rows: Sequence[tuple[str, NDArray[Any]]], preprocessing: Preprocessing) -> Path:
    """Write a PNG of captioned rows of raw images; long rows are broken, short ones filled up with white."""
    columns = min(COLUMNS, max(len(images) for _, images in rows))
    cells, captions = [], []
    for caption, images in rows:
        pixels = to_uint8(images, preprocessing)
        for start in range(0, len(pixels), columns):
            line = pixels[start : start + columns]
            cells += [line, np.full((columns - len(line), *line.shape[1:]), 255, np.uint8)]
            captions.append(caption if start == 0 else "")
    picture = image_grid(np.concatenate(cells), columns, captions if any(captions) else None)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return write(path, buffer.getvalue())


def write_arrays(path: Path, **arrays: NDArray[Any]) -> Path:
    """Write a compressed ``.npz`` without objects."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return write(path, buffer.getvalue())


def write_table(
    path: Path,
    columns: Sequence[str],
    rows: NDArray[Any],
    classes: Sequence[str] | None = None,
    kinds: Sequence[Column] | None = None,
) -> Path:
    """Write a csv; ``classes`` is one more column, named class; ``kinds`` say how each column writes its cells.

    Texts are quoted by :func:`no_formula`.
    """
    kinds = kinds or [Column(name, "real") for name in columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(map(no_formula, columns))
    writer.writerow([*names, "class"] if classes is not None else names)
    for number, row in enumerate(rows):
        cells = [_cell(kind, value) for kind, value in zip(kinds, row.tolist(), strict=True)]
        writer.writerow([*cells, no_formula(classes[number])] if classes is not None else cells)
    return write(path, text.getvalue().encode())


def _cell(kind: Column, value: float) -> str:
    if kind.texts:
        return no_formula(str(kind.written(value)))
    return str(kind.written(value)) if kind.whole else f"{value:.7g}"


def no_formula(text: str) -> str:
    """Return ``text`` with a ' in front where a spreadsheet would take it for a formula; every line end is a \\n.

    >>> no_formula("=1+1"), no_formula("3-4")
    ("'=1+1", '3-4')
    """
    quoted = f"'{text}" if text.startswith(FORMULAS) else text
    return quoted.replace("\r\n", "\n").replace("\r", "\n")  # a lone \r would end a line, for csv quotes it not


def write(path: Path, data: bytes) -> Path:
    """Write a file, and the folders that it needs."""
    with explained(path):
        store.make_folder(path.absolute().parent)
    store.write_file(path, data)
    return path
