"""T2: kill -9 inside a save: a part of a checkpoint is on the disk at that moment, in at least half of the kills."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from proofs import resume_mutants
from proofs.killing import killed_runs
from proofs.proof import Budget, Mutants, Result, workspace

AIM, SHORT = 1_000, 0


def parts(folder: Path) -> tuple[int, int]:
    """Return the highest step that is being written and the highest that is there, -1 for none."""
    names = os.listdir(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    begun = [int(name[11:]) for name in names if name.startswith(".part-step-")]
    return max(begun, default=-1), max((int(name[5:]) for name in names if name.startswith("step-")), default=-1)


def strike(child: Any, folder: Path, dice: random.Random) -> bool:
    """Wait for a save some steps ahead, kill, and say whether a part is left."""
    begun, latest = parts(folder)
    aim = latest + dice.randint(1, 15)
    while child.poll() is None:
        begun, latest = parts(folder)
        if begun > max(aim, latest):
            break
    child.kill()
    child.wait()
    begun, latest = parts(folder)
    return begun > latest


def run(budget: Budget, seed: int) -> Result:
    """Kill in saves; on a real disk, where a save lasts."""
    with workspace(memory=False) as place:
        result = killed_runs(budget, seed, place, strike, {})
    aimed = int(result.note.split()[0])
    result.require(aimed >= result.fired / 2 > 0, f"only {aimed} of {result.fired} kills hit a save")
    return result


def mutants() -> Mutants:
    """Return what must turn it red."""
    names = ("metrics", "optimizer")
    return {f"a resume that forgets: {name}": resume_mutants.MUTANTS[name] for name in names}
