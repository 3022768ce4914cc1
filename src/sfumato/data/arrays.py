"""Arrays: ``.npy`` and ``.npz`` files read with suspicion, and the layouts of images.

The header is read first, with a limit, and must fit the size of the file before anything is allocated. No object or
structured types, so nothing is unpickled.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from sfumato.core.errors import UserError, did_you_mean, listed
from sfumato.data.content import Array, Content
from sfumato.data.files import check_memory

_MAX_HEADER = 10_000
_CHUNK = 1 << 24
_X_KEYS = ("x", "X", "data", "images", "arr_0")
_Y_KEYS = ("y", "Y", "labels", "label", "targets", "target")
_NAME_KEYS = ("class_names", "categories")
_GIVEN = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def read_npy(path: Path) -> Content:
    """Read one array."""
    with path.open("rb") as stream:
        x = _read_array(stream, os.fstat(stream.fileno()).st_size, path.name)
    return Content(path.stem, as_data(x, path.name))


def read_npz(path: Path, label: str | None) -> Content:
    """Read x, y and class names from an archive, or x_train, y_train, x_test, ... as splits that are given.

    Args:
        path: the file.
        label: the key of the labels; without it y, labels or targets, where there is one.

    Raises:
        UserError: not such an archive, a damaged one, no array to take, or no key ``label``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

            def read(key: str) -> Array:
                info = members[key]
                with archive.open(info) as stream:
                    return _read_array(cast(BufferedIOBase, stream), info.file_size, f"{path.name}: {key}")

            if label is not None and label not in members:
                raise UserError(f"{path.name} has no array '{label}'. {did_you_mean(label, members)}")
            names = tuple(map(str, read(key).reshape(-1).tolist())) if (key := _first(_NAME_KEYS, members)) else ()
            if "x_train" in members:
                return _given(path, members, read, names)
            candidates = [key for key in members if key != label]
            x_key = _first(_X_KEYS, members) or (candidates[0] if len(candidates) == 1 else None)
            if x_key is None:
                raise UserError(
                    f"{path.name} should hold an array named x, or x_train and x_test; got "
                    f"{listed(sorted(members)) or 'nothing'}. Rename one."
                )
            y_key = label or _first(_Y_KEYS, members)
            y = read(y_key) if y_key else None
            return Content(path.stem, as_data(read(x_key), path.name), y, names if y is not None else ())
    except (
        zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, UnicodeError
    ) as error:  # fmt: skip
        raise UserError(
            f"{path.name} should be a whole .npz archive; it is damaged ({str(error)[:120]}). Make it again."
        ) from None


def from_python(source: Any) -> Content:
    """Take an array or tensor, or the pair (x, y), that is already in memory; x is not copied."""
    x, y = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    x, y = (value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value for value in (x, y))
    if y is not None:
        y = np.asarray(y)
    if not isinstance(x, np.ndarray):
        raise UserError(
            f"data should be a path, a built-in name, an array, a tensor or the pair (x, y); got {type(x).__name__}. "
            "Convert it with numpy.asarray."
        )
    return Content("array", as_data(x, "the array"), y)


def check_finite(x: Array, source: str, columns: Sequence[str] = ()) -> None:
    """Raise UserError when ``x`` holds NaN or infinity: how many, and where the first is."""
    bad = bad_rows(x)
    if not len(bad):
        return
    first = x[bad[0]]
    place = np.argwhere(~np.isfinite(first))[0]
    where = f"column '{columns[place[0]]}'" if columns else f"position {tuple(map(int, place))}"
    count = sum(int((~np.isfinite(x[row])).sum()) for row in bad)
    what = "NaN" if np.isnan(first[tuple(place)]) else "infinity"
    raise UserError(
        f"{source} should hold finite numbers; {count:,} of {x.size:,} values are not, the first ({what}) in example "
        f"{bad[0]}, {where}. Fill them in, or leave such examples out with --skip-bad."
    )


def bad_rows(x: Array) -> Array:
    """Return the numbers of the examples that hold NaN or infinity."""
    if x.dtype.kind != "f":
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero([not np.isfinite(row).all() for row in x] if x.ndim > 2 else ~np.isfinite(x).all(-1))


def as_images(x: Array) -> Array:
    """Return image-like arrays as (n, channels, height, width) and all others as they came.

    (n, H, W) with both sides at least 8 are grey images. (n, A, B, C) has its channels first when A is 1, 3 or 4, else
    last when C is; when neither is, A counts as the channels.
    """
    if x.ndim == 3 and min(x.shape[1:]) >= 8:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _given(path: Path, members: dict[str, zipfile.ZipInfo], read: Any, names: tuple[str, ...]) -> Content:
    parts: list[Array] = []
    labels: list[Array] = []
    rows: dict[str, Array] = {}
    for split, words in _GIVEN.items():
        key = _first([f"x_{word}" for word in words], members)
        if key is None:
            continue
        x = read(key)
        if parts and (x.shape[1:] != parts[0].shape[1:] or x.dtype != parts[0].dtype):
            raise UserError(
                f"{path.name}: {key} should be like x_train, {parts[0].dtype} {parts[0].shape[1:]}; got {x.dtype} "
                f"{x.shape[1:]}. Convert it."
            )
        start = sum(map(len, parts))
        rows[split] = np.arange(start, start + len(x))
        parts.append(x)
        y_key = key.replace("x_", "y_", 1)
        if y_key in members:
            y = read(y_key)
            if len(y) != len(x):
                raise UserError(
                    f"{path.name} should have one label for each of the {len(x):,} examples of {key}; got {len(y):,}. "
                    "Fix the labels."
                )
            labels.append(y)
    if labels and len(labels) != len(parts):
        raise UserError(
            f"{path.name} should have labels for each of its splits, or for none. Add the missing y_ array."
        )
    y = np.concatenate(labels) if labels else None
    return Content(path.stem, as_data(np.concatenate(parts), path.name), y, names if labels else (), given=rows)


def _first(keys: Sequence[str], members: Any) -> str | None:
    return next((key for key in keys if key in members), None)


def as_data(x: Array, source: str) -> Array:
    """Return ``x`` in a type that torch has and in the layout of images where it is one."""
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        raise UserError(f"{source} should hold numbers of at most 64 bits; got {x.dtype}. Convert it with astype.")
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise UserError(
            f"{source} should have the shape (examples, ...) with at least 2 dimensions; got {x.shape}. Reshape it."
        )
    if len(x) == 0:
        raise UserError(f"{source} should hold examples; it has none, shape {x.shape}. Use the original file.")
    if x.dtype.kind == "u" and x.dtype.itemsize > 1:
        if x.dtype.itemsize == 8 and x.max() > np.iinfo(np.int64).max:
            raise UserError(f"{source} should hold whole numbers below 2^63; got {x.max()}. Rescale it.")
        x = x.astype(np.int32 if x.dtype.itemsize == 2 else np.int64)
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    return as_images(x.astype(x.dtype.newbyteorder("="), copy=False))


def _read_array(stream: BufferedIOBase, size: int, source: str) -> Array:
    """Read one array in numpy's format from a ``stream`` of ``size`` bytes."""
    shape, fortran, dtype, start = read_header(stream, source)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise UserError(f"{source} should hold plain numbers; got {dtype}. Save it again with a numeric dtype.")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or start + expected != size:
        raise UserError(
            f"{source} should have {start + expected:,} bytes by its header ({dtype}, {shape}); it has {size:,}. "
            "The file is cut or damaged: make it again."
        )
    check_memory(expected, source)
    buffer = np.empty(expected, dtype=np.uint8)
    view, filled = buffer.data, 0
    while filled < expected:
        count = stream.readinto(view[filled : filled + _CHUNK])
        if not count:
            raise UserError(f"{source} ends after {filled:,} of {expected:,} bytes. Make the file again.")
        filled += count
    array = buffer.view(dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def read_header(stream: BufferedIOBase, source: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether columns come first, type, and the number of bytes before the values."""
    counted = _Counting(stream)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files that Python 2 wrote
            version = np.lib.format.read_magic(counted)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"format version {version}")
            old = version == (1, 0)
            read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(counted, max_header_size=_MAX_HEADER)
            if not all(type(size) is int for size in shape):  # numpy takes True for a size
                raise ValueError(f"a shape of {shape}")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{source} should be an array written by numpy.save; its header is not ({reason[:120]}). Save it again."
        ) from None
    return shape, fortran, dtype, counted.count


class _Counting:
    """A stream that knows how many bytes were read, and refuses a header that claims to be huge."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self.stream, self.count = stream, 0

    def read(self, size: int = 0, /) -> bytes:
        if size > 1 << 16:
            raise ValueError(f"a header of {size:,} bytes")
        data = self.stream.read(size)
        self.count += len(data)
        return data
