"""What the MNIST benchmarks share: the data, the gated model, one training, one evaluation."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUpCosine
from sfumato.core.spec import to_spec
from sfumato.data import Binarise, Dataset
from sfumato.evaluation.bounds import importance_bound
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.recipes import RECIPES, build_vae
from sfumato.training import Listener, Trainer, TrainingConfig
from sfumato.training.budget import steps_in

BINARISATION_SEED = 2026


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all of them take."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("part", choices=("train", "evaluate"))
    parser.add_argument("data", type=Path, help="mnist.npz: x_train, y_train, x_test, y_test")
    parser.add_argument("folder", type=Path, help="where the trained model is left and found")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--lr", type=float, default=8e-3, help="learning rate at its peak")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="decoupled, times the learning rate")
    parser.add_argument("--name", default="unnamed", help="of the result file, without .json")
    return parser


def settings(args: argparse.Namespace) -> TrainingConfig:
    """Return the training configuration, but for its length."""
    return TrainingConfig(
        steps=10**6,
        batch_size=args.batch,
        learning_rate=args.lr,
        weight_decay=args.weight_decay,
        clip_norm=200.0,
        ema_decay=0.999,
        seed=args.seed,
        log_every=500,
        evaluate_every=10**6,
        checkpoint_every=10**6,
    )


def load(path: Path) -> Dataset:
    """Return MNIST as 50,000 training, 10,000 validation (the last of x_train) and 10,000 test images."""
    with np.load(path, allow_pickle=False) as file:
        x = np.concatenate([file["x_train"], file["x_test"]])[:, None]
        y = np.concatenate([file["y_train"], file["y_test"]]).astype(np.int64)
    splits = {"train": np.arange(50_000), "validation": np.arange(50_000, 60_000), "test": np.arange(60_000, 70_000)}
    return Dataset("mnist", x, y, splits, tuple(map(str, range(10))))


def gated_vae(latent_dim: int, classes: int = 0, condition: str = "prior") -> VAE:
    """Return the gated 300-300 VAE for binary MNIST."""
    frequencies = (1 / classes,) * classes if classes else ()
    return build_vae(RECIPES["mlp"], Bernoulli((1, 28, 28)), latent_dim, frequencies, condition)  # type: ignore[arg-type]


def start_at_the_mean(model: VAE, data: Dataset) -> None:
    """Let the decoder's last bias be the log-odds of each pixel in the training split, which saves the first epochs."""
    shares = torch.from_numpy(data.array("train")).float().div(255).mean(0).clamp(0.01, 0.99)
    last = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(shares.logit().flatten())


class Printer(Listener):
    """Prints evaluations."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)

    def on_evaluation(self, line: Any, model: Any) -> dict[str, Any]:
        shown = {key: round(value, 3) for key, value in line.items() if isinstance(value, float)}
        print(f"{time.monotonic() - self.begin:7.0f} s  step {line['step']:,}  {shown}", flush=True)
        return {}


def fit(
    model: VAE,
    objective: Objective,
    data: Dataset,
    config: TrainingConfig,
    seconds: float,
    floor: float = 0.0,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place on dynamically binarised images; return what happened.

    Without ``steps``, as many as fit into ``seconds``, by a short measurement; the learning rate ends at ``floor``.
    """
    binarise = Binarise((1, 28, 28), "dynamic")
    train, validation = data.split("train"), data.split("validation")
    steps = steps or steps_in(seconds, model, objective, train, validation, binarise, config)
    every = math.ceil(steps / 4)
    schedule = WarmUpCosine(steps, warmup=min(500, steps // 10), floor=floor)
    config = replace(config, steps=steps, schedule=schedule, evaluate_every=every, checkpoint_every=every)
    outcome = Trainer(model, objective, train, validation, binarise, config, listener=Printer()).fit()
    return {
        "objective": to_spec(objective),
        "training": to_spec(config),
        "steps": outcome.step,
        "epochs": outcome.step * config.batch_size / len(train),
        "images_per_second": outcome.step * config.batch_size / outcome.seconds,
        "training_seconds": outcome.seconds,
        "skipped_steps": outcome.skipped,
        "best_step": outcome.best_step,
        "validation_loss": outcome.best_value,
    }


def binary_test(data: Dataset, count: int | None = None) -> torch.Tensor:
    """Return the test images, binarised once by a fixed seed."""
    raw = torch.from_numpy(data.array("test"))[:count]
    with fixed_noise(BINARISATION_SEED):
        return Binarise((1, 28, 28), "dynamic")(raw)


def bound(
    model: VAE,
    x: torch.Tensor,
    samples: int,
    seed: int,
    batch: int = 50,
    before: Callable[[torch.Tensor], None] = lambda images: None,
) -> torch.Tensor:
    """Return L_K in nats for each image, printing as it goes; ``before`` is told which images are next."""
    parts, begin = [], time.monotonic()
    for number, start in enumerate(range(0, len(x), batch)):
        images = x[start : start + batch]
        before(images)
        parts.append(importance_bound(model, images, samples=samples, seed=seed + number, compiled=True))
        if start // 1_000 != (start + batch) // 1_000:
            done = torch.cat(parts)
            print(f"{len(done):,} images  {-done.mean():.3f} nats  {time.monotonic() - begin:.0f} s", flush=True)
    return torch.cat(parts)
