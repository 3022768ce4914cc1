"""Random numbers that are the same on every machine and in every release: PCG64's raw stream with our own seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfumato.core.numerics import seed_for


def random_keys(count: int, *seed: int) -> NDArray[np.uint64]:
    """Return ``count`` random 64-bit numbers that follow from ``seed``; numpy promises that it never changes."""
    return np.asarray(np.random.PCG64(seed_for(*seed)).random_raw(count), dtype=np.uint64).reshape(count)


def random_unit(shape: tuple[int, ...], *seed: int) -> NDArray[np.float32]:
    """Return uniform numbers k / 2^24 in [0, 1), of ``shape``, that follow from ``seed``."""
    keys = random_keys(int(np.prod(shape, dtype=np.int64)), *seed)
    return ((keys >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)
