"""T12: two commands in one folder: one trains, the other exits 2 with a sentence, and the training is as if alone."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest

from proofs.proof import Budget, Mutants, Result, workspace
from proofs.t08_signals import ended, resumed, started
from sfumato.io.run import RunFolder

AIM, SHORT = 100, 0


def run(budget: Budget, seed: int) -> Result:
    """Start the second one a moment after the first: as a new training, or as a resume."""
    dice, result = random.Random(seed), Result()
    with workspace() as place:
        np.save(place / "x.npy", np.random.default_rng(0).integers(0, 256, (120, 4, 4)).astype(np.uint8))
        whole = ended(place / "whole", started(place / "x.npy", place / "whole"))
        while budget.open(result.cases):
            folder, again = place / f"run{result.cases}", dice.random() < 0.5
            with result.case("resumed by two" if again else "trained by two"):
                first = started(place / "x.npy", folder)
                try:
                    _wait(folder, 0 if not again else 1, first)
                    time.sleep(dice.uniform(0, 0.1))
                    second = resumed(folder) if again else started(place / "x.npy", folder)
                    code, alive = second.wait(60), first.poll() is None
                    assert code == 2 or not alive, f"the second one ended with {code} while the first one trained"
                    result.fired += alive
                    assert ended(folder, first) == whole, "the training is another one"
                finally:
                    first.kill()
                    first.wait()
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _wait(folder: object, checkpoints: int, child: object) -> None:
    run_folder = RunFolder(str(folder))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if run_folder.run.exists() and len(run_folder.open_checkpoints().steps()) >= checkpoints:
            return
        time.sleep(0.001)
    raise AssertionError("the first one did not begin")


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


def unlocked(patch: pytest.MonkeyPatch) -> None:
    """Train without a lock."""
    patch.setattr(RunFolder, "lock", lambda self: _nothing())


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"without a lock": unlocked}
