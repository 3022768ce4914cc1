"""Webdataset shards: tar files whose members belong together by their names up to the first dot.

``000012.jpg`` is an image and ``000012.cls`` its class, a whole number or a text. The index of (shard, offset, size) is
made in one pass over the headers and kept in memory, 24 bytes and a name an image; an image is then read by seeking, so
the shuffle is exact. Nothing is extracted, so no name can lead anywhere.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import numpy as np

from sfumato.core.errors import UserError
from sfumato.data.content import Content
from sfumato.data.files import IMAGE_SUFFIXES, check_regular
from sfumato.data.images import BadImage
from sfumato.data.streams.decoding import MAX_ENCODED, Decoder
from sfumato.data.streams.encoded import EncodedRows, first_shape, has_colours, refuse_image
from sfumato.data.streams.rows import Names
from sfumato.data.tables import read_labels

SHARD_SUFFIX = ".tar"
_MAX_HEADER = 1 << 16
_MAX_CLASS = 1 << 10


def find_shards(path: Path) -> list[Path]:
    """Return the shards that ``path`` is or holds, by name; none where it is something else."""
    if path.is_file():
        return [path] if path.suffix.lower() == SHARD_SUFFIX else []
    return sorted(
        item for item in path.iterdir() if item.suffix.lower() == SHARD_SUFFIX and not item.name.startswith(".")
    )


def stream_shards(path: Path, size: tuple[int, int] | None, skip_bad: bool, max_pixels: int) -> Content:
    """Index the shards that ``path`` is or holds.

    Args:
        path: a ``.tar`` file, or a folder of them.
        size: as for folders of images.
        skip_bad: leave out images whose header is none.
        max_pixels: the largest width times height.

    Raises:
        UserError: a shard that is cut, compressed or no tar; a member that is too large or a link; no images.
    """
    shards = find_shards(path)
    root = path if path.is_dir() else path.parent
    places: list[tuple[int, int, int]] = []
    classes: list[str | None] = []
    left_out: list[tuple[str, str]] = []
    other: Counter[str] = Counter()
    coloured = [False]

    def taken() -> Iterator[str]:
        for number, shard in enumerate(shards):
            for key, image, label in _pairs(shard, other):
                with shard.open("rb") as stream:
                    stream.seek(image.offset_data)
                    try:
                        coloured[0] |= has_colours(
                            cast(BinaryIO, _Part(stream, image.offset_data, image.size)), max_pixels
                        )
                    except BadImage as reason:
                        if not skip_bad:
                            refuse_image(f"{shard.name}: {image.name}", str(reason))
                        left_out.append((f"{shard.name}: {image.name}", str(reason)))
                        continue
                places.append((number, image.offset_data, image.size))
                classes.append(label)
                yield key

    names = Names(taken())
    if not len(names):
        raise UserError(f"{path.name} should hold shards with images (.tar with .png, .jpg, ...); it has none.")
    left_out += [(f"{count:,} members {suffix or 'without ending'}", "not an image") for suffix, count in other.items()]
    unlabelled = sum(label is None for label in classes)
    members = (names, np.array(places, dtype=np.int64).T.copy())
    files = Names([shard.name for shard in shards])
    probe = EncodedRows(root, files, Decoder((1, 1, 1), size, max_pixels), path.name, members)
    decoder = Decoder(first_shape(probe.place(0), coloured[0], size, max_pixels), size, max_pixels)
    return Content(
        name=path.stem if path.is_file() else path.resolve().name,
        x=EncodedRows(root.resolve(), files, decoder, path.name, members).array(),
        y=None if unlabelled == len(classes) else read_labels(["" if label is None else label for label in classes]),
        items=names.as_tuple(),
        left_out=tuple(left_out),
    )


def _pairs(shard: Path, other: Counter[str]) -> Iterator[tuple[str, tarfile.TarInfo, str | None]]:
    """Yield (key, image, class) of each group of members."""
    key, image, label = "", None, None
    for member, stream in _members(shard):
        name = PurePosixPath(member.name)
        base, _, ending = name.name.partition(".")
        group = (name.parent / base).as_posix()
        if group != key:
            if image is not None:
                yield key, image, label
            key, image, label = group, None, None
        suffix = "." + ending.lower()
        if suffix in IMAGE_SUFFIXES:
            if image is not None:
                raise UserError(
                    f"{shard.name} should hold one image for each name; '{group}' has {image.name} and {member.name}. "
                    "Take one out."
                )
            image = member
        elif suffix == ".cls":
            if member.size > _MAX_CLASS:
                raise UserError(f"{shard.name}: {member.name} should be a class; it has {member.size:,} bytes.")
            stream.seek(member.offset_data)
            label = stream.read(member.size).decode(errors="replace").strip()
        else:
            other[suffix if ending else ""] += 1
    if image is not None:
        yield key, image, label


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Yield the regular members of a shard, and the shard to read from."""
    check_regular(shard)
    with shard.open("rb") as stream, shard.open("rb") as beside:
        length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], _Careful(stream)), mode="r:") as archive:
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # it would keep all of them
                    if member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        raise UserError(f"{shard.name}: {member.name} should be a plain file; it is a link or device.")
                    place = PurePosixPath(member.name)
                    if place.is_absolute() or ".." in place.parts:
                        raise UserError(
                            f"{shard.name}: {member.name!r} should be a name inside of the shard; it leads out of it. "
                            "Make it again with relative names."
                        )
                    if member.size > MAX_ENCODED:
                        raise UserError(
                            f"{shard.name}: {member.name} has {member.size:,} bytes; at most {MAX_ENCODED:,} are read."
                        )
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    yield member, beside
                stream.seek(archive.offset)
                if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # a damaged header ends the list as well
                    raise tarfile.ReadError("no mark at the end of its members")
        except (tarfile.TarError, ValueError, OSError, EOFError, RecursionError) as error:
            raise UserError(
                f"{shard.name} should be a whole, uncompressed tar; it is cut or damaged ({error}). Make it again."
            ) from None


class _Careful(io.RawIOBase):
    """A shard of which only headers are read: one that claims to be huge is refused."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class _Part(io.RawIOBase):
    """A part of a file that is read like a file."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        self._stream.seek(self._start + self._at)
        data = self._stream.read(left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = max(0, offset + {0: 0, 1: self._at, 2: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at
