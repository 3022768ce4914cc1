"""How much less N runs cost when they share their steps than one after another, in turns, in one process.

    python benchmarks/several.py

Both sides are the training loop of sfumato with eager steps: the same runs, seeds, data and noise, and equal losses to
rounding. ``steps``: the steps alone. ``whole``: whole trainings from the first evaluation to the last, with all that
the shared side does before its first step: noting the draws, tracing, comparing and measuring. The ratio is taken round
by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from certificate import certificate, write_result
from sfumato.core.numerics import fixed_noise
from sfumato.data import Binarise, Dataset, Levels, load_dataset
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.training import Trainer, TrainingConfig
from sfumato.training.several import Rows, SharedStep, advance, fit_several

ROUNDS = 4
STEPS = 20
WHOLE = 400
FAR = 10**6
SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Case:
    """Runs of one architecture.

    Args:
        runs: how many.
        width: of the hidden layer of encoder and decoder.
        latent: the size of z.
        batch: examples a step, of each run.
        gaussian: whether the likelihood is a normal with the optimal variance, as in the claims; else Bernoulli.
    """

    runs: int
    width: int
    latent: int
    batch: int
    gaussian: bool = False

    @property
    def name(self) -> str:
        """What it is called in the result."""
        kind = "gaussian" if self.gaussian else "bernoulli"
        return f"{self.runs}_runs_784-{self.width}-{self.latent}_batch_{self.batch}_{kind}"

    def trainers(self, data: Dataset, steps: int) -> list[Trainer]:
        """Return the runs, one for each seed, with betas of their own."""
        every = min(steps, WHOLE // 2)
        config = {"steps": steps, "batch_size": self.batch, "engine": "eager", "precision": "float32"}
        config |= {"evaluate_every": every, "checkpoint_every": every}
        train, validation = data.split("train"), data.split("validation")
        preprocessing = Levels(SHAPE) if self.gaussian else Binarise(SHAPE, "dynamic")
        return [
            Trainer(
                self.model(seed),
                ELBO(beta=0.5 + seed / 4),
                train,
                validation,
                preprocessing,
                TrainingConfig(**config, seed=seed),  # type: ignore[arg-type]
            )
            for seed in range(self.runs)
        ]

    def model(self, seed: int) -> VAE:
        """Return an untrained model."""
        width, latent = self.width, self.latent
        with fixed_noise(seed):
            trunk = MLP(SHAPE, (width,), hidden=(), activate_output=True)
            mean, log_variance = (MLP((width,), (latent,), hidden=()) for _ in range(2))
            likelihood: nn.Module = Gaussian(SHAPE, "optimal") if self.gaussian else Bernoulli(SHAPE)
            posterior = DiagonalGaussian(mean, log_variance, trunk)
            return VAE(StandardNormal(latent), posterior, MLP((latent,), (1, *SHAPE), (width,)), likelihood)  # type: ignore[arg-type]


CASES = (
    Case(8, 64, 16, 64),
    Case(8, 200, 8, 128),
    Case(3, 200, 8, 128, gaussian=True),
    Case(8, 512, 16, 128),
)


def steps_of(case: Case, data: Dataset) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what does the next steps of all runs, one after another and at once."""
    single, shared = case.trainers(data, FAR), case.trainers(data, FAR)
    step, rows = SharedStep(shared), Rows([trainer.state for trainer in shared])
    done = [0, 0]

    def one_after_another() -> None:
        for trainer in single:
            for now in range(done[0], done[0] + STEPS):
                trainer.measured_step(now)
        done[0] += STEPS

    def at_once() -> None:
        for now in range(done[1], done[1] + STEPS):
            advance(shared, rows, step, dict.fromkeys(range(case.runs), now))
        done[1] += STEPS

    return one_after_another, at_once


def whole_of(case: Case, data: Dataset) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what trains all runs anew, one after another and at once."""

    def one_after_another() -> None:
        for trainer in case.trainers(data, WHOLE):
            trainer.fit()

    def at_once() -> None:
        fit_several(case.trainers(data, WHOLE))

    return one_after_another, at_once


def seconds(work: Callable[[], None]) -> float:
    """Return how long ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compared(sides: tuple[Callable[[], None], Callable[[], None]], warm: bool) -> dict[str, float | int]:
    """Return the ratio of the two sides' times, one after another to at once, over interleaved rounds."""
    if warm:
        for side in sides:
            side()
    pairs = [(seconds(sides[0]), seconds(sides[1])) for _ in range(ROUNDS)]
    ratios = [alone / together for alone, together in pairs]
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": ROUNDS,
        "one_after_another_seconds_median": statistics.median(pair[0] for pair in pairs),
        "at_once_seconds_median": statistics.median(pair[1] for pair in pairs),
    }


def main() -> None:
    """Measure every case, and write the result."""
    data = load_dataset("fashion-mnist-mini")
    head = certificate(recipe="N runs of one MLP on fashion-mnist-mini, eager, float32", seeds=list(range(8)))
    found = {}
    for case in CASES:  # several minutes each: what is measured is written at once
        found[case.name] = {
            "steps": compared(steps_of(case, data), warm=True) | {"steps_of_a_round": STEPS},
            "whole": compared(whole_of(case, data), warm=False) | {"steps_of_a_training": WHOLE},
        }
        print(case.name, found[case.name], flush=True)
        write_result("several", {**head, "threads": torch.get_num_threads(), **found})


if __name__ == "__main__":
    main()
