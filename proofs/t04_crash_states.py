"""T4: every state of the disk that a power cut may leave: no wrong checkpoint is accepted, no announced one is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import io_crash
import pytest

from proofs.proof import Budget, Mutants, Result, workspace

AIM, SHORT = 10_000, 0
BLOCK = 400  # states of one log


def run(budget: Budget, seed: int) -> Result:
    """Build states of saves of checkpoints, of a model that is replaced, and of a file."""
    result, rounds = Result(), itertools.count(seed)
    whats = (io_crash.prove_checkpoints, io_crash.prove_model, io_crash.prove_file)
    while budget.open(result.cases):
        for prove in whats:
            count = int(min(BLOCK, max(100, budget.cases)))
            with workspace() as place, pytest.MonkeyPatch.context() as patch:
                root, target = _two(place)
                number = next(rounds)
                with result.case(f"{prove.__name__}, round {number}", count):
                    prove(patch, root, target, count, number)
                    result.fired += count
    with workspace() as place, pytest.MonkeyPatch.context() as patch:
        root, target = _two(place)
        with result.case("prove_promise"):
            io_crash.prove_promise(patch, root, target)
            result.fired += 1
    return result


def _two(place: Path) -> tuple[Path, Path]:
    root, target = place / "root", place / "states"
    root.mkdir()
    target.mkdir()
    return root, target


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {
        "a writer without fsync": io_crash.no_file_sync,
        "without fsync of the folder": io_crash.no_folder_sync,
        "the manifest first": io_crash.manifest_first,
        "in place": io_crash.in_place,
        "removed in place": io_crash.removed_in_place,
    }
