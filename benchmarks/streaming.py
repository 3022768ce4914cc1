"""A training on data that do not fit: how much memory it takes, and how long the model waits for data.

    python benchmarks/streaming.py --gb 20 --steps 0 --folder /somewhere/with/room

Two synthetic sets. An array of N GB of images 3x64x64 (``.npy``), read by row in a random order: an epoch of it, or as
many steps as were asked for. And a folder of PNG files of the same size, decoded by workers. Each is trained on in a
process of its own, by the training loop itself with a convolutional VAE; what is reported is the largest resident
memory of that process and its workers together, sampled ten times a second, and the meter's shares.

The bytes of the array are a page of noise repeated: reading them costs what reading any bytes costs, as far as the
disk has no more than these pages in its cache. How much of the set fits into the machine's memory is in the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SIZE, BATCH = 64, 128
EXAMPLE = 3 * SIZE * SIZE


def make_array(path: Path, gigabytes: float) -> int:
    """Write an array of images and return how many there are."""
    count = int(gigabytes * 1e9) // EXAMPLE
    block = np.random.default_rng(0).integers(0, 256, (2048, 3, SIZE, SIZE), dtype=np.uint8)
    with path.open("wb") as out:
        shape = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, SIZE, SIZE)}
        np.lib.format.write_array_header_1_0(out, shape)
        for start in range(0, count, len(block)):
            out.write(block[: min(len(block), count - start)].tobytes())
    return count


def make_folder(path: Path, count: int) -> None:
    """Write ``count`` PNG files of smooth colours."""
    from PIL import Image

    path.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE)).save(path / f"{number:06}.png")


def resident(pid: int) -> int:
    """Return the bytes that a process and its children have in memory; what they share is counted in each of them."""
    import psutil

    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total


def train(source: str, steps: int) -> dict[str, object]:
    """Train on ``source`` in this process and return what was measured."""
    import os

    import torch

    from sfumato.data import InMemory, Levels, Order, load_dataset
    from sfumato.likelihoods import DiscretizedLogistic
    from sfumato.objectives import ELBO
    from sfumato.recipes.networks import RECIPES
    from sfumato.recipes.vae import build_vae
    from sfumato.training import Trainer, TrainingConfig

    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            most[0] = max(most[0], resident(os.getpid()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begin = time.perf_counter()
    data = load_dataset(source, stream=True, split=(0.99, 0.01, 0))
    opened = time.perf_counter() - begin
    train_split = data.split("train")
    order = Order(len(train_split), BATCH, seed=0)
    steps = steps or order.steps_per_epoch
    validation = InMemory(torch.from_numpy(data.x[data.rows("validation")[:BATCH]]))
    model = build_vae(RECIPES["conv-small"], DiscretizedLogistic(data.shape, levels=256), 32, (), "prior")
    config = TrainingConfig(
        steps=steps, batch_size=BATCH, evaluate_every=steps, checkpoint_every=steps, log_every=steps, engine="eager"
    )
    trainer = Trainer(model, ELBO(), train_split, validation, Levels(data.shape), config)
    train_split.expect(order)
    begin = time.perf_counter()
    for step in range(steps):
        trainer.measured_step(step)
    train_split.meter.asked()
    seconds = time.perf_counter() - begin
    stop.set()
    watcher.join()
    meter = train_split.meter
    return {
        "examples": len(data),
        "bytes_as_arrays": len(data) * EXAMPLE,
        "steps": steps,
        "epochs": round(steps / order.steps_per_epoch, 4),
        "batch": BATCH,
        "workers": train_split.workers,
        "index_seconds": opened,
        "seconds": seconds,
        "images_per_second": steps * BATCH / seconds,
        "resident_gb": most[0] / 1e9,
        "waits_share": meter.shares["loader"] + meter.shares["copy"],
        "foreseen": train_split.foreseen,
        "missed": train_split.missed,
        "sentence": meter.sentence(),
    }


def in_own_process(source: Path, steps: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, __file__, "--train", str(source), "--steps", str(steps)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=20.0, help="of the array")
    parser.add_argument("--files", type=int, default=20_000, help="in the folder of images")
    parser.add_argument("--steps", type=int, default=0, help="on each set; 0: an epoch")
    parser.add_argument("--folder", type=Path, default=None, help="where the sets are made, and removed after")
    parser.add_argument("--train", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train, options.steps)))
        return
    from certificate import certificate, write_result

    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        place = Path(temporary)
        if shutil.disk_usage(place).free < options.gb * 1e9 + 5e9:
            raise SystemExit(f"{place} has not {options.gb:g} GB free, and 5 to spare. Use --gb or --folder.")
        make_array(place / "array.npy", options.gb)
        make_folder(place / "photos", options.files)
        import psutil

        found = {
            "array": in_own_process(place / "array.npy", options.steps),
            "folder": in_own_process(place / "photos", options.steps),
        }
        memory = psutil.virtual_memory().total
    head = certificate(recipe="conv-small, 3x64x64, discretised logistic, streamed and prefetched", seeds=[0])
    goals = {"resident_gb": 1.5, "waits_share": 0.1}
    result = {**head, "machine_memory_gb": memory / 1e9, "goals": goals, **found}
    print(json.dumps(result, indent=2))
    write_result("streaming", result)


if __name__ == "__main__":
    main()
