"""A folder of images: who is a class, what is left out, and how every file becomes the same kind of array.

Decoding, in this order: PNG, JPEG, WebP, BMP, GIF (first frame) or TIFF (one page), known by content; at most
``max_pixels``; turned upright by its EXIF orientation; 16-bit grey to 8 bits; anything transparent laid on white; one
channel when every image is grey, else three. Sizes that differ need ``size``: each image is cut from its centre to that
aspect and resized with Pillow's Lanczos filter.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sfumato.core.errors import UserError
from sfumato.data.content import Content
from sfumato.data.files import ARRAY_SUFFIXES, IMAGE_SUFFIXES, TABLE_SUFFIXES, check_memory, suffix_counts

MAX_PIXELS = 16_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class BadImage(Exception):
    """Why one file cannot be used."""


def read_images(folder: Path, size: tuple[int, int] | None, skip_bad: bool, max_pixels: int) -> Content:
    """Read all images below ``folder``.

    Sub-folders are classes (images that lie beside them have none); a single sub-folder is not. Sub-folders named train
    and val or test are splits, with the classes inside.

    Args:
        folder: read only, never written to.
        size: (height, width), or None to take the images' own.
        skip_bad: go on where a file cannot be decoded.
        max_pixels: the largest width times height.

    Raises:
        UserError: no images; a file that cannot be decoded; sizes that differ without ``size``.
    """
    left_out: list[tuple[str, str]] = []
    files = list(walk(folder, PurePath(), [], left_out))
    if not files:
        refuse_empty(folder, left_out)
    arrays: list[NDArray[np.uint8]] = []
    taken: list[PurePath] = []
    for file in files:
        try:
            array = decode_file(folder / file, size, max_pixels)
        except BadImage as reason:
            if not skip_bad:
                raise UserError(
                    f"{file} should be an image; it cannot be read ({reason}). Remove it, or go on without such "
                    "files with --skip-bad."
                ) from None
            left_out.append((str(file), str(reason)))
            continue
        if arrays and array.shape[:2] != arrays[0].shape[:2]:
            raise UserError(
                f"the images of {folder.name}/ should have one size; {taken[0]} is {image_size(arrays[0])} and {file} "
                f"is {image_size(array)}. Choose one, for instance --size "
                f"{min(*array.shape[:2], *arrays[0].shape[:2])}."
            )
        arrays.append(array)
        taken.append(file)
    if not arrays:
        raise UserError(f"{folder.name}/ should hold images; none of its {len(files)} can be read. Check the files.")
    given, y, class_names = structure(taken)
    return Content(
        name=folder.resolve().name,
        x=_stack(arrays, folder.name),
        y=y,
        class_names=class_names,
        items=tuple(file.as_posix() for file in taken),
        left_out=tuple(left_out),
        given=given,
    )


def walk(
    root: Path, inside: PurePath, above: list[tuple[int, int]], left_out: list[tuple[str, str]]
) -> Iterator[PurePath]:
    """Yield the image files below ``root / inside`` in the order of their names; note everything else."""
    state = (root / inside).stat()
    above = [*above, (state.st_dev, state.st_ino)]
    for name in sorted(os.listdir(root / inside)):
        path = inside / name
        try:
            state = (root / path).stat()
        except OSError as error:
            left_out.append((path.as_posix(), f"cannot be opened ({error.strerror})"))
            continue
        if name.startswith("."):
            left_out.append((path.as_posix(), "hidden"))
        elif stat.S_ISDIR(state.st_mode):
            if (state.st_dev, state.st_ino) in above:
                left_out.append((path.as_posix(), "a link to a folder that it lies in"))
            else:
                yield from walk(root, path, above, left_out)
        elif not stat.S_ISREG(state.st_mode):
            left_out.append((path.as_posix(), "not a regular file"))
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            left_out.append((path.as_posix(), "not an image"))
        else:
            yield path


def refuse_empty(folder: Path, left_out: list[tuple[str, str]]) -> None:
    """Raise the UserError for a folder without images."""
    names = [name for name, why in left_out if why != "hidden"]
    other = [name for name in names if Path(name).suffix.lower() in ARRAY_SUFFIXES + TABLE_SUFFIXES]
    if other:
        raise UserError(f"{folder.name}/ holds no images but {other[0]}; expected images. Give that file itself.")
    if not names:
        raise UserError(f"{folder.name}/ is empty; expected images. Put them there, or give another folder.")
    looked = " ".join((*IMAGE_SUFFIXES, *ARRAY_SUFFIXES, *TABLE_SUFFIXES))
    raise UserError(
        f"no images, arrays or tables in {folder.name}/ (looked for {looked}; found {suffix_counts(names)}). "
        "Give another folder, or convert the files."
    )


def structure(files: list[PurePath]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the given splits, the class numbers and the class names that the folders say."""
    tops = {file.parts[0] for file in files}
    found = [_SPLIT_FOLDERS.get(top) for top in tops]
    in_splits = "train" in found and None not in found and len(found) == len({*found})
    given: dict[str, NDArray[np.int64]] = {}
    if in_splits:
        rows = np.array([_SPLIT_FOLDERS[file.parts[0]] for file in files])
        given = {str(name): np.flatnonzero(rows == name) for name in found}
        files = [PurePath(*file.parts[1:]) for file in files]
    classes = [file.parts[0] if len(file.parts) > 1 else "" for file in files]
    names = tuple(sorted({*classes} - {""}))
    if len(names) < 2:
        return given, None, ()
    number = {name: place for place, name in enumerate(names)} | {"": -1}
    return given, np.array([number[name] for name in classes], dtype=np.int64), names


def decode_file(path: Path, size: tuple[int, int] | None, max_pixels: int) -> NDArray[np.uint8]:
    """Return (height, width) for a grey image and (height, width, 3) for one with colours.

    Raises:
        BadImage: why it cannot be.
    """
    try:
        with path.open("rb") as stream:
            return decode(stream, size, max_pixels)
    except OSError as error:
        raise BadImage(error.strerror or "cannot be opened") from None


def decode(stream: BinaryIO, size: tuple[int, int] | None, max_pixels: int) -> NDArray[np.uint8]:
    """Return the image in ``stream``; see :func:`decode_file`."""
    with opened_image(stream, max_pixels) as image:
        image.load()
        plain = _plain(ImageOps.exif_transpose(image))
    if size is not None and (plain.height, plain.width) != size:
        plain = ImageOps.fit(plain, (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(plain, dtype=np.uint8)


@contextlib.contextmanager
def opened_image(stream: BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Give the image in ``stream``, its header checked, nothing decoded; whatever goes wrong inside is a BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the decoders' remarks on odd files; our own limit stands below
            with Image.open(stream, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise BadImage(f"{width}x{height} is more than {max_pixels:,} pixels")
                if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
                    raise BadImage("a TIFF of several pages")
                yield image
    except Image.DecompressionBombError:
        raise BadImage(f"more than {max_pixels:,} pixels") from None
    except BadImage:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        name = str(getattr(stream, "name", "")) or "nameless"
        text = f"{error}".replace(name, PurePath(name).name)
        raise BadImage("damaged or not an image" if "cannot identify" in text else text or "damaged") from None


def _plain(image: Image.Image) -> Image.Image:
    """Return ``image`` as 8-bit grey (L) or RGB, transparency laid on white."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(f"pixels of type {image.mode} (32 bits), where 8 or 16 are expected: save them as .npy")
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La", "1")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    if image.mode == "P":
        image = image.convert("RGB")
        red, green, blue = image.split()
        return red if red.tobytes() == green.tobytes() == blue.tobytes() else image
    return image.convert("L" if image.mode in ("L", "1") else "RGB")


def _stack(arrays: list[NDArray[np.uint8]], source: str) -> NDArray[np.uint8]:
    """Return (n, channels, height, width); grey among colours is repeated in all three channels."""
    channels = 3 if any(array.ndim == 3 for array in arrays) else 1
    check_memory(len(arrays) * channels * arrays[0].shape[0] * arrays[0].shape[1], source)
    x = np.empty((len(arrays), channels, *arrays[0].shape[:2]), dtype=np.uint8)
    for row, array in enumerate(arrays):
        x[row] = array.transpose(2, 0, 1) if array.ndim == 3 else array
    return x


def image_size(array: NDArray[np.uint8]) -> str:
    """Return e.g. ``64x48``, width first."""
    return f"{array.shape[1]}x{array.shape[0]}"
