"""A training on data that do not fit: how much memory it takes, how long the model waits for data, whether it resumes.

    python benchmarks/streaming.py --folder /somewhere/with/room                 # everything, then the sets are removed
    python benchmarks/streaming.py --folder /somewhere/with/room --only array    # a piece at a time; the sets stay

``sets`` makes two synthetic sets: an array of N GB of images 3x64x64 (``.npy``) and a folder of PNG files of that size.
``array`` is half an epoch of the first, read by row in a random order, and 200 steps more; ``resume`` takes the
checkpoint of the middle into a new process, compares the SHA-256 of all state 200 steps later with what the first
process had there, and goes on to the end of the epoch; ``folder`` is an epoch of the second, decoded by workers. Each
is trained on in a process of its own by the training loop itself, with checkpoints and metrics.

Memory is sampled ten times a second, of that process and its workers together, as the kernel counts it: ``anonymous``
is its own, ``file`` are pages of files that are mapped, here the programs and libraries alone, as the data are read
and not mapped. Pages that the kernel keeps of files that were read (the page cache) belong to no process and are in
neither; before an epoch those of the set are dropped, so that it comes from the disk. What it read from there is in
the result, and how many random rows a second the disk gives to two threads that do nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 64
EXAMPLE = 3 * SIZE * SIZE
AFTER = 200  # steps from the middle of an epoch to where a resumed one is compared
PIECES = ("sets", "array", "resume", "folder")
THREADS = 2
GOALS = {"resident_gb": 1.5, "waits_share": 0.1}


def make_array(path: Path, gigabytes: float) -> None:
    """Write an array of images; no two are the same."""
    count = int(gigabytes * 1e9) // EXAMPLE
    generator = np.random.default_rng(0)
    block = generator.integers(0, 256, (2048, 3, SIZE, SIZE), dtype=np.uint8)
    with path.open("wb") as out:
        shape = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, SIZE, SIZE)}
        np.lib.format.write_array_header_1_0(out, shape)
        for start in range(0, count, len(block)):
            out.write((block[: min(len(block), count - start)] + np.uint8(start // len(block) % 256)).tobytes())
        out.flush()
        os.fsync(out.fileno())


def make_folder(path: Path, count: int) -> None:
    """Write ``count`` PNG files of smooth colours."""
    from PIL import Image

    path.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE)).save(path / f"{number:06}.png")


def forget(path: Path) -> None:
    """Let the kernel drop its pages of a file, or of the files in a folder."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(path: Path, seconds: float = 4.0) -> float:
    """Return how many random rows a second two threads read from ``path``, none of which is in the page cache."""
    forget(path)
    count = path.stat().st_size // EXAMPLE
    end = time.perf_counter() + seconds

    def read(seed: int) -> int:
        done, generator = 0, np.random.default_rng(seed)
        with path.open("rb") as stream:
            while time.perf_counter() < end:
                for row in generator.integers(0, count, 64):
                    os.pread(stream.fileno(), EXAMPLE, int(row) * EXAMPLE)
                done += 64
        return done

    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        total = sum(threads.map(read, range(THREADS)))
    forget(path)
    return total / seconds


def resident(pid: int) -> tuple[int, int]:
    """Return the bytes that a process and its children have in memory, their own and those of mapped files."""
    import psutil

    with contextlib.suppress(psutil.Error):
        own, mapped = 0, 0
        for one in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            with contextlib.suppress(OSError):
                lines = dict(line.split(":") for line in Path(f"/proc/{one}/status").read_text().splitlines())
                own += 1024 * int(lines.get("RssAnon", "0 kB").split()[0])
                mapped += 1024 * sum(int(lines.get(name, "0 kB").split()[0]) for name in ("RssFile", "RssShmem"))
        return own, mapped
    return 0, 0


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Sample the memory of this process and its children; the largest sum is there at the end."""
    most: dict[str, float] = {"resident_gb": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            own, mapped = resident(os.getpid())
            if (own + mapped) / 1e9 > most["resident_gb"]:
                most.update(resident_gb=(own + mapped) / 1e9, anonymous_gb=own / 1e9, file_gb=mapped / 1e9)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        stop.set()
        watcher.join()


def read_from_disk() -> int:
    """Return how many bytes this process had the disk read."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def train(source: str, run: str, name: str, short: bool) -> dict[str, Any]:
    """Train on ``source`` in this process, a part of an epoch in the folder ``run``, and return measurements.

    Args:
        source: the set.
        run: where checkpoints and metrics go.
        name: array, folder, or resume.
        short: leave a resumed epoch where it was compared.
    """
    import torch

    from sfumato.core.numerics import fixed_noise
    from sfumato.data import InMemory, Levels, Order, load_dataset
    from sfumato.io.run import RunFolder
    from sfumato.io.tensors import digest
    from sfumato.likelihoods import DiscretizedLogistic, Gaussian
    from sfumato.objectives import ELBO
    from sfumato.recipes.networks import RECIPES, mlp
    from sfumato.recipes.vae import build_vae
    from sfumato.training import Listener, Trainer, TrainingConfig

    torch.set_num_threads(THREADS)

    class Notes(Listener):
        """Remembers a digest of everything at one step, after which the first half of the array is left."""

        found: dict[str, Any] = {}  # noqa: RUF012

        def on_step(self, step: int) -> None:
            if step == middle + min(AFTER, middle // 2):
                tensors, plain = trainer.state.capture()
                plain.pop("seconds")
                whole = "".join(digest(tensors[stem]) for stem in sorted(tensors)) + json.dumps(plain, sort_keys=True)
                self.found = {"step": step, "sha256": hashlib.sha256(whole.encode()).hexdigest()}
                if name == "array" or (short and name == "resume"):
                    signal.raise_signal(signal.SIGINT)

    with watched() as memory:
        begin = time.perf_counter()
        data = load_dataset(source, stream=True, split=(0.99, 0.01, 0))
        opened = time.perf_counter() - begin
        train_split = data.split("train")
        batch = 64 if name == "folder" else 512
        order = Order(len(train_split), batch, seed=0)
        steps = order.steps_per_epoch
        middle = -(-steps // 2)  # then there is no checkpoint between it and the end
        validation = InMemory(torch.from_numpy(data.x[data.rows("validation")[:batch]]))
        with fixed_noise(0):
            if name == "folder":
                likelihood: Any = DiscretizedLogistic(data.shape, levels=256)
                model = build_vae(RECIPES["conv-small"], likelihood, 32, (), "prior")
            else:
                likelihood = Gaussian(data.shape, "fixed", 0.2)
                model = build_vae(mlp((64,), gated=False), likelihood, 32, (), "prior")
        config = TrainingConfig(
            steps=steps, batch_size=batch, evaluate_every=steps, checkpoint_every=middle, log_every=100, engine="eager"
        )
        notes = Notes()
        parts = (train_split, validation, Levels(data.shape), config, RunFolder(run), notes)
        trainer = Trainer(model, ELBO(), *parts)
        first = trainer.resume() if name == "resume" else 0
        before, begin = read_from_disk(), time.perf_counter()
        outcome = trainer.fit()
        seconds = time.perf_counter() - begin
    meter = train_split.meter
    return {
        "examples": len(data),
        "bytes_as_arrays": len(data) * EXAMPLE,
        "model": f"{'conv-small' if name == 'folder' else 'MLP, 64 hidden'}, {type(likelihood).__name__}",
        "parameters": sum(each.numel() for each in model.parameters()),
        "from_step": first,
        "steps": outcome.step - first,
        "steps_per_epoch": steps,
        "batch": batch,
        "workers": train_split.workers,
        "index_seconds": opened,
        "seconds": seconds,
        "images_per_second": (outcome.step - first) * batch / seconds,
        "read_from_disk_gb": (read_from_disk() - before) / 1e9,
        **memory,
        "waits_share": meter.shares["loader"] + meter.shares["copy"],
        "foreseen": train_split.foreseen,
        "missed": train_split.missed,
        "sentence": meter.sentence(),
        "state": notes.found,
    }


def in_own_process(source: Path, run: Path, name: str, short: bool = False) -> dict[str, Any]:
    words = ["--train", str(source), "--run", str(run), "--only", name, *(["--short"] if short else [])]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(THREADS)},
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, json.dumps(result, indent=2), flush=True)
    return result


class Pieces:
    """What the benchmark is made of; every piece returns what goes into the result.

    Args:
        place: where the sets are.
        gigabytes: of the array.
        files: in the folder of images.
        short: whether a resumed epoch is left where it was compared.
    """

    def __init__(self, place: Path, gigabytes: float, files: int, short: bool) -> None:
        self.place, self.gigabytes, self.files, self.short = place, gigabytes, files, short
        self.array, self.photos, self.run = place / "array.npy", place / "photos", place / "run"

    def sets(self) -> dict[str, Any]:
        if shutil.disk_usage(self.place).free < self.gigabytes * 1e9 + 5e9:
            raise SystemExit(f"{self.place} has not {self.gigabytes:g} GB free, and 5 to spare. Use --gb or --folder.")
        make_array(self.array, self.gigabytes)
        make_folder(self.photos, self.files)
        return {}

    def of_array(self) -> dict[str, Any]:
        speed = disk_speed(self.array)
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()
        return {"array": {"disk_rows_per_second": speed, **in_own_process(self.array, self.run, "array")}}

    def of_resume(self) -> dict[str, Any]:
        """Resume a copy of the run that knows nothing of what came after the middle."""
        again, before = self.place / "again", self._before()["array"]
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(self.run, again)
        middle = -(-before["steps_per_epoch"] // 2)
        for checkpoint in (again / "checkpoints").iterdir():
            if int(checkpoint.name.removeprefix("step-")) > middle:
                shutil.rmtree(checkpoint)
        found = in_own_process(self.array, again, "resume", self.short)
        same = found["from_step"] == middle and found["state"] == before["state"] != {}
        seconds = before["seconds"] + found["seconds"]
        waited = sum(each["waits_share"] * each["seconds"] for each in (before, found))
        epoch = {
            "gigabytes": found["bytes_as_arrays"] / 1e9,
            "steps": found["from_step"] + found["steps"],
            "of": found["steps_per_epoch"],
            "resident_gb": max(before["resident_gb"], found["resident_gb"]),
            "waits_share": waited / seconds,
            "bit_exact_resume": same,
        }
        return {"resume": found, "epoch": epoch}

    def of_folder(self) -> dict[str, Any]:
        forget(self.photos)
        shutil.rmtree(self.place / "run-photos", ignore_errors=True)
        (self.place / "run-photos").mkdir()
        return {"folder": in_own_process(self.photos, self.place / "run-photos", "folder")}

    def do(self, name: str) -> None:
        """Do a piece, and put it into the result beside the others."""
        if name == "sets":
            self.sets()
            return
        import psutil

        from certificate import certificate, write_result

        head = certificate(recipe="streamed and prefetched, the training loop with checkpoints", seeds=[0])
        found = getattr(self, f"of_{name}")()
        machine = {"machine_memory_gb": psutil.virtual_memory().total / 1e9, "goals": GOALS}
        write_result("streaming", {**head, **machine, **self._before(), **found})

    def _before(self) -> dict[str, Any]:
        from certificate import RESULTS

        path = RESULTS / "streaming.json"
        there = json.loads(path.read_text()) if path.exists() else {}
        return {name: there[name] for name in (*PIECES, "epoch") if name in there}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=20.0, help="of the array")
    parser.add_argument("--files", type=int, default=10_000, help="in the folder of images")
    parser.add_argument("--folder", type=Path, default=Path("streaming-sets"), help="where the sets are made")
    parser.add_argument("--only", choices=PIECES, default=None, help="one piece; the sets stay")
    parser.add_argument("--short", action="store_true", help="leave the resumed epoch 200 steps after its middle")
    parser.add_argument("--train", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--run", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train, options.run, options.only, options.short)))
        return
    options.folder.mkdir(exist_ok=True)
    pieces = Pieces(options.folder, options.gb, options.files, options.short)
    if options.only:
        pieces.do(options.only)
        return
    try:
        for name in PIECES:
            pieces.do(name)
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
