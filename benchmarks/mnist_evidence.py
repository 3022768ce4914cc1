"""Log p(x) of binarised MNIST under a model of mnist_mlp.py: L_5000, annealing on the same images, and the sandwich.

    python benchmarks/mnist_mlp.py train mnist.npz /tmp/mnist --minutes 10
    python benchmarks/mnist_evidence.py mnist.npz /tmp/mnist --ais 500 --temperatures 1000 --chains 16 --name evidence

L_K is over all test images (every ``--every``-th), annealing over ``--ais`` of them, evenly spaced; the sandwich is of
``--simulated`` images that the model makes. ``--device cuda`` wants ``--together 10000``: one big batch.

Published with the gap between both: Wu et al., 2017, found L_5000 up to 1.2 nats below annealing for their models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

import sfumato.recipes  # noqa: F401 - registers the classes that a model folder may name
from certificate import certificate, write_result
from mnist import BINARISATION_SEED, binary_test, load
from sfumato.data import Dataset, Identity
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.evidence import find_evidence
from sfumato.io.folder import WEIGHTS, load_model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="mnist.npz: x_train, y_train, x_test, y_test")
    parser.add_argument("folder", type=Path, help="the folder of mnist_mlp.py, or a model folder")
    parser.add_argument("--samples", type=int, default=5_000, help="K of L_K")
    parser.add_argument("--every", type=int, default=1, help="L_K of every so many test images")
    parser.add_argument("--ais", type=int, default=500, help="test images that are annealed")
    parser.add_argument("--simulated", type=int, default=100, help="images that the model makes for the sandwich")
    parser.add_argument("--temperatures", type=int, default=1_000)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--leapfrogs", type=int, default=Annealing.leapfrogs)
    parser.add_argument("--start", choices=("posterior", "prior"), default=Annealing.start)
    parser.add_argument("--together", type=int, default=250, help="images whose chains move together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="unnamed", help="of the result file, without .json")
    return parser.parse_args()


def test_images(path: Path, every: int) -> Dataset:
    """Return the binarised test images as a data set of their own; they are drawn once, by a fixed seed."""
    x = binary_test(load(path))[::every].numpy()
    rows = torch.arange(len(x)).numpy()
    return Dataset("mnist test, binarised", x, None, {"train": rows[:0], "validation": rows[:0], "test": rows}, ())


class Printer:
    """Prints how far each part is, now and then, and keeps how long it took."""

    def __init__(self) -> None:
        self.begin = self.spoken = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.part = ""

    def __call__(self, part: str, done: int, of: int) -> None:
        now = time.monotonic()
        if part != self.part:
            self.part, self.begin = part, now if self.part else self.begin
        self.seconds[part] = now - self.begin
        if now - self.spoken > 30 or done == of:
            print(f"{part}: {100 * done / of:.1f} %, {self.seconds[part]:.0f} s", file=sys.stderr, flush=True)
            self.spoken = now


def machine(device: str) -> dict[str, Any]:
    """Return what the numbers were made on, beside the certificate's processor."""
    return {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"}


def main() -> None:
    args = arguments()
    folder = args.folder / "model" if (args.folder / "model").is_dir() else args.folder
    model, _ = load_model(folder)
    training = folder.parent / "training.json"
    told = Printer()
    found = find_evidence(
        model.to(args.device),  # type: ignore[arg-type]
        Identity((1, 28, 28)),
        test_images(args.data, args.every),
        samples=args.samples,
        annealing=Annealing(args.temperatures, args.chains, args.leapfrogs, start=args.start),
        annealed=args.ais,
        simulated=args.simulated,
        together=args.together,
        seed=args.seed,
        tell=told,
    ).to_dict()
    result = {
        **certificate(recipe="evidence of the model of mnist_mlp.py", seeds=[args.seed]),
        **machine(args.device),
        "model": {"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()},
        "binarisation_seed": BINARISATION_SEED,
        "seconds": told.seconds,
        "evidence": found,
        "training": json.loads(training.read_text()) if training.is_file() else None,
        "published_wu_et_al_looseness": 1.2,
    }
    print(write_result(args.name, result))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
