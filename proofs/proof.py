"""What every proof is made of: a budget, a count of cases and of injections that fired, and what failed."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

Mutants = Mapping[str, Callable[[pytest.MonkeyPatch], None]]
_HASTY: list[bool] = []
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
MOST_FAILURES = 20


class Red(BaseException):
    """The first failure of a proof that looks for one."""


class Budget:
    """How long a proof may go on, and up to how many cases.

    Args:
        cases: the aim.
        seconds: whatever the aim; a case that has begun is ended.
    """

    def __init__(self, cases: float = math.inf, seconds: float = math.inf) -> None:
        self.cases, self.end = cases, time.monotonic() + seconds

    def open(self, done: int) -> bool:
        """Whether there is room for another case after ``done`` of them; there always is for the first."""
        return not done or (done < self.cases and time.monotonic() < self.end)


@dataclass
class Result:
    """What a proof found.

    Args:
        cases: how many were tried.
        fired: how many injections happened: a kill that killed, a fault that was met, a damage that was made.
        failures: one sentence for each case that went wrong; the first ones.
        note: what could not be proven here, and figures that belong to the cases.
    """

    cases: int = 0
    fired: int = 0
    failures: list[str] = field(default_factory=list)
    note: str = ""

    def fail(self, sentence: str) -> None:
        """Note a failure."""
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(" ".join(sentence.split())[:400])
        if _HASTY:
            raise Red(self.failures[-1])

    @contextlib.contextmanager
    def case(self, name: str, cases: int = 1) -> Iterator[None]:
        """Count a case; whatever goes wrong inside is a failure, and the proof goes on."""
        self.cases += cases
        try:
            yield
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {error}")

    def require(self, truth: bool, sentence: str) -> None:
        """Note ``sentence`` as a failure unless ``truth``."""
        if not truth:
            self.fail(sentence)

    def plain(self) -> dict[str, Any]:
        """Return everything, ready for json."""
        return asdict(self)


class Proof(Protocol):
    """A module of this folder."""

    AIM: int
    SHORT: int

    def run(self, budget: Budget, seed: int) -> Result:
        """Prove."""
        ...

    def mutants(self) -> Mutants:
        """Return what must turn it red."""
        ...


def turned_red(module: Proof, name: str, budget: Budget, seed: int) -> str:
    """Plant an error and prove until it is seen.

    Args:
        module: the proof.
        name: of the mutant.
        budget: for it.
        seed: for it.

    Returns:
        the failure, "" where it was not seen, and "NOT PROVEN HERE: ..." where nothing could be tried.
    """
    with pytest.MonkeyPatch.context() as patch, workspace() as place:
        patch.setattr("proofs.mutating.CORPUS", place)  # what a mutant lets through is no find
        module.mutants()[name](patch)
        _HASTY.append(True)
        try:
            result = module.run(budget, seed)
        except Red as red:
            return str(red)
        finally:
            _HASTY.clear()
    return result.note if not result.cases else ""


@contextlib.contextmanager
def workspace(memory: bool = True) -> Iterator[Path]:
    """Yield a folder of one's own, in memory where there is one: syncs are many and the order of calls is the same."""
    path = tempfile.mkdtemp(prefix="sfumato-proof-", dir=MEMORY if memory else None)
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
