"""Dynamically binarised MNIST, a ladder of gated layers: the bound with 1,000 samples on the whole test set.

    python benchmarks/mnist_ladder.py train mnist.npz /tmp/ladder --minutes 10
    python benchmarks/mnist_ladder.py evaluate mnist.npz /tmp/ladder --name mnist_ladder_10min

Data, time and protocol are those of ``mnist_mlp.py``, the flat model that it is to be compared with. Published with
2,000 epochs and five levels: 81.74 nats (Ladder Variational Autoencoders, Sonderby et al., 2016, table 1).
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace

import numpy as np
import psutil
import torch

from certificate import certificate, write_result
from mnist import arguments, binary_test, bound, fit, load, settings
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import Dataset
from sfumato.io.folder import load_model, save_model
from sfumato.likelihoods import Bernoulli
from sfumato.models import HierarchicalVAE
from sfumato.networks.ladder import MLPBottomUp, MLPTopDown
from sfumato.objectives import ELBO, IWAE
from sfumato.priors import StandardNormal

SHAPE = (1, 28, 28)


def ladder(latent: list[int], width: int, hidden: int) -> HierarchicalVAE:
    """Return the untrained model."""
    return HierarchicalVAE(
        StandardNormal(latent[0]),
        MLPBottomUp(SHAPE, len(latent), width, hidden),
        MLPTopDown(tuple(latent), (1, *SHAPE), width, hidden),
        Bernoulli(SHAPE),
    )


def start_at_the_mean(model: HierarchicalVAE, data: Dataset) -> None:
    """Let the last bias be the log-odds of each pixel in the training split, as the flat model's."""
    shares = torch.from_numpy(data.array("train")).float().div(255).mean(0).clamp(0.01, 0.99)
    with torch.no_grad():
        model.top_down.out.bias.copy_(shares.logit().flatten())  # type: ignore[union-attr, operator]


def train(args: Namespace) -> None:
    data = load(args.data)
    with fixed_noise(args.seed):
        model = ladder(args.latent, args.width, args.hidden)
    start_at_the_mean(model, data)
    seconds = 60 * args.minutes
    first, second = args.steps or (None, None)
    elbo = ELBO(free_bits=args.free_bits, schedule=WarmUp(args.warm))
    stages = [fit(model, elbo, data, settings(args), (1 - args.iwae_share) * seconds, floor=args.floor, steps=first)]
    if args.iwae_share:
        gentle = replace(settings(args), learning_rate=args.lr * args.floor, seed=args.seed + 1)
        stages.append(fit(model, IWAE(samples=args.iwae), data, gentle, args.iwae_share * seconds, steps=second))
    save_model(args.folder / "model", model, card={}, replace=True)
    recipe = f"ladder of {len(args.latent)} levels, z {'-'.join(map(str, args.latent))} from the top"
    facts = {
        **certificate(recipe=f"{recipe}, gated {args.width}, posteriors {args.hidden}", seeds=[args.seed]),
        "command": " ".join(sys.argv[2:]),
        "seconds_since_the_process_started": time.time() - psutil.Process().create_time(),
        "stages": stages,
    }
    (args.folder / "training.json").write_text(json.dumps(facts, indent=2))
    print(json.dumps(stages, indent=2))


def evaluate(args: Namespace) -> None:
    model, _ = load_model(args.folder / "model")
    training = json.loads((args.folder / "training.json").read_text())
    (part, parts), x = args.share, binary_test(load(args.data))[:: args.every]
    found = bound(model, x[part::parts], args.samples, args.seed)  # type: ignore[arg-type]
    np.save(args.folder / f"values_{part}_of_{parts}.npy", found.numpy())
    files = [args.folder / f"values_{number}_of_{parts}.npy" for number in range(parts)]
    if not all(file.exists() for file in files):
        print(f"part {part} of {parts}: {-found.mean():.3f} nats; the last part writes the result")
        return
    values = torch.cat([torch.from_numpy(np.load(file, allow_pickle=False)) for file in files])
    with torch.no_grad(), fixed_noise(args.seed):
        levels = torch.cat([model(part).kl for part in x.split(500)], 1).mean(1)
    result = {
        **certificate(recipe=training["recipe"], seeds=[args.seed]),
        "nll_nats": {
            "value": -float(values.mean()),
            "standard_error": float(values.std() / len(values) ** 0.5),
            "n": len(values),
        },
        "kl_of_each_level_top_first_nats": levels.tolist(),
        "samples": args.samples,
        "training_seconds": sum(stage["training_seconds"] for stage in training["stages"]),
        "training": training,
        "published_2000_epochs": 81.74,
    }
    if args.name != "unnamed":
        write_result(args.name, result)
    print(result["nll_nats"], [round(value, 2) for value in levels.tolist()])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--latent", type=int, nargs="+", default=[4, 8, 16, 16], help="dimensions of z, top first")
    parser.add_argument("--width", type=int, default=256, help="of the bottom-up and top-down paths")
    parser.add_argument("--hidden", type=int, default=128, help="of the hidden layer of each posterior")
    parser.add_argument("--floor", type=float, default=0.1, help="of the learning rate, over its peak")
    parser.add_argument("--warm", type=int, default=2000, help="steps until the KL term has its full weight")
    parser.add_argument("--free-bits", type=float, default=0.0, help="nats of each level that cost nothing at first")
    parser.add_argument("--iwae", type=int, default=5, help="K of the importance-weighted bound trained at the end")
    parser.add_argument("--iwae-share", type=float, default=0.35, help="of the time that is trained on that bound")
    parser.add_argument("--steps", type=int, nargs=2, help="of the two parts, instead of what fits into --minutes")
    parser.add_argument("--samples", type=int, default=1000, help="K of the bound that is reported")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="share I of N: images I, I + N, ...")
    parser.add_argument("--every", type=int, default=1, help="evaluate every so many test images")
    args = parser.parse_args()
    {"train": train, "evaluate": evaluate}[args.part](args)


if __name__ == "__main__":
    main()
