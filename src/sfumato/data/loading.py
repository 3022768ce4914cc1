"""One door for all data: a folder, a file, a built-in name or an array, to a :class:`Dataset`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import UserError
from sfumato.core.paths import check_exists
from sfumato.core.spec import Count, checked
from sfumato.data.arrays import bad_rows, check_finite, from_python, read_npy, read_npz
from sfumato.data.builtin import BUILTIN, fashion_mnist, holds_fashion_mnist, load_builtin
from sfumato.data.content import MISSING, Content
from sfumato.data.dataset import Dataset
from sfumato.data.files import (
    ARRAY_SUFFIXES,
    IMAGE_SUFFIXES,
    PICKLE_SUFFIXES,
    TABLE_SUFFIXES,
    check_regular,
    refuse_pickle,
)
from sfumato.data.images import MAX_PIXELS, read_images
from sfumato.data.labels import class_numbers
from sfumato.data.objects import from_object, kind_of, to_array
from sfumato.data.splits import make_splits
from sfumato.data.streams import Rows, stream_content, why_streamed
from sfumato.data.tables import read_csv, read_parquet


def load_dataset(
    source: Any,
    *,
    size: int | Sequence[int] | None = None,
    label: str | None = None,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    stream: bool | None = None,
    layer: str | None = None,
    mixed: bool = False,
) -> Dataset:
    """Read, check and split data.

    Args:
        source: a folder of images (sub-folders are classes; ``train``, ``val``, ``test`` are splits), ``.npy``,
            ``.npz``, ``.csv``, ``.parquet``, a built-in name, an array or tensor, or the pair (x, y). Streamed only:
            ``.arrow``, and a ``.tar`` shard or a folder of them. Or a frame (pandas, polars, Arrow), an AnnData, a
            Hugging Face dataset, a torch ``Dataset`` or ``DataLoader``, which is read once, in its own order.
        size: the side of the images, or (height, width): cut to that aspect from the centre, then resized (Lanczos).
            Needed where sizes differ.
        label: the column, or the array of an ``.npz``, that holds the classes; of AnnData a column of ``obs``.
        split: the shares of train, validation and test. Where the source has splits of its own they are kept, and what
            is missing is that share of its training examples.
        seed: fixes the splits.
        skip_bad: leave out, and record, damaged images and examples with missing or infinite values.
        max_pixels: refuse larger images before they are decoded.
        stream: read examples when they are asked for, not before; None: where they would take more than an eighth of
            the machine's memory. Facts then come from a sample, and duplicates are not looked for.
        layer: the layer of an AnnData, in place of its ``X``.
        mixed: read a table column by column, for ``--likelihood mixed``: texts are categories, cells may be missing.

    Returns:
        the data set. ``load_dataset(**dataset.origin)`` gives it again, unless it came from an array.

    Raises:
        UserError: anything that cannot be used, in one sentence.
    """
    shares = _check_split(split)
    seed = checked(seed, Count, "--seed")
    side = _check_size(size)
    content, path = _read(source, side, label, skip_bad, max_pixels, stream, layer, mixed)
    title = _title(content, path)
    y, class_names = class_numbers(content.y, len(content.x), title, content.class_names)
    content = replace(content, y=y, class_names=class_names)
    streamed = isinstance(content.x, Rows)
    if skip_bad and not streamed:
        content = _without_bad(content)
    if not streamed:
        x = np.nan_to_num(content.x, posinf=np.inf, neginf=-np.inf) if content.texts else content.x
        check_finite(x, title, content.columns)
    origin = {
        "source": path,
        "size": None if side is None else list(side),
        "label": label,
        "split": list(shares),
        "seed": seed,
        "skip_bad": skip_bad,
        "max_pixels": max_pixels,
        "stream": streamed,
    } | {name: value for name, value in {"layer": layer, "mixed": mixed or None}.items() if value is not None}
    return Dataset(
        name=content.name,
        x=content.x,
        y=content.y,
        splits=make_splits(content, shares, seed),
        class_names=class_names,
        columns=content.columns,
        items=content.items,
        left_out=content.left_out,
        origin=origin,
        given_splits=len(content.given) > 1,
        loader=content.loader,
        texts=content.texts,
    )


def _read(
    source: Any,
    size: tuple[int, int] | None,
    label: str | None,
    skip_bad: bool,
    max_pixels: int,
    stream: bool | None,
    layer: str | None,
    mixed: bool,
) -> tuple[Content, str | None]:
    """Return what ``source`` holds and, for a file, its absolute path; for a built-in set, its name."""
    if source is None:
        raise UserError(
            "data that came from an array in Python cannot be found again; expected it. Pass the same array."
        )
    if not isinstance(source, str | os.PathLike):
        _refuse(size, None, type(source).__name__ if kind_of(source) else "an array", stream)
        content = from_object(source, label, layer, mixed)
        if content is None:
            _refuse(None, label, "an array")
            content = from_python(to_array(source))
        return content, None
    if layer is not None:
        raise UserError(f"layer is for AnnData; got it with {os.fspath(source)}. Leave it out.")
    text = os.fspath(source)
    if text in BUILTIN:
        _refuse(size, label, text, stream)
        return load_builtin(text), text
    path = check_exists(text, BUILTIN)
    absolute = str(path.resolve())
    suffix = path.suffix.lower()
    if path.is_dir():
        if holds_fashion_mnist(path):
            _refuse(size, label, text, stream)
            return fashion_mnist(path), absolute
        _refuse(None, label, "a folder of images (its classes are the sub-folders)")
        if because := why_streamed(path, size, stream, max_pixels):
            return stream_content(path, size, label, skip_bad, max_pixels, because), absolute
        return read_images(path, size, skip_bad, max_pixels), absolute
    check_regular(path)
    if suffix in PICKLE_SUFFIXES:
        refuse_pickle(path)
    if suffix in IMAGE_SUFFIXES:
        raise UserError(f"{path.name} is a single image; expected many. Give the folder that holds them.")
    _refuse(None if suffix == ".tar" else size, label if suffix in (".npy", ".tar") else None, path.name)
    if not mixed and (because := why_streamed(path, size, stream, max_pixels)):
        return stream_content(path, size, label, skip_bad, max_pixels, because), absolute
    if suffix == ".npy":
        return read_npy(path), absolute
    if suffix == ".npz":
        return read_npz(path, label), absolute
    if suffix == ".csv":
        return read_csv(path, label, skip_bad, mixed), absolute
    if suffix == ".parquet":
        return read_parquet(path, label, skip_bad, mixed), absolute
    known = " ".join((*ARRAY_SUFFIXES, *TABLE_SUFFIXES))
    raise UserError(
        f"{path.name} is not data that sfumato reads; expected a folder of images or a file that ends in {known}. "
        "Convert it to one of these."
    )


def _refuse(size: tuple[int, int] | None, label: str | None, what: str, stream: bool | None = None) -> None:
    """An option that would do nothing is a mistake, not a wish to ignore."""
    if stream:
        raise UserError(f"--stream is for files that are read when they are asked for; got {what}. Leave it out.")
    if size is not None:
        raise UserError(f"--size is for folders of images; got it with {what}. Leave it out.")
    if label is not None:
        raise UserError(f"--label is for tables and .npz files; got it with {what}. Leave it out.")


def _title(content: Content, path: str | None) -> str:
    return content.name if path is None or path in BUILTIN else Path(path).name


def _without_bad(content: Content) -> Content:
    bad = bad_rows(content.x)
    if not len(bad):
        return content
    keep = np.setdiff1d(np.arange(len(content.x)), bad)
    position = np.full(len(content.x), -1)
    position[keep] = np.arange(len(keep))
    left_out = tuple((f"row {row}", MISSING) for row in bad.tolist())
    return replace(
        content,
        x=content.x[keep],
        y=None if content.y is None else content.y[keep],
        items=None if content.items is None else tuple(content.items[row] for row in keep),
        left_out=content.left_out + left_out,
        given={name: position[rows][position[rows] >= 0] for name, rows in content.given.items()},
    )


def _check_split(split: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(checked(list(split), list[float], "--split"))
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        got = ",".join(f"{share:g}" for share in shares)
        raise UserError(
            f"--split should be the shares of train, validation and test, which add up to 1; got {got}. "
            "Write for instance 0.8,0.1,0.1."
        )
    return shares


def _check_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides: list[Any] = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise UserError(f"--size should be one whole number, or height and width; got {size}. Write for instance 64.")
    if not all(1 <= side <= 4096 for side in sides):
        raise UserError(f"--size should be from 1 to 4,096; got {size}. Write for instance 64.")
    return sides[0], sides[1]
