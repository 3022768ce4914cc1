"""Whether data are read when they are asked for instead of before, and by whom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import cast

from sfumato.core.errors import UserError
from sfumato.data.content import Content
from sfumato.data.files import machine_memory
from sfumato.data.images import BadImage, opened_image, walk
from sfumato.data.streams.columns import ARROW_SUFFIXES, stream_table, table_bytes
from sfumato.data.streams.encoded import stream_images
from sfumato.data.streams.flat import open_npy
from sfumato.data.streams.rows import Rows
from sfumato.data.streams.shards import SHARD_SUFFIX, find_shards, stream_shards

SHARE = 8
ALWAYS = (SHARD_SUFFIX, *ARROW_SUFFIXES)
_CAN = "a folder of images, .npy, .parquet, .arrow or .tar"


def why_streamed(path: Path, size: tuple[int, int] | None, stream: bool | None, max_pixels: int) -> str:
    """Return the reason to stream the data at ``path``, or "" to read them into memory.

    Args:
        path: a file or a folder.
        size: (height, width) that images are resized to.
        stream: what was asked for; None: decide.
        max_pixels: the largest width times height.

    Raises:
        UserError: what was asked for is not possible.
    """
    if path.suffix.lower() in ALWAYS or (path.is_dir() and _holds_shards(path)):
        if stream is False:
            raise UserError(f"{path.name} can only be streamed; got --no-stream. Leave it out.")
        return (
            "asked for" if stream else "shards are read by seeking" if path.is_dir() else f"{path.suffix} is streamed"
        )
    if not (path.is_dir() or path.suffix.lower() in (".npy", ".parquet")):
        if stream:
            raise UserError(f"{path.name} cannot be streamed; expected {_CAN}. Convert it, or leave out --stream.")
        return ""
    if stream is not None:
        return "asked for" if stream else ""
    memory = machine_memory()
    needed = _needed(path, size, max_pixels)
    if memory is None or needed <= memory // SHARE:
        return ""
    return f"{needed / 2**30:,.1f} GiB in memory, more than an eighth of this machine's {memory / 2**30:,.1f}"


def stream_content(
    path: Path, size: tuple[int, int] | None, label: str | None, skip_bad: bool, max_pixels: int, because: str
) -> Content:
    """Return what ``path`` holds, its x a :class:`~sfumato.data.streams.rows.Rows`; arguments as ``load_dataset``."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == SHARD_SUFFIX:
        content = (stream_shards if suffix == SHARD_SUFFIX or _holds_shards(path) else stream_images)(
            path, size, skip_bad, max_pixels
        )
    elif suffix == ".npy":
        content = Content(path.stem, open_npy(path).array())
    else:
        content = stream_table(path, label, skip_bad)
    cast(Rows, content.x).because = because
    return content


def _holds_shards(folder: Path) -> bool:
    return bool(find_shards(folder)) and next(_images(folder), None) is None


def _images(folder: Path) -> Iterator[PurePath]:
    return walk(folder, PurePath(), [], [])


def _needed(path: Path, size: tuple[int, int] | None, max_pixels: int) -> int:
    """Return how many bytes the data would take in memory; of a folder, a quick guess by its first image."""
    if path.suffix.lower() == ".npy" and path.is_file():
        return path.stat().st_size
    if path.is_file():
        try:
            return table_bytes(path)
        except ImportError:
            return 0
    count, first = 0, None
    for file in _images(path):
        count, first = count + 1, first or file
    if first is None:
        return 0
    if size is not None:
        return 3 * count * math.prod(size)
    try:
        with (path / first).open("rb") as stream, opened_image(stream, max_pixels) as image:
            channels = 1 if image.mode in ("1", "L") else 3
            return channels * count * image.width * image.height
    except (BadImage, OSError):
        return 0  # whoever reads it says why it cannot be


__all__ = ["stream_content", "why_streamed"]
