"""sfumato beside pythae, disent, autoencoders, the usual script and JAX: the same models, data and batches, in turns.

    python benchmarks/speed/run.py                       everything, environments in a temporary folder
    python benchmarks/speed/run.py --workloads mlp-100 --folder /tmp/peers

Each peer is a process of its own that trains when it is its turn and sleeps meanwhile; after an epoch to warm up come
``--rounds`` rounds of turns, A B C A B C. Ratios are taken round by round. Afterwards every model is trained on to the
same number of epochs and scored by one formula (``scoring.py``), and once more for every further seed.

Results are merged into benchmarks/results/speed.json, one entry for each workload.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from arithmetic import fractions, merged, over_seeds, ratios, spread
from environments import ENVIRONMENTS, NotInstalled, interpreter
from importance import compare
from peaks import peaks
from processes import Process, Unable
from workloads import LEARNING_RATE, WORKLOADS, Workload

from certificate import RESULTS, certificate, write_result
from sfumato.data import load_dataset

BINARISATION_SEED = 2026
PAUSE = 0.5  # seconds between turns: the threads of the last one stop spinning


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=tuple(ENVIRONMENTS), default=list(ENVIRONMENTS))
    parser.add_argument("--workloads", nargs="+", choices=(*WORKLOADS, "bound"), default=[*WORKLOADS, "bound"])
    parser.add_argument("--rounds", type=int, default=4, help="timed turns of each peer; 0: only scores, merged")
    parser.add_argument("--seeds", type=int, default=3, help="trainings that the held-out bound is the mean of")
    parser.add_argument("--epochs", type=int, help="before the score; default: the workload's, or what was timed")
    parser.add_argument("--folder", type=Path, help="of the environments, data and logs; default: a temporary one")
    parser.add_argument("--name", default="speed", help="of the result file, without .json")
    return parser.parse_args()


def binary_data(folder: Path) -> Path:
    """Write Fashion-MNIST (mini), binarised once by a fixed seed: train (10,000, 28, 28) and test (2,000), uint8."""
    path = folder / "binary.npz"
    if not path.exists():
        data, generator = load_dataset("fashion-mnist-mini"), np.random.default_rng(BINARISATION_SEED)
        train = np.concatenate([data.array("train"), data.array("validation")])[:, 0]
        train, test = (
            (generator.random(x.shape) * 255 < x).astype(np.uint8) for x in (train, data.array("test")[:, 0])
        )
        np.savez(path, train=train, test=test)
    return path


def scored(process: Process, workload: Workload) -> dict[str, Any]:
    """Return the held-out ELBO and, where more samples were trained, L_K: mean and standard error over images."""
    found = {}
    for name, samples in {"elbo": 1, "importance_bound": workload.samples}.items():
        if name == "elbo" or samples > 1:
            values = np.array(process.ask("score", samples=samples)["bounds"])
            error = values.std(ddof=1) / len(values) ** 0.5
            found[name] = {"value": float(values.mean()), "standard_error": float(error), "n": len(values)}
    return found


class Race:
    """One workload.

    Args:
        workload: what is trained.
        pythons: peer -> its interpreter, or why it has none.
        data: the npz file.
        folder: for logs.
    """

    def __init__(self, workload: Workload, pythons: dict[str, Path | str], data: Path, folder: Path) -> None:
        self.workload, self.pythons, self.data, self.folder = workload, pythons, data, folder
        self.result: dict[str, dict[str, Any]] = {}

    def start(self, peer: str, seed: int) -> Process:
        """Start a peer; it has done one epoch."""
        python = self.pythons[peer]
        if isinstance(python, str):
            raise Unable(python)
        return Process(python, peer, self.workload.name, self.data, seed, self.folder)

    def run(self, rounds: int, seeds: int) -> dict[str, Any]:
        """Time, train to the end, score; return the entry of the result file."""
        workload = self.workload
        total, load = workload.total_epochs(rounds), os.getloadavg()[0]
        found_peaks = peaks()
        processes = self.start_all()
        rates: dict[str, list[float]] = {peer: [] for peer in processes}
        for _ in range(rounds):
            for peer, process in processes.items():
                time.sleep(PAUSE)
                seconds = process.ask("epochs", count=workload.turn)["seconds"]
                rates[peer].append(workload.turn * workload.images / seconds)
        for peer, process in processes.items():
            entry = self.result[peer]
            if left := total - 1 - rounds * workload.turn:
                process.ask("epochs", count=left)
            entry.update(process.ask("facts"))
            entry["scores"] = [scored(process, workload)]
            process.stop()
            if rounds:
                entry["images_per_second"] = spread(rates[peer])
                middle = entry["images_per_second"]["median"]
                entry["fraction_of_peak"] = fractions(middle, workload.operations(), found_peaks)
                if "sfumato" in rates:
                    entry["ratio_to_sfumato"] = ratios(rates[peer], rates["sfumato"])
                    entry["sfumato_is_times_as_fast"] = ratios(rates["sfumato"], rates[peer])
            print(workload.name, peer, json.dumps({k: v for k, v in entry.items() if k != "settings"}), flush=True)
        for seed in range(1, seeds):
            self.another_seed(seed, total, list(processes))
        for peer in processes:
            scores = self.result[peer]["scores"]
            self.result[peer]["held_out"] = {
                name: over_seeds([score[name]["value"] for score in scores]) for name in scores[0]
            }
        about = f"{workload.about}; binary Fashion-MNIST (mini), Adam, learning rate {LEARNING_RATE:g}"
        return {
            **certificate(recipe=about, seeds=range(seeds)),
            "about": workload.about,
            "batch": workload.batch,
            "images_per_epoch": workload.images,
            "epochs_per_turn": workload.turn,
            "epochs_before_the_score": total,
            "rounds": rounds,
            "load_average_before": load,
            "multiply_adds_forward": workload.multiply_adds()[0],
            "operations_per_image": workload.operations(),
            "operations_formula": "2 (3 M - F), M multiply-adds of a forward pass, F those of its first layer",
            "peaks_operations_per_second": found_peaks,
            "peers": self.result,
        }

    def start_all(self) -> dict[str, Process]:
        """Start one peer after the other, each alone; note those that cannot."""
        processes = {}
        for peer in self.pythons:
            try:
                processes[peer] = self.start(peer, 0)
                self.result[peer] = {"seconds_to_first_step": processes[peer].first_step}
            except Unable as reason:
                self.result[peer] = {"cannot": str(reason)}
            print(self.workload.name, peer, self.result[peer], flush=True)
        return processes

    def another_seed(self, seed: int, total: int, peers: list[str]) -> None:
        """Train and score every peer once more."""
        for peer in peers:
            try:
                process = self.start(peer, seed)
                process.ask("epochs", count=total - 1)
                self.result[peer]["scores"].append(scored(process, self.workload))
                process.stop()
            except Unable as reason:
                self.result[peer].setdefault("failed_seeds", {})[str(seed)] = str(reason)


def found_pythons(peers: list[str], folder: Path) -> dict[str, Path | str]:
    """Return the interpreter of each peer, or why there is none; sfumato always, and first."""
    pythons: dict[str, Path | str] = {}
    for peer in dict.fromkeys(["sfumato", *peers]):
        try:
            pythons[peer] = interpreter(peer, folder)
        except NotInstalled as reason:
            pythons[peer] = f"not installed: {reason}"
    return pythons


def main() -> None:
    args = arguments()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="speed-"))
    (folder / "work").mkdir(parents=True, exist_ok=True)
    data, pythons = binary_data(folder / "work"), found_pythons(args.peers, folder)
    for name in args.workloads:
        fresh = Path(
            tempfile.mkdtemp(prefix=f"{name}-", dir=folder / "work")
        )  # logs, and caches: nothing is remembered
        if name == "bound" and not args.rounds:
            continue  # it has no seeds
        if name == "bound":
            entry = compare(pythons, data, fresh, args.rounds)
        else:
            workload = WORKLOADS[name]
            workload = replace(workload, epochs=workload.epochs if args.epochs is None else args.epochs)
            entry = Race(workload, pythons, data, fresh).run(args.rounds, args.seeds)
        path = RESULTS / f"{args.name}.json"
        result = json.loads(path.read_text()) if path.exists() else {"workloads": {}}
        result["workloads"][name] = merged(result["workloads"].get(name), entry)
        print(write_result(args.name, result), flush=True)


if __name__ == "__main__":
    main()
