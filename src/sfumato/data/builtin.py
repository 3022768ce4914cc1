"""The data sets that have a name.

``fashion-mnist`` (Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, Xiao, Rasul and
Vollgraf, 2017, https://arxiv.org/abs/1708.07747; MIT licence, (c) 2017 Zalando SE): 60,000 + 10,000 grey images of
28x28, ten kinds of clothing. ``fashion-mnist-mini``: the first 1,000 + 200 images of each class, inside this package.

``dsprites``, all 737,280 images of 64x64 (3 GB in memory), and ``dsprites-mini``, one in twenty of them: drawn, see
:mod:`sfumato.data.dsprites`, whose class :class:`~sfumato.data.dsprites.DSprites` also gives the factors.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.paths import cache_folder
from sfumato.data.arrays import read_npz
from sfumato.data.content import Array, Content
from sfumato.data.dsprites import dsprites, dsprites_mini

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Name, number of bytes and md5 of the decompressed payload (the .gz around it differs between distributions).
FILES = {
    "train-images-idx3-ubyte.gz": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte.gz": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte.gz": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte.gz": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}
URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
MINI = Path(__file__).parent / "assets" / "fashion_mnist_mini.npz"


def load_builtin(name: str) -> Content:
    """Return the data set ``name``, one of ``BUILTIN``."""
    return BUILTIN[name]()


def fashion_mnist(folder: Path | None = None) -> Content:
    """Return Fashion-MNIST from ``folder``, or from the system's dataset folders, the cache, or the network.

    Raises:
        UserError: the files in ``folder`` are not Fashion-MNIST.
        SfumatoError: it is nowhere and cannot be downloaded.
    """
    if folder is None:
        folder = next((place for place in _places() if holds_fashion_mnist(place)), None) or _download(_cache())
    x_train, y_train, x_test, y_test = (_payload(folder / name, *check) for name, check in FILES.items())
    x = np.concatenate([x_train[16:], x_test[16:]]).reshape(-1, 1, 28, 28)
    y = np.concatenate([y_train[8:], y_test[8:]]).astype(np.int64)
    given = {"train": np.arange(60_000), "test": np.arange(60_000, 70_000)}
    return Content("fashion-mnist", x, y, CLASS_NAMES, given=given)


def fashion_mnist_mini() -> Content:
    """Return the 10,000 + 2,000 images that ship with the package."""
    return replace(read_npz(MINI, None), name="fashion-mnist-mini", class_names=CLASS_NAMES)


def holds_fashion_mnist(folder: Path) -> bool:
    """Whether ``folder`` has the four files by name."""
    return all((folder / name).is_file() for name in FILES)


def _places() -> list[Path]:
    shares = os.environ.get("XDG_DATA_DIRS") or os.pathsep.join(["/usr/local/share", "/usr/share"])
    roots = [Path(sys.prefix) / "share", *(Path(share) for share in shares.split(os.pathsep) if share)]
    return [root / "datasets" / "fashion-mnist" for root in roots] + [_cache()]


def _cache() -> Path:
    return cache_folder() / "fashion-mnist"


def _payload(path: Path, size: int, md5: str) -> Array:
    try:
        with gzip.open(path) as stream:
            data = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path.name} should be a whole .gz file; it is damaged ({error}). Get it again.") from None
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"{path.name} should be Fashion-MNIST's; its content has another checksum. Get it again.")
    return np.frombuffer(data, dtype=np.uint8)


def _download(folder: Path) -> Path:
    """Fetch the four files, check each, and put it in place only then."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, check in FILES.items():
            part = folder / f"{name}.part"
            with urllib.request.urlopen(URL + name, timeout=30) as response:
                part.write_bytes(response.read(2 * check[0]))
            _payload(part, *check)
            part.replace(folder / name)
    except (OSError, UserError) as error:
        raise SfumatoError(
            f"fashion-mnist is not in the system's dataset folders and could not be downloaded ({error}). Install "
            "Debian's dataset-fashion-mnist, give a folder with the four .gz files, or use fashion-mnist-mini."
        ) from None
    return folder


BUILTIN: dict[str, Callable[[], Content]] = {
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-mini": fashion_mnist_mini,
    "dsprites": dsprites,
    "dsprites-mini": dsprites_mini,
}
