"""Arrays in one answer: a head of json that says where each array lies, then their bytes, little-endian.

4 bytes   length of the head
head      {"arrays": {name: {"type", "shape", "start"}}, ...}, padded with spaces so that what follows is aligned
bytes     of every array, each at ``start`` after the head, a multiple of 8
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNED = 8
_TYPES = {"float32": "<f4", "int32": "<i4", "uint8": "|u1"}


def pack(arrays: Mapping[str, NDArray[Any]], **facts: Any) -> bytes:
    """Return ``arrays`` (float32, int32 or uint8) and plain json ``facts`` as bytes.

    >>> unpack(pack({"z": np.zeros((2, 3), np.float32)}, step=7))[1]["step"]
    7
    """
    described, parts, start = {}, [], 0
    for name, array in arrays.items():
        kind = _TYPES[array.dtype.name]
        data = np.ascontiguousarray(array, dtype=kind).tobytes()
        described[name] = {"type": array.dtype.name, "shape": list(array.shape), "start": start}
        data += b"\0" * (-len(data) % ALIGNED)
        parts.append(data)
        start += len(data)
    head = json.dumps({"arrays": described, **facts}, allow_nan=False).encode()
    head += b" " * (-(len(head) + 4) % ALIGNED)
    return b"".join([struct.pack("<I", len(head)), head, *parts])


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the facts again: what the page does, for tests and for other programs."""
    (length,) = struct.unpack_from("<I", data)
    head = json.loads(data[4 : 4 + length])
    arrays = {}
    for name, entry in head.pop("arrays").items():
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = np.frombuffer(data, _TYPES[entry["type"]], count, 4 + length + entry["start"])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays, head
