"""What comes to the service and what it sends: json, npz or a picture, to arrays and back.

Nothing is decoded before its size is known to be small: json by its length and depth, an archive by the header of each
array, a picture by its number of pixels. No pickle: an array of objects is refused by its header.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from io import BufferedIOBase
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import JSONResponse, Response

from sfumato.app.guard import Refused
from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.data import Identity, Preprocessing, Standardise
from sfumato.data.arrays import read_header
from sfumato.data.images import BadImage, decode
from sfumato.io.run import finite
from sfumato.report import image_grid, to_uint8
from sfumato.report.pictures import display_range

JSON, NPZ, OCTETS = "application/json", "application/x-npz", "application/octet-stream"
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff")
MAX_JSON = 4_000_000
MAX_PIXELS = 16_000_000
MAX_ARRAYS = 8
LARGEST = 1e6
MAX_ARRAY_BYTES = 64_000_000
GRID = 16


def read_json(body: bytes, allowed: Mapping[str, bool]) -> dict[str, Any]:
    """Return the object in the body.

    Args:
        body: json.
        allowed: the keys that may be there, and whether they must.
    """
    try:
        found = strict_json.parse(body, "the body", MAX_JSON)
    except UserError as error:
        raise Refused(400, f"{error}".replace("Use the original file.", "Send json.")) from None
    if not isinstance(found, dict):
        raise Refused(422, "expected a json object in the body; got something else. Send {...}.")
    odd = next((key for key in found if key not in allowed), None)
    if odd is not None:
        raise Refused(422, f"expected {', '.join(allowed)}; got the key '{odd[:40]}'. Leave it out.")
    missing = next((key for key, needed in allowed.items() if needed and key not in found), None)
    if missing is not None:
        raise Refused(422, f"expected the key '{missing}' in the body; it is missing. Add it.")
    return found


def read_arrays(body: bytes, kind: str, name: str, preprocessing: Preprocessing | None) -> tuple[NDArray[Any], Any]:
    """Return the array ``name`` of the body and what it says about classes, or None.

    Args:
        body: json, npz, or, where ``preprocessing`` is given, a picture.
        kind: its Content-Type.
        name: "x" or "z".
        preprocessing: of a model of images.
    """
    kind = kind.partition(";")[0].strip().lower()
    if kind == JSON:
        found = read_json(body, {name: True, "y": False})
        return numbers(found[name], name), found.get("y")
    if kind in (NPZ, OCTETS):
        arrays = read_npz(body, (name, "y"))
        if name not in arrays:
            raise Refused(422, f"expected an array named {name} in the archive; it is missing. Add it.")
        return arrays[name], arrays["y"].tolist() if "y" in arrays else None
    if kind in PICTURES and preprocessing is not None and len(preprocessing.shape) == 3:
        return from_picture(body, preprocessing)[None], None
    wanted = ", ".join((JSON, NPZ, *(("a picture",) if preprocessing is not None else ())))
    raise Refused(415, f"expected the Content-Type {wanted}; got another. Say what the body is.")


def numbers(value: Any, name: str) -> NDArray[Any]:
    """Return nested lists of numbers as an array."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise Refused(
            422, f"expected {name} as lists of equal length; got ragged ones. Send rows of one shape."
        ) from None
    except (OverflowError, MemoryError):
        raise Refused(422, f"expected {name} as numbers; got one out of range. Send smaller ones.") from None
    if array.dtype.kind not in "iuf" or array.ndim < 2 or _holds_bool(value):
        raise Refused(422, f"expected {name} as a list of examples, each a list of numbers; got something else.")
    return array


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_holds_bool, value)))


def read_npz(data: bytes, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the arrays ``names`` of an archive; each header is read, and must fit, before its values are."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {item.filename.removesuffix(".npy"): item for item in archive.infolist()}
            if len(archive.infolist()) > MAX_ARRAYS:
                raise Refused(422, f"expected an archive of at most {MAX_ARRAYS} arrays; got more. Leave some out.")
            return {name: _member(archive, members[name], name) for name in names if name in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        raise Refused(422, "expected a whole .npz archive; it is damaged. Make it with numpy.savez.") from None


def _member(archive: zipfile.ZipFile, item: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    if item.file_size > MAX_ARRAY_BYTES:
        raise Refused(413, f"expected at most {MAX_ARRAY_BYTES:,} bytes in {name}; got {item.file_size:,}. Send less.")
    with archive.open(item) as stream:
        try:
            shape, fortran, dtype, start = read_header(cast(BufferedIOBase, stream), name)
        except UserError as error:
            raise Refused(422, str(error)) from None
        if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise Refused(422, f"expected plain numbers in {name}; got another type. Convert it with astype.")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=1) < 0 or start + size != item.file_size:
            raise Refused(422, f"expected as many bytes in {name} as its header says; got others. Make it again.")
        values = stream.read(size)
    if len(values) != size:
        raise Refused(422, f"expected as many bytes in {name} as its header says; it ends before. Make it again.")
    array = np.frombuffer(values, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def from_picture(data: bytes, preprocessing: Preprocessing) -> NDArray[Any]:
    """Return a picture as one raw example, (channels, height, width), cut and resized to the model's shape."""
    channels, height, width = preprocessing.shape
    try:
        pixels = decode(io.BytesIO(data), (height, width), MAX_PIXELS)
    except BadImage as reason:
        raise Refused(
            422, f"expected a PNG, JPEG, WebP, BMP, GIF or TIFF picture; it cannot be read ({reason})."
        ) from None
    if channels == 1 and pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], channels, 2)
    if pixels.shape[2] != channels:
        raise Refused(415, f"expected data of {channels} channels; a picture has 1 or 3. Send an archive.")
    return to_raw(pixels.transpose(2, 0, 1), preprocessing)


def to_raw(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[Any]:
    """Return 8-bit values in the data's own units, the reverse of ``to_uint8``."""
    low, high = display_range(preprocessing)
    if isinstance(preprocessing, Identity):
        return (pixels >= 128).astype(np.uint8)
    if (low, high) == (0.0, 255.0):
        return pixels
    values = low + pixels.astype(np.float32) / 255 * (high - low)
    snapped = preprocessing.inverse(preprocessing.expected(torch.from_numpy(values[None])))
    return snapped[0].numpy()


def largest(preprocessing: Preprocessing) -> float:
    """Return the largest size of a raw value that is taken: a million, or a million deviations from the mean."""
    if not isinstance(preprocessing, Standardise):
        return LARGEST
    return max(LARGEST, float((preprocessing.mean.abs() + LARGEST * preprocessing.scale).max()))


def checked_rows(
    array: NDArray[Any], shape: tuple[int, ...], name: str, most: int, high: float = LARGEST
) -> NDArray[Any]:
    """Return ``array`` when it is (n, *shape), 1 <= n <= most, finite and at most ``high``; float64 becomes float32."""
    if array.ndim < 1 or tuple(array.shape[1:]) != shape:
        wanted = ", ".join(map(str, ("n", *shape)))
        raise Refused(422, f"expected {name} of shape ({wanted}); got {tuple(array.shape)}. Reshape it.")
    if not 1 <= len(array) <= most:
        raise Refused(422, f"expected 1 to {most:,} examples; got {len(array):,}. Send them in parts.")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise Refused(
                422, f"expected finite numbers in {name}; got NaN, infinity or one out of range. Leave it out."
            )
    if array.dtype.kind != "b" and array.size and max(-float(array.min()), float(array.max())) > high:
        raise Refused(422, f"expected {name} from -{high:g} to {high:g}; got numbers beyond. Rescale the data.")
    return (
        array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind != "b" else array.astype(np.uint8)
    )


def answer(arrays: Mapping[str, NDArray[Any]], form: str, preprocessing: Preprocessing, **facts: Any) -> Response:
    """Return arrays as json, npz or, of images alone, one PNG of a grid."""
    if form == "json":
        return JSONResponse({**{name: finite(array.tolist()) for name, array in arrays.items()}, **facts})
    if form == "npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return Response(buffer.getvalue(), media_type=NPZ)
    if len(preprocessing.shape) != 3 or "x" not in arrays:
        raise Refused(422, "expected format json or npz, as this is not a picture; got png. Ask for another format.")
    picture = image_grid(arrays["x"], min(GRID, len(arrays["x"])), None, preprocessing)
    return Response(png(picture), media_type="image/png")


def png(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shown(x: NDArray[Any], preprocessing: Preprocessing) -> NDArray[Any]:
    """Return examples as the page draws them: uint8 (n, channels, height, width), or float32 (n, values)."""
    if len(preprocessing.shape) == 3:
        return to_uint8(x, preprocessing)
    return np.asarray(x, np.float32).reshape(len(x), -1)
