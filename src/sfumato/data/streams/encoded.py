"""Images that stay encoded until they are asked for: in files of a folder, or in shards.

The index is made once: where each image lies and, from its header, whether it can be one and has colours. Pixels are
decoded when a batch is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.data.content import Array, Content
from sfumato.data.images import BadImage, decode, opened_image, refuse_empty, structure, walk
from sfumato.data.streams.decoding import Decoder, Place, encoded
from sfumato.data.streams.rows import Names, Rows

_GREY, _COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "CMYK", "YCbCr")


@final
class EncodedRows(Rows):
    """Images that are decoded when they are read, (n, channels, height, width) uint8.

    Args:
        root: the folder that ``files`` are named from.
        files: one file an image; or the shards.
        decoder: what every image becomes.
        source: what to call the data.
        members: for shards, their images: names, and an int64 (3, n) of shard, offset and size.
    """

    def __init__(
        self,
        root: Path,
        files: Names,
        decoder: Decoder,
        source: str,
        members: tuple[Names, NDArray[np.int64]] | None = None,
    ) -> None:
        super().__init__((len(members[0] if members else files), *decoder.shape), np.uint8, source)
        self.decoder, self.names = decoder, members[0] if members else files
        self._root, self._files, self._members = root, files, members

    def place(self, row: int) -> Place:
        """Return where one image lies."""
        return _place(self._root, self._files, self._members, row)

    def name(self, row: int) -> str:
        """Return the name of one image."""
        return self.place(row).name

    def read(self, rows: NDArray[np.int64]) -> Array:
        """Decode the images ``rows``, here and now."""
        x = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for out, row in zip(x, rows.tolist(), strict=True):
            self.decoder(self.place(row), out)
        return x

    def identity(self) -> Iterator[bytes]:
        """Yield all names, where they lie, and what is made of them."""
        yield repr(self.decoder).encode()
        yield self._files.packed()
        if self._members is not None:
            yield self._members[0].packed()
            yield self._members[1].astype("<i8").tobytes()


def _place(root: Path, files: Names, members: tuple[Names, NDArray[np.int64]] | None, row: int) -> Place:
    if members is None:
        return Place(str(root / files[row]), 0, -1, files[row])
    shard, offset, size = members[1][:, row].tolist()
    return Place(str(root / files[shard]), offset, size, f"{files[shard]}: {members[0][row]}")


def stream_images(folder: Path, size: tuple[int, int] | None, skip_bad: bool, max_pixels: int) -> Content:
    """Index the images below ``folder``; arguments and rules as :func:`~sfumato.data.images.read_images`.

    A file whose header is no image's is refused, or left out with ``skip_bad``. One whose pixels are damaged is found
    when it is read, and named then.
    """
    left_out: list[tuple[str, str]] = []
    folders: dict[PurePath, int] = {}
    inside: list[int] = []
    coloured = [False]

    def taken() -> Iterator[str]:
        for file in walk(folder, PurePath(), [], left_out):
            try:
                with (folder / file).open("rb") as stream:
                    coloured[0] |= has_colours(stream, max_pixels)
            except (BadImage, OSError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                if not skip_bad:
                    refuse_image(str(file), reason)
                left_out.append((file.as_posix(), reason))
                continue
            inside.append(folders.setdefault(file.parent, len(folders)))
            yield file.as_posix()

    files = Names(taken())
    if not len(files):
        if any(Path(name).suffix for name, why in left_out if why not in ("hidden", "not an image")):
            raise UserError(f"{folder.name}/ should hold images; none of its files can be read. Check the files.")
        refuse_empty(folder, left_out)
    decoder = Decoder(
        first_shape(Place(str(folder / files[0]), 0, -1, files[0]), coloured[0], size, max_pixels), size, max_pixels
    )
    given, y, class_names = structure([path / "x" for path in folders])
    number = np.array(inside, dtype=np.int64)
    return Content(
        name=folder.resolve().name,
        x=EncodedRows(folder.resolve(), files, decoder, folder.name).array(),
        y=None if y is None else y[number],
        class_names=class_names,
        items=files.as_tuple(),
        left_out=tuple(left_out),
        given={name: np.flatnonzero(np.isin(number, rows)) for name, rows in given.items()},
    )


def has_colours(stream: BinaryIO, max_pixels: int) -> bool:
    """Whether the image in ``stream`` has colours, by its header where that says so.

    Raises:
        BadImage: it cannot be an image that is taken.
    """
    with opened_image(stream, max_pixels) as image:
        mode = image.mode
    if mode in _GREY or mode.startswith("I;16"):
        return False
    if mode in _COLOUR:
        return True
    stream.seek(0)
    return decode(stream, None, max_pixels).ndim == 3  # a palette may be grey


def first_shape(place: Place, coloured: bool, size: tuple[int, int] | None, max_pixels: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of all images, by the first of them."""
    import io

    channels = 3 if coloured else 1
    if size is not None:
        return (channels, *size)
    try:
        height, width = decode(io.BytesIO(encoded(place)), None, max_pixels).shape[:2]
    except BadImage as reason:
        refuse_image(place.name, str(reason))
    return channels, height, width


def refuse_image(name: str, reason: str) -> NoReturn:
    """Raise the UserError for an image that cannot be read, while it can still be left out."""
    raise UserError(
        f"{name} should be an image; it cannot be read ({reason}). Remove it, or go on without such files with "
        "--skip-bad."
    ) from None


__all__ = ["EncodedRows", "stream_images"]
