"""dSprites, drawn: how well beta-VAE, beta-TC-VAE and FactorVAE find its factors, MIG and DCI over several seeds.

    python benchmarks/dsprites.py train beta /tmp/sprites --seed 0
    python benchmarks/dsprites.py train beta-tc /tmp/sprites --seed 0 --beta 30      ... and so on, for each seed
    python benchmarks/dsprites.py score /tmp/sprites                       writes results/dsprites.json

737,280 images at half of their width and height, all but 8,192 for training, 10 latents, Bernoulli pixels, one core.
The scores are of posterior means, with the numbers of examples and bins of disentanglement_lib, DCI with random
forests. The aims are of the size of what is published after 300,000 steps of batch 64 of a convolutional network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from certificate import certificate, write_result
from mnist import Printer
from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.data import Binarise, Dataset
from sfumato.data.dsprites import DSprites
from sfumato.evaluation.factor_scores import disentanglement
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE, Model
from sfumato.networks import MLP
from sfumato.objectives import ELBO, DensityRatio, TotalCorrelation
from sfumato.recipes import build_vae
from sfumato.recipes.networks import mlp
from sfumato.training import Trainer, TrainingConfig

SHAPE, LATENT, HELD_OUT, TOGETHER = (1, 32, 32), 10, 4_096, 4_096
PIXELS = 4  # of the original in one of ours: the reconstruction counts so many times
TESTED = 1_000  # votes, for a score of the FactorVAE's that is only noted
METHODS = ("beta", "beta-tc", "factor")
PARTS = ("disentanglement", "completeness")  # of DCI


class Halved:
    """dSprites at half of its width and height: how many of four pixels are white."""

    def __init__(self) -> None:
        self.full = DSprites()
        self.name, self.names, self.sizes = "dsprites at 32x32", self.full.names, self.full.sizes

    def __len__(self) -> int:
        return len(self.full)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images with these numbers, uint8 (n, 1, 32, 32), 0 to 4."""
        found = np.empty((len(indices), *SHAPE), np.uint8)
        for start in range(0, len(indices), TOGETHER):
            whole = self.full.images(indices[start : start + TOGETHER])
            quarters = whole.reshape(-1, 1, 32, 2, 32, 2)
            found[start : start + TOGETHER] = quarters.sum((3, 5), dtype=np.uint8)
        return found

    def index_of(self, factors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the images with these factor classes."""
        return self.full.index_of(factors)


def objective(args: argparse.Namespace, size: int) -> Objective:
    """Return the loss of a method."""
    beta = args.beta if args.method == "beta" else 1.0
    elbo = ELBO(beta=beta, schedule=WarmUp(args.warmup), reconstruction=PIXELS)
    if args.method == "beta":
        return elbo
    if args.method == "beta-tc":
        return elbo + (args.beta - 1) * TotalCorrelation(size)
    return elbo + args.beta * DensityRatio(MLP((LATENT,), (1,), (256, 256, 256)))


def train(args: argparse.Namespace) -> None:
    """Train one model and leave it in the folder."""
    sprites = Halved()
    everything, apart = np.arange(len(sprites)), sprites.full.some(2 * HELD_OUT, seed=args.seed)
    splits = {"train": np.setdiff1d(everything, apart), "validation": apart[::2], "test": apart[1::2]}
    data = Dataset("dsprites", sprites.images(everything), None, splits)
    with fixed_noise(args.seed):
        model: VAE = build_vae(mlp(tuple(args.widths), gated=False), Bernoulli(SHAPE), LATENT)
    config = TrainingConfig(
        steps=args.steps,
        batch_size=args.batch,
        learning_rate=args.lr,
        schedule=WarmUpCosine(args.steps, warmup=500, floor=0.05),
        precision="float32",
        ema_decay=0.999,
        seed=args.seed,
        log_every=1_000,
        evaluate_every=max(1, args.steps // 5),
        checkpoint_every=max(1, args.steps // 5),
    )
    parts = (data.split("train"), data.split("validation"), preprocessing())
    begin = time.process_time()
    outcome = Trainer(model, objective(args, len(data)), *parts, config, listener=Printer()).fit()
    facts = {
        "method": args.method,
        "beta": args.beta,
        "batch": args.batch,
        "learning_rate": args.lr,
        "widths": args.widths,
        "seed": args.seed,
        "steps": outcome.step,
        "skipped_steps": outcome.skipped,
        "processor_seconds": time.process_time() - begin,
    }
    facts |= scores(model, args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / f"{args.method}_{args.seed}.json").write_text(json.dumps(facts, indent=2))
    print({name: facts[name] for name in ("processor_seconds", "mig")}, flush=True)


def preprocessing() -> Binarise:
    """Return what makes pixels black and white: drawn, where an edge goes through one."""
    return Binarise(SHAPE, "dynamic", high=float(PIXELS))


def scores(model: Model, seed: int) -> dict[str, Any]:
    """Return what is measured of a model."""
    found = disentanglement(
        model,
        preprocessing(),
        Halved(),
        votes=TESTED,
        test_votes=TESTED,
        trees="forest",
        seed=seed,
    ).to_dict()
    return {name: found[name] for name in ("mig", "dci", "factor_vae", "sap", "factors", "settings")}


def score(args: argparse.Namespace) -> None:
    """Write what all models in the folder score, method by method."""
    methods = {}
    for method in METHODS:
        runs = [json.loads(path.read_text()) for path in sorted(args.folder.glob(f"{method}_[0-9]*.json"))]
        if runs:
            methods[method] = {
                "mig": over_seeds([run["mig"]["value"] for run in runs]),
                **{
                    part: over_seeds([run["dci"][part] for run in runs]) for part in ("disentanglement", "completeness")
                },
                "runs": runs,
            }
            print(method, methods[method]["mig"], methods[method]["disentanglement"])
    seeds = sorted({run["seed"] for found in methods.values() for run in found["runs"]})
    result = {
        **certificate(
            recipe="dSprites, drawn, halved to 32x32, fully connected networks, 10 latents, one core each", seeds=seeds
        ),
        "aimed_at_mig": {"beta": 0.21, "beta-tc": 0.40, "factor": 0.40},
        "methods": methods,
    }
    print(write_result("dsprites", result))


def over_seeds(values: list[float]) -> dict[str, float | int]:
    """Return mean and standard deviation of a score over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "standard_deviation": spread, "n": len(values)}


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("train")
    one.add_argument("method", choices=METHODS)
    one.add_argument("folder", type=Path, help="where the trained models are left")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--beta", type=float, default=4.0, help="weight of the KL, or of the total correlation")
    one.add_argument("--steps", type=int, default=20_000)
    one.add_argument("--warmup", type=int, default=1, help="steps over which the KL's weight rises")
    one.add_argument("--batch", type=int, default=64)
    one.add_argument("--lr", type=float, default=1e-3, help="learning rate at its peak")
    one.add_argument("--widths", type=int, nargs="+", default=[256, 256])
    parts.add_parser("score").add_argument("folder", type=Path, help="where the trained models are")
    args = parser.parse_args()
    {"train": train, "score": score}[args.part](args)


if __name__ == "__main__":
    main()
