"""Small data on disk for the tests of sfumato.data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import load_dataset


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_image(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def image_folder(root: Path, classes: dict[str, int], size: int = 8) -> Path:
    """Write grey PNGs, all different, ``classes[name]`` of them in each sub-folder ('' is the folder itself)."""
    seed = 0
    for name, count in classes.items():
        for number in range(count):
            seed += 1
            save_image(root / name / f"{number:03}.png", noise(size, size, seed=seed))
    return root


def refused(source, says, **options):
    """The error is one short paragraph that ends in what to do, and nothing is left behind."""
    with pytest.raises(UserError, match=says) as caught:
        load_dataset(source, **options)
    text = str(caught.value)
    assert text[-1] in ".?"
    assert "\n" not in text
    assert len(text) < 500
    return text
