"""Trainings that are killed one to four times and resumed, against the one that was not."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training_helpers import KINDS, Child, differences, resumed, straight

from proofs.proof import Budget, Result

Strike = Callable[[Any, Path, random.Random], bool]  # kills the child; says whether where it was meant to


def killed_runs(budget: Budget, seed: int, place: Path, strike: Strike, wholes: dict[str, Any]) -> Result:
    """Kill until the budget is used. A kill counts as fired when it ended a process that was at work.

    Args:
        budget: cases are kills.
        seed: of kinds, numbers of kills and moments.
        place: where the runs go.
        strike: waits for its moment, and kills.
        wholes: kind -> everything of the uninterrupted training; filled when asked for.
    """
    dice, result, aimed, number = random.Random(seed), Result(), 0, 0
    while budget.open(result.cases):
        kind, number = dice.choice(KINDS), number + 1
        if kind not in wholes:
            wholes[kind] = straight(place / f"whole-{kind}", kind=kind)
        folder = place / f"run{number}"
        kills = dice.randint(1, 4)
        with result.case(f"run {number} ({kind})", kills):
            for _ in range(kills):
                child = Child(lambda folder=folder, kind=kind: resumed(folder, kind=kind).fit() and 0)
                where = strike(child, folder, dice)
                killed = child.wait() == -signal.SIGKILL
                result.fired, aimed = result.fired + killed, aimed + (killed and where)
            found = differences(folder, wholes[kind], kind=kind)
            assert found == [], f"not bit for bit: {', '.join(found)}"
            names = [path.name for path in (folder / "checkpoints").iterdir()]
            assert all(name.startswith("step-") for name in names), f"left behind: {names}"
        shutil.rmtree(folder, ignore_errors=True)
    result.note = f"{aimed} of {result.fired} where they were meant to"
    return result
