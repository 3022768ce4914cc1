"""The same examples in every format that is streamed."""

import io
import tarfile
from pathlib import Path

import numpy as np
from data_helpers import image_folder, noise, save_image
from PIL import Image

from sfumato.data import load_dataset


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(root: Path, counts: tuple[int, ...] = (7, 12), size: int = 8, colour: bool = False) -> np.ndarray:
    """Write shards of classed images and return all images, (n, channels, size, size)."""
    images = []
    for number, count in enumerate(counts):
        members = []
        for place in range(count):
            shape = (size, size, 3) if colour else (size, size)
            images.append(noise(*shape, seed=100 * number + place))
            key = f"part/{number:02}{place:04}"
            members += [(f"{key}.png", png(images[-1])), (f"{key}.cls", b"%d" % (place % 3)), (f"{key}.json", b"{}")]
        write_shard(root / f"shard-{number:03}.tar", members)
    stacked = np.stack(images)
    return stacked.transpose(0, 3, 1, 2) if colour else stacked[:, None]


def table(path: Path, rows: int = 40, labels: bool = True, group: int = 7) -> Path:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    values = np.random.default_rng(0).normal(size=(rows, 3))
    columns = {name: values[:, place] for place, name in enumerate("abc")}
    columns["n"] = np.arange(rows)
    if labels:
        columns["kind"] = [None if row % 11 == 5 else ("cat", "dog", "eel")[row % 3] for row in range(rows)]
    made = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(made, path, row_group_size=group)
    else:
        with ipc.new_file(path, made.schema) as out:
            out.write_table(made, max_chunksize=group)
    return path


def both(path: Path, **reading):
    """Return the data in memory and streamed."""
    return load_dataset(path, stream=False, **reading), load_dataset(path, stream=True, **reading)


def make(kind: str, root: Path) -> tuple[Path, dict]:
    """Write one source of ``kind`` and return it with the arguments to read it."""
    root.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        np.save(root / "x.npy", noise(61, 8, 8, 3, seed=3))
        return root / "x.npy", {}
    if kind == "floats":
        np.save(root / "f.npy", np.random.default_rng(1).normal(size=(61, 5)).astype(">f4"))
        return root / "f.npy", {}
    if kind == "folder":
        image_folder(root / "photos", {"a": 11, "b": 7})
        save_image(root / "photos/b/colour.jpg", noise(8, 8, 3, seed=9))
        return root / "photos", {}
    if kind == "resized":
        for number in range(9):
            save_image(root / "mixed" / f"{number}.png", noise(8 + number, 13, 3, seed=number))
        return root / "mixed", {"size": (6, 8)}
    return table(root / "t.parquet"), {"label": "kind"}


KINDS = ("npy", "floats", "folder", "resized", "parquet")
