"""T15: N processes are one: weights, averages, moments and metrics to 1e-10 in float64 after 50 steps."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from process_helpers import distance, exact_trainer, numbers, together

from proofs.proof import Budget, Mutants, Result
from sfumato.core.processes import Processes
from sfumato.core.schedules import Constant

AIM, SHORT = 60, 0
KINDS = ("dirac", "conditional", "iwae", "optimal")
STEPS = {"steps": 50, "log_every": 10, "evaluate_every": 25, "checkpoint_every": 25}
CLOSE = 1e-10


def run(budget: Budget, seed: int) -> Result:
    """Draw a kind, a number of processes, and a batch that leaves a small last one."""
    dice, result, worst = random.Random(seed), Result(), 0.0
    while budget.open(result.cases):
        kind, count = dice.choice(KINDS), dice.choice((2, 3, 4))
        batch = dice.choice((16, 40, 67, 101))  # 203 leave 11, 3, 2 and 1
        settings = {**STEPS, "batch_size": batch, "clip_norm": dice.choice((0.0, 5.0)), "schedule": Constant()}
        with result.case(f"{kind}, {count} processes, batch {batch}"):
            found = together(count, lambda rank, kind=kind, settings=settings: _fitted(kind, settings))
            alone = _fitted(kind, settings)
            far = max(distance(each, alone) for each in found)
            assert all(each == found[0] for each in found), "the processes differ"
            assert far < CLOSE, f"{far:.1e} from one process"
            assert distance(alone, _fitted(kind, {**settings, "seed": 6})) > 1e-4, "nothing depends on the data"
            worst = max(worst, far)
            result.fired += 1
    result.note = f"largest difference {worst:.1e}"
    return result


def _fitted(kind: str, settings: dict[str, Any]) -> dict[str, list[float]]:
    done = exact_trainer(kind, **settings)
    done.fit()
    return dict(numbers(done))


def counted_twice(patch: pytest.MonkeyPatch) -> None:
    """Let a process for which no sample is left count the one that it computes instead."""
    right = Processes.part
    patch.setattr(Processes, "part", lambda self, indices: (right(self, indices)[0], True))


def left_out(patch: pytest.MonkeyPatch) -> None:
    """Give the last process a sample less."""
    right = Processes.part

    def part(self: Processes, indices: torch.Tensor) -> tuple[torch.Tensor, bool]:
        own, counts = right(self, indices)
        return (own[:-1] if self.rank == self.count - 1 and len(own) > 1 else own), counts

    patch.setattr(Processes, "part", part)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a sample that is left out": left_out, "a sample that counts twice": counted_twice}
