"""T3: kill -9 at every system call of a save (with its rotation), of a replacement and of a resume."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from io_crash import in_place
from io_helpers import is_right, leftovers, save, tiny
from training_helpers import At, differences, resumed, straight, terminate, trainer

from proofs.proof import Budget, Mutants, Result, workspace
from proofs.strace import Call, traced, why_not
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model

AIM, SHORT = 400, 0
CHANGING = ("write", "fsync", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir")


def run(budget: Budget, seed: int) -> Result:
    """Look which calls are made, then kill at each, those that change the disk first; all, where the budget lasts."""
    result = Result(note=why_not())
    if result.note:
        return result
    dice, covered = random.Random(seed), []
    with workspace() as place:
        for left, (name, prove) in zip(
            (3, 2, 1), (("save", _save), ("model", _replace), ("resume", _resume)), strict=True
        ):
            folder, begun = place / name, result.cases
            calls: list[Call] = []
            with result.case(f"{name}, to see its calls", 0):
                calls += prove(result, folder, None)
            total = len(calls)
            dice.shuffle(calls)
            calls.sort(key=lambda call: call.name in CHANGING)
            most = (min(budget.cases, 10**9) - begun) / left
            while calls and budget.open(result.cases) and result.cases - begun < most:
                call = calls.pop()
                with result.case(f"{name}, killed at {call.name} {call.number}"):
                    prove(result, folder, call)
            covered.append(f"{name} {result.cases - begun} of {total} calls")
    result.note = ", ".join(covered)
    return result


def _killed(result: Result, work: Callable[[], object], call: Call | None) -> tuple[Call, ...]:
    done = traced(work, call)
    if call is None:
        assert done.code == 0, f"ended with {done.code}"
    result.fired += done.injected
    return done.calls


def _save(result: Result, folder: Path, call: Call | None) -> tuple[Call, ...]:
    if call is None:
        for step in (3, 6):
            save(folder, step)
    checkpoints = Checkpoints(folder)
    before = checkpoints.steps()[-1]
    calls = _killed(result, lambda: save(folder, before + 3), call)
    found = checkpoints.latest()
    assert is_right(found), "a wrong checkpoint was accepted"
    assert found is not None
    assert found.step in (before, before + 3), "an announced checkpoint is lost"
    assert not checkpoints.warnings, checkpoints.warnings
    for step in checkpoints.steps():
        checkpoints.load(step)
    save(folder, before + 3)
    assert not leftovers(folder), "leftovers"
    return calls


def _replace(result: Result, folder: Path, call: Call | None) -> tuple[Call, ...]:
    if call is None:
        save_model(folder, tiny(), card={"number": 0})
    before = load_model(folder, kind="tiny")[1]["number"]
    calls = _killed(result, lambda: save_model(folder, tiny(), card={"number": before + 1}, replace=True), call)
    assert load_model(folder, kind="tiny")[1]["number"] in (before, before + 1), "neither the old one nor the new one"
    return calls


def _resume(result: Result, folder: Path, call: Call | None) -> tuple[Call, ...]:
    stopped = folder / "stopped"
    if call is None:
        folder.mkdir()
        _WHOLE[str(folder)] = straight(folder / "whole")
        trainer(stopped, listener=At(52, terminate)).fit()
    copy = shutil.copytree(stopped, folder / "copy")
    calls = _killed(result, lambda: resumed(copy), call)
    if call is not None:
        assert differences(copy, _WHOLE[str(folder)]) == [], "not bit for bit"
    shutil.rmtree(copy)
    return calls


_WHOLE: dict[str, object] = {}


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"written in place": in_place}
