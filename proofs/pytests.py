"""Proofs that are tests already: run them in a process of their own, and count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proofs import ROOT


@dataclass(frozen=True)
class Ran:
    """What a run of tests said.

    Args:
        passed, failed, skipped: how many.
        said: its last lines.
    """

    passed: int
    failed: int
    skipped: int
    said: str


def pytest_run(
    names: Sequence[str],
    *,
    options: Sequence[str] = (),
    python: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
    umask: int = -1,
) -> Ran:
    """Run tests.

    Args:
        names: files or FILE::FUNCTION, below the project.
        options: of pytest.
        python: of the interpreter.
        environment: more of it.
        seconds: after which they count as failed.
        umask: of the process.
    """
    command = [sys.executable, *python, "-m", "pytest", "-p", "no:cacheprovider", *options, *names]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=seconds, umask=umask
        )
    except subprocess.TimeoutExpired:
        return Ran(0, 1, 0, f"not done after {seconds:g} s")
    lines = done.stdout.strip().splitlines()
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if done.returncode not in (0, 1) or (not failed and done.returncode):
        failed = max(1, failed)
    wrong = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    wrong = wrong[:3] + [line for line in lines if line.startswith("E  ")][:3]
    said = " ".join(wrong or lines[-2:]) + done.stderr.strip()[-200:] * bool(failed)
    return Ran(counts.get("passed", 0), failed, counts.get("skipped", 0), said)
