"""T1: kill -9 at random times, one to four a run, resume: every bit of the state is that of the uninterrupted run."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from training_helpers import straight

from proofs import resume_mutants
from proofs.killing import killed_runs
from proofs.proof import Budget, Mutants, Result, workspace
from proofs.t02_kills_in_saves import parts

AIM, SHORT = 1_000, 0


def run(budget: Budget, seed: int) -> Result:
    """Kill at a time between the start and most of what is left of the training."""
    with workspace() as place:
        straight(place / "first")  # what is done once in a process takes longer
        begin = time.monotonic()
        wholes = {"conditional": straight(place / "whole", kind="conditional")}
        length = time.monotonic() - begin

        def strike(child: Any, folder: Path, dice: random.Random) -> bool:
            left = 1 - max(0, parts(folder)[1]) / 60
            time.sleep(dice.uniform(0, 0.8 * length * left))
            child.kill()
            return True

        result = killed_runs(budget, seed, place, strike, wholes)
    result.require(result.fired >= result.cases / 2, f"only {result.fired} of {result.cases} kills met a training")
    return result


def mutants() -> Mutants:
    """Return what must turn it red."""
    names = ("guard", "ema", "metrics")
    return {f"a resume that forgets: {name}": resume_mutants.MUTANTS[name] for name in names}
