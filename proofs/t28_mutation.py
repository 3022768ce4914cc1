"""T28: mutation testing of what keeps and what lets in: each error planted in the source must fail a test.

:mod:`proofs.source_mutants` makes them, :mod:`proofs.judging` lets the tests that reach each judge it. Of those that
no test kills, :mod:`proofs.survivors` says why they are harmless; the share of the killed must be 90 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from proofs import ROOT
from proofs.proof import Budget, Mutants, Result, workspace
from proofs.source_mutants import sites
from proofs.survivors import HARMLESS

AIM, SHORT = 1_000, 0
ENOUGH, FEW = 0.9, 8
_STORE = ("io/test_io_faults.py", "io/test_io_crash.py", "io/test_io_damage.py", "io/test_io_run.py")
_DATA = (
    "data/test_data_sources.py",
    "data/test_data_images.py",
    "data/test_data_streams.py",
    "data/test_data_tables.py",
)
_TRAINING = (
    "training/test_training_resume.py",
    "training/test_training_guard.py",
    "training/test_training_resume_mutants.py",
)
ROOMS: Mapping[str, tuple[str, ...]] = {
    "io/store.py": _STORE,
    "io/checkpoints.py": _STORE,
    "io/run.py": _STORE,
    "io/tensors.py": ("io/test_io_tensors.py", *_STORE),
    "io/folder.py": ("io/test_io_model.py", "golden/test_golden.py"),
    "core/spec.py": (
        "io/test_io_spec.py",
        "io/test_io_model.py",
        "contracts/test_networks.py",
        "golden/test_golden.py",
    ),
    "core/strict_json.py": ("io/test_io_model.py", "io/test_io_damage.py"),
    "training/keeping.py": _TRAINING,
    "training/guard.py": _TRAINING,
    "training/state.py": _TRAINING,
    "data/files.py": _DATA,
    "data/arrays.py": _DATA,
    "data/images.py": _DATA,
    "data/tables.py": _DATA,
    "app/guard.py": ("app/test_app_guard.py", "app/test_app_routes.py"),
}


def run(budget: Budget, seed: int) -> Result:
    """Draw mutants from all rooms in turns, and let the tests that reach each judge it."""
    result = Result()
    with workspace() as place:
        asked = {
            "files": list(ROOMS),
            "seed": seed,
            "cases": min(budget.cases, 10**6),
            "seconds": min(budget.end - time.monotonic(), 10**6),
            "begin": time.time(),
            "harmless": list(HARMLESS),
        }
        (place / "asked.json").write_text(json.dumps(asked))
        tests = dict.fromkeys(f"tests/{name}" for file in ROOMS for name in tests_of(file))
        options = ["-p", "proofs.judging", "-p", "no:cacheprovider", f"--basetemp={place / 'tests'}"]
        variables = {**os.environ, "SFUMATO_JUDGE": str(place), "OMP_NUM_THREADS": "1"}
        with (place / "said.txt").open("w") as said:
            command = [sys.executable, "-m", "pytest", *options, *tests]
            subprocess.run(command, cwd=ROOT, env=variables, stdout=said, stderr=said, check=False)
        found = place / "found.jsonl"
        lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
        if not lines:
            raise RuntimeError((place / "said.txt").read_text()[-600:])
    alone = lines.pop()["fail alone"]
    survivors = [line["mutant"] for line in lines if not line["by"]]
    result.cases, result.fired = len(lines), len(lines) - len(survivors)
    share = result.fired / max(1, result.cases)
    total = sum(len(sites(file)) for file in ROOMS)
    listed = "; ".join(survivors[:40]) or "none"
    result.note = f"{result.fired} of {result.cases} killed ({share:.0%}), drawn from {total}; survivors: {listed}"
    result.require(not alone, f"these tests fail without a mutant too: {', '.join(alone)}")
    result.require(share >= ENOUGH or result.cases < FEW, f"only {share:.0%} were killed")
    return result


def tests_of(file: str) -> tuple[str, ...]:
    """Return the tests of a file's room."""
    return ROOMS[file]


def no_tests(patch: pytest.MonkeyPatch) -> None:
    """Judge by tests of something else."""
    patch.setattr(sys.modules[__name__], "tests_of", lambda file: ("exact/test_kl.py",))


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"tests of something else": no_tests}
