"""T8: signals to a whole command and to one of two processes: the exit code, a checkpoint within 5 s, no orphans."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_helpers import Child

from proofs.proof import Budget, Mutants, Result, workspace
from proofs.t02_kills_in_saves import parts
from sfumato.cli.main import run as command
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest
from sfumato.training.interruption import Interruption

AIM, SHORT = 100, 0
LONG = 5.0
STEPS = 120
# what is sent, the exit code, whether a checkpoint of the moment is owed
KINDS: dict[str, tuple[tuple[signal.Signals, ...], int, bool]] = {
    "SIGTERM": ((signal.SIGTERM,), 143, True),
    "SIGINT": ((signal.SIGINT,), 130, True),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), 130, False),
    "SIGHUP": ((signal.SIGHUP,), 129, True),
    "SIGKILL, as for want of memory": ((signal.SIGKILL,), -9, False),
    "a pause": ((signal.SIGSTOP, signal.SIGCONT), 0, False),
    "a closed pipe": ((), 0, False),
    "a closed terminal": ((), 129, True),
}


def run(budget: Budget, seed: int) -> Result:
    """Send each of them, at random steps, and resume: the end is that of the training without."""
    dice, result = random.Random(seed), Result()
    with workspace() as place:
        x = np.random.default_rng(0).integers(0, 256, (120, 4, 4)).astype(np.uint8)
        np.save(place / "x.npy", x)
        whole = ended(place / "whole", started(place / "x.npy", place / "whole"))
        order: list[str] = []
        while budget.open(result.cases):
            order = order or sorted(dice.sample(list(KINDS), len(KINDS)), key=lambda kind: KINDS[kind][2])
            name, folder = order.pop(), place / f"run{result.cases}"
            with result.case(name):
                _strike(result, place, folder, name, dice)
                assert ended(folder, resumed(folder)) == whole, "the resumed run is another one"
            shutil.rmtree(folder, ignore_errors=True)
    return result


def started(data: Path, folder: Path) -> Any:
    """Start a training in a child."""
    return _process(
        ["train", str(data), "--steps", str(STEPS), "--latent-dim", "2", "--batch", "16", "--out", str(folder)]
    )


def resumed(folder: Path) -> Any:
    """Resume a training in a child."""
    return _process(["train", "--resume", str(folder)])


def _process(arguments: list[str], output: int | None = None, other: int | None = None) -> Any:
    """Run a command in a child; its talk goes to ``output``, of whose ``other`` end it keeps nothing."""

    def work() -> int:
        if other is not None:
            os.close(other)
        os.setsid()
        if output is not None and os.isatty(output):
            fcntl.ioctl(output, termios.TIOCSCTTY, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null if output is None or number == 0 else output, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever those who started us ignore
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.MonkeyPatch.context() as patch:
            _quick(patch)
            return command(arguments)

    return Child(work)


def _quick(patch: pytest.MonkeyPatch) -> None:
    """Leave out what comes after the training: it has tests of its own."""
    from sfumato.verbs import listeners
    from sfumato.verbs import train as verb

    patch.setattr(verb, "measure", lambda *args, **kwargs: None)
    patch.setattr(verb, "certified", lambda *args: {"values": {}})
    patch.setattr(verb, "verdict", lambda *args: ())
    patch.setattr(listeners, "write_report", lambda path, **kwargs: None)


def _strike(result: Result, place: Path, folder: Path, name: str, dice: random.Random) -> None:
    numbers, code, owed = KINDS[name]
    reader, writer = pty.openpty() if name == "a closed terminal" else os.pipe()
    arguments = ["train", str(place / "x.npy"), "--steps", str(STEPS), "--latent-dim", "2", "--batch", "16"]
    child = _process([*arguments, "--out", str(folder)], writer, reader)
    os.close(writer)
    end = threading.Event()
    hearing = threading.Thread(target=_hear, args=(reader, end))
    hearing.start()
    if name == "a closed pipe":
        end.set()
        hearing.join()
    try:
        _until(lambda: parts(folder)[1] >= dice.randint(5, STEPS // 2), child)
        begin = time.monotonic()
        if name == "a closed terminal":
            end.set()
            hearing.join()
        for number in numbers:
            child.kill(number)
            time.sleep(0.05 if number == signal.SIGSTOP else 0)
        if name == "a closed pipe":
            child.wait(120)
        elif signal.SIGSTOP not in numbers:
            child.wait(60)
            assert time.monotonic() - begin < LONG, "it took too long to end"
        assert child.wait(120) == code, f"exit code {child.returncode}, not {code}"
        result.fired += 1
        if owed:
            latest = RunFolder(folder).open_checkpoints().latest()
            assert latest is not None
            assert latest.step < STEPS, "it did not stop"
        assert not _orphans(child.pid), "processes were left behind"
    finally:
        child.kill()
        child.wait()
        end.set()
        hearing.join()


def _hear(reader: int, end: threading.Event) -> None:
    """Read what is said until the end, then close."""
    while not end.is_set():
        if select.select([reader], [], [], 0.02)[0] and not os.read(reader, 1 << 16):
            break
    os.close(reader)


def _until(what: Callable[[], bool], child: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert child.poll() is None, f"it ended with {child.returncode} before the signal"
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.001)


def _orphans(session: int) -> list[int]:
    """Return the processes of a session that has ended."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def ended(folder: Path, child: Any) -> dict[str, Any]:
    """Let a command end; return what must be the same whatever happened on the way."""
    code = child.wait(120)
    assert code == 0, f"the training ended with {code}"
    latest = RunFolder(folder).open_checkpoints().latest()
    assert latest is not None
    state = {name: value for name, value in latest.state["training"].items() if name != "seconds"}
    weights = {stem: digest(tensors) for stem, tensors in latest.tensors.items()}
    return {**weights, "state": state, "metrics": (folder / "metrics.jsonl").read_bytes()}


def deaf(patch: pytest.MonkeyPatch) -> None:
    """Let a signal end the process as it would any other."""
    patch.setattr(Interruption, "__enter__", lambda self: self)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a training that does not listen": deaf}
