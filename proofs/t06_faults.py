"""T6: a disk that fails at any call: full, over a quota, faulty, read-only, out of files, interrupted, short writes."""

from __future__ import annotations

import errno
import inspect
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from io_crash import in_place
from io_helpers import FAULTS, at_call, fails, is_right, leftovers, save, tiny
from training_helpers import differences, resumed, straight, trainer

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core.errors import SfumatoError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model
from sfumato.io.run import RunFolder

AIM, SHORT = 5_000, 0
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")
MOST = 60  # calls of one operation


def run(budget: Budget, seed: int) -> Result:
    """Draw an operation, a fault and a call, again and again; every tenth case is a whole training."""
    dice, result, places = random.Random(seed), Result(), {}
    with workspace() as place, pytest.MonkeyPatch.context() as patch:
        whole = straight(place / "whole")
        for name in ("save", "model", "file"):
            places[name] = place / name
        for step in (3, 6, 9):
            save(places["save"], step)
        save_model(places["model"], tiny(), card={"number": 0})
        store.write_file(places["file"], b"0")
        operations: list[tuple[str, Callable[..., None]]] = [
            ("a save", _save),
            ("a replacement", _replace),
            ("a file", _write),
            ("a log", _log),
        ]
        while budget.open(result.cases):
            fault = dice.choice([*FAULTS, "short"])
            if result.cases % 10 == 9:
                with result.case(f"a training with {_name(fault)}"):
                    _train(result, place / f"run{result.cases}", whole, fault, dice, patch)
                continue
            name, prove = operations[result.cases % len(operations)]
            number = dice.randint(1, MOST)
            with result.case(f"{name} with {_name(fault)} at call {number}"):
                prove(result, place, fault, number, patch)
    return result


def _name(fault: int | str) -> str:
    return fault if isinstance(fault, str) else errno.errorcode[fault]


def _tried(
    result: Result,
    fault: int | str,
    number: int,
    patch: pytest.MonkeyPatch,
    work: Callable[[], object],
    once: bool = True,
) -> bool:
    """Do ``work`` under a fault; return whether it was announced as done, after a look at what it says if not.

    What writes more than ``once`` may go on after a failed sync, and try again later.
    """
    synced: list[bool] = []

    def action() -> None:
        names = [frame.function for frame in inspect.stack()]
        synced.append("sync_file" in names)
        fails(fault)()

    try:
        if fault == "short":
            real = os.write
            with patch.context() as inner:
                inner.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: max(1, len(data) // 3)]))
                result.fired += 1
                work()
            return True
        with at_call(patch, number, action, calls=CALLS) as fired:
            try:
                work()
            finally:
                result.fired += fired.done
    except SfumatoError as error:
        text = str(error)
        assert text.endswith(".") and "\n" not in text, text
        assert error.exit_code == 1, f"exit code {error.exit_code}: {text}"
        full = fault in (errno.ENOSPC, errno.EDQUOT)
        assert isinstance(error, store.NoRoom) == full, f"{type(error).__name__}: {text}"
        return False
    assert not once or not any(synced), "a sync that failed was announced as done"
    return True


def _save(result: Result, place: Path, fault: int | str, number: int, patch: pytest.MonkeyPatch) -> None:
    folder = place / "save"
    before = Checkpoints(folder).steps()[-1]
    done = _tried(result, fault, number, patch, lambda: save(folder, before + 3))
    checkpoints = Checkpoints(folder)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == before + 3 if done else found.step in (before, before + 3), "an announced one is lost"
    assert is_right(found), "a wrong checkpoint was accepted"
    assert not checkpoints.warnings, checkpoints.warnings
    assert len(checkpoints.steps()) >= 2
    save(folder, found.step + 3)
    assert not leftovers(folder), "leftovers"


def _replace(result: Result, place: Path, fault: int | str, number: int, patch: pytest.MonkeyPatch) -> None:
    folder = place / "model"
    before = load_model(folder, kind="tiny")[1]["number"]
    work = lambda: save_model(folder, tiny(), card={"number": before + 1}, replace=True)  # noqa: E731
    done = _tried(result, fault, number, patch, work)
    after = load_model(folder, kind="tiny")[1]["number"]
    assert after == before + 1 if done else after in (before, before + 1), "an announced model is lost"


def _write(result: Result, place: Path, fault: int | str, number: int, patch: pytest.MonkeyPatch) -> None:
    path = place / "file"
    before = int(path.read_bytes())
    done = _tried(result, fault, 1 + number % 5, patch, lambda: store.write_file(path, b"%d" % (before + 1)))
    after = int(path.read_bytes())
    assert after == before + 1 if done else after in (before, before + 1), "an announced file is lost"
    assert not [name for name in os.listdir(place) if name.startswith(store.PART)], "leftovers"


def _log(result: Result, place: Path, fault: int | str, number: int, patch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(place / "log")
    folder.path.mkdir(exist_ok=True)
    before = folder.metrics.read()
    line = {"step": len(before)}
    done = _tried(result, fault, 1 + number % 3, patch, lambda: folder.metrics.append(line))
    assert folder.metrics.read() in ([[*before, line]] if done else [before, [*before, line]])


def _train(
    result: Result, folder: Path, whole: Any, fault: int | str, dice: random.Random, patch: pytest.MonkeyPatch
) -> None:
    """Let a fault meet a training somewhere; afterwards, whatever it said, resumed it is the one without."""
    number = dice.randint(1, 900)
    with patch.context() as inner:
        _tried(result, fault, number, inner, lambda: trainer(folder).fit(), once=False)
    assert differences(folder, whole) == [], "not bit for bit"
    assert resumed(folder).state.step == 60
    shutil.rmtree(folder)


def pretends(patch: pytest.MonkeyPatch) -> None:
    """Take a failed sync for a whim."""
    right = store.sync_file

    def sync(descriptor: int) -> None:
        try:
            right(descriptor)
        except OSError:
            right(descriptor)

    patch.setattr(store, "sync_file", sync)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a sync that is tried again": pretends, "written in place": in_place}
