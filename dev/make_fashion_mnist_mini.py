"""Build the subset of Fashion-MNIST that ships with the package: the first 1,000 + 200 images of each class, in order.

    python dev/make_fashion_mnist_mini.py [FOLDER WITH THE FOUR .gz FILES]

The same input gives the same bytes: no date is written, and the compression is that of zlib at level 9.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from sfumato.data.builtin import MINI, fashion_mnist

TRAIN, TEST = 1000, 200


def main() -> None:
    """Write the archive."""
    content = fashion_mnist(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    MINI.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(MINI, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for split, count in (("train", TRAIN), ("test", TEST)):
            rows = content.given[split]
            labels = content.y[rows]
            kept = np.sort(np.concatenate([np.flatnonzero(labels == number)[:count] for number in range(10)]))
            for name, array in (("x", content.x[rows][kept, 0]), ("y", labels[kept].astype(np.uint8))):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, array, allow_pickle=False)
                info = zipfile.ZipInfo(f"{name}_{split}.npy")
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, buffer.getvalue())
    print(f"{MINI.name}: {MINI.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
