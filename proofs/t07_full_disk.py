"""T7: disks really full, and files that may not grow: nothing lost; with room again, bit for bit."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from training_helpers import Child, differences, straight, trainer

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints

AIM, SHORT = 80, 0
SIZES = 40
PAGE = 4096


def run(budget: Budget, seed: int) -> Result:
    """Train on disks from 0.1 to 3 checkpoints large, and under limits of the size of a file; then with room again."""
    dice, result = random.Random(seed), Result()
    with workspace() as place:
        whole = straight(place / "whole")
        files = list((place / "whole" / "checkpoints" / "step-00000060").iterdir())
        size = sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)
        disk = place / "disk"
        disk.mkdir()
        refused = _mount(disk, size)
        subprocess.run(["umount", str(disk)], check=False, capture_output=True)
        factors = [0.1 + 2.9 * number / (SIZES - 1) for number in range(SIZES)]
        order = [(kind, factor) for factor in factors for kind in ("disk", "limit")]
        dice.shuffle(order)
        while budget.open(result.cases) and order:
            kind, factor = order.pop()
            if kind == "disk" and refused:
                continue
            with result.case(f"{kind} of {factor:.2f} checkpoints"):
                if kind == "disk":
                    _on_disk(result, disk, int(factor * size), whole)
                else:
                    _with_limit(
                        result, place / "limited", int(factor * max(path.stat().st_size for path in files)), whole
                    )
        result.note = f"NOT PROVEN HERE: no disk could be mounted ({refused})" if refused else ""
    return result


def _mount(disk: Path, size: int, *more: str) -> str:
    options = ",".join([f"size={max(PAGE, size)}", *more])
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def _trained(folder: Path, limit: int | None = None) -> Sequence[int]:
    """Train in a child; return the steps whose checkpoints were announced."""
    reader, writer = os.pipe()

    def work() -> int:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        right = Checkpoints.save

        def save(self: Checkpoints, step: int, *args: Any, **kwargs: Any) -> Path:
            path = right(self, step, *args, **kwargs)
            os.write(writer, step.to_bytes(4, "little"))
            return path

        Checkpoints.save = save  # type: ignore[method-assign]
        return int(bool(trainer(folder).fit().save_failed))

    child = Child(work)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert child.wait() in (0, 1), f"the training ended with {child.returncode}"
    return [int.from_bytes(said[at : at + 4], "little") for at in range(0, len(said), 4)] + [-child.returncode]


def _judge(result: Result, folder: Path, announced: Sequence[int], whole: Any) -> None:
    *steps, failed = announced
    result.fired += bool(failed)
    found = Checkpoints(folder / "checkpoints").latest()
    assert not steps or (found is not None and found.step >= max(steps)), "an announced checkpoint is lost"


def _on_disk(result: Result, disk: Path, size: int, whole: Any) -> None:
    problem = _mount(disk, size)
    assert not problem, problem
    try:
        announced = _trained(disk / "run")
        _judge(result, disk / "run", announced, whole)
        problem = _mount(disk, 64 << 20, "remount")
        assert not problem, problem
        assert differences(disk / "run", whole) == [], "not bit for bit"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _with_limit(result: Result, folder: Path, limit: int, whole: Any) -> None:
    announced = _trained(folder, limit)
    _judge(result, folder, announced, whole)
    assert differences(folder, whole) == [], "not bit for bit"
    shutil.rmtree(folder)


def makes_room_first(patch: pytest.MonkeyPatch) -> None:
    """Remove the old checkpoints before the new one is there."""
    right = Checkpoints.save

    def save(self: Checkpoints, step: int, *args: Any, **kwargs: Any) -> Path:
        for old in self.steps():
            store.discard(self._path(old))
        return right(self, step, *args, **kwargs)

    patch.setattr(Checkpoints, "save", save)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"room is made before the new one is there": makes_room_first}
