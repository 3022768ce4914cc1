"""dSprites, drawn: how well beta-VAE, beta-TC-VAE and FactorVAE find its factors, MIG and DCI over several seeds.

    python benchmarks/dsprites.py train beta /tmp/sprites --seed 0 --betas 40 20 10 --steps 2500 --lr 4e-3
    python benchmarks/dsprites.py train beta-tc /tmp/sprites --seed 0 --betas 100 40 20 10      ... for each seed
    python benchmarks/dsprites.py score /tmp/sprites                       writes results/dsprites.json

737,280 images, all but 8,192 for training, 10 latents, Bernoulli pixels, one core. The weight falls in steps: under a
high one only the positions are worth their nats, and lie in two dimensions of their own before the rest is learned.
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
from torch import Tensor
from torch.nn.functional import avg_pool2d

from certificate import certificate, write_result
from mnist import Printer
from sfumato.core.interfaces import Network, Objective
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.data import Binarise, Dataset, InMemory
from sfumato.data.dsprites import DSprites
from sfumato.evaluation.factor_scores import disentanglement
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE, Model
from sfumato.networks import MLP
from sfumato.objectives import ELBO, DensityRatio, TotalCorrelation
from sfumato.recipes import build_vae
from sfumato.recipes.networks import mlp, reading
from sfumato.training import Trainer, TrainingConfig

SPRITES = DSprites()
SHAPE, LATENT, HELD_OUT, SEEDS = SPRITES.shape, 10, 4_096, 1_000
SMALL = 0.4  # of the usual deviation
TESTED = 1_000  # votes, for a score of the FactorVAE's that is only noted
METHODS = ("beta", "beta-tc", "factor")
PARTS = ("disentanglement", "completeness")  # of DCI


class Quarters(Network):
    """Means of 2x2 pixels: what the first layer of the encoder sees; the decoder makes all pixels.

    Args:
        shape: of an image, (1, height, width).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape, (1, shape[1] // 2, shape[2] // 2))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, 1, height, width) to a quarter of the pixels."""
        return avg_pool2d(x, 2)


def objective(method: str, beta: float, size: int) -> Objective:
    """Return the loss of a method."""
    if method == "beta":
        return ELBO(beta=beta)
    if method == "beta-tc":
        return ELBO() + (beta - 1) * TotalCorrelation(size)
    return ELBO() + beta * DensityRatio(MLP((LATENT,), (1,), (256, 256, 256)))


def train_one(args: argparse.Namespace) -> None:
    """Train one model and leave what it scores in the folder."""
    everything, apart = np.arange(len(SPRITES)), SPRITES.some(2 * HELD_OUT, seed=args.seed)
    splits = {"train": np.setdiff1d(everything, apart), "validation": apart[::2], "test": apart[1::2]}
    data = Dataset("dsprites", SPRITES.images(everything), None, splits)
    train, validation = data.split("train"), data.split("validation")
    with fixed_noise(args.seed):
        recipe = reading(mlp(tuple(args.widths), gated=False), Quarters(SHAPE))
        model: VAE = build_vae(recipe, Bernoulli(SHAPE), LATENT)
    start_small(model, train)
    begin, skipped = time.process_time(), 0
    for stage, beta in enumerate(args.betas):
        schedule = WarmUpCosine(args.steps, warmup=500 if stage == 0 else 50, floor=0.05)
        config = TrainingConfig(
            steps=args.steps,
            batch_size=args.batch,
            learning_rate=args.lr,
            schedule=schedule if stage == len(args.betas) - 1 else WarmUp(schedule.warmup),
            precision="float32",
            ema_decay=0.999,
            seed=args.seed + SEEDS * stage,
            log_every=args.steps,
            evaluate_every=args.steps,
            checkpoint_every=args.steps,
        )
        parts = (objective(args.method, beta, len(train)), train, validation, preprocessing())
        skipped += Trainer(model, *parts, config, listener=Printer()).fit().skipped
    facts = {
        "method": args.method,
        "betas": args.betas,
        "batch": args.batch,
        "learning_rate": args.lr,
        "widths": args.widths,
        "seed": args.seed,
        "steps": args.steps * len(args.betas),
        "skipped_steps": skipped,
        "processor_seconds": time.process_time() - begin,
    }
    facts |= scores(model, args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / f"{args.method}_{args.seed}.json").write_text(json.dumps(facts, indent=2))
    print({name: facts[name] for name in ("processor_seconds", "mig")}, flush=True)


def start_small(model: VAE, train: InMemory) -> None:
    """Make the first weights smaller, and each pixel as white as it is on average.

    From weights of the usual size the encoder keeps much of what it happens to begin with.
    """
    raw, _ = train.batch(torch.arange(0, len(train), 50))
    last = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(SMALL)
        last.bias.copy_(raw.float().mean(0).clamp(0.002, 0.998).logit().flatten())


def preprocessing() -> Binarise:
    """Return what makes 0 and 1 of the pixels, which they are already."""
    return Binarise(SHAPE, "fixed", high=1.0)


def scores(model: Model, seed: int) -> dict[str, Any]:
    """Return what is measured of a model."""
    found = disentanglement(
        model,
        preprocessing(),
        SPRITES,
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
            recipe="dSprites, drawn, fully connected networks that read means of 2x2 pixels, 10 latents, one core each",
            seeds=seeds,
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
    one.add_argument("--betas", type=float, nargs="+", default=[4.0], help="of the KL, or of the total correlation")
    one.add_argument("--steps", type=int, default=1_500, help="with each beta, one after another")
    one.add_argument("--batch", type=int, default=128)
    one.add_argument("--lr", type=float, default=2e-3, help="learning rate, which falls during the last beta")
    one.add_argument("--widths", type=int, nargs="+", default=[256, 256])
    parts.add_parser("score").add_argument("folder", type=Path, help="where the trained models are")
    args = parser.parse_args()
    {"train": train_one, "score": score}[args.part](args)


if __name__ == "__main__":
    main()
