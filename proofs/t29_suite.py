"""T29: the tests in random order, with odd time zones, locales, umasks, homes, -O and -X dev: none is flaky."""

from __future__ import annotations

import os
import random

import pytest

from proofs import ROOT
from proofs.proof import Budget, Mutants, Result, workspace
from proofs.pytests import pytest_run

AIM, SHORT = 100, 1
LIGHT = ("core", "io", "data", "exact", "contracts", "golden", "recipes")
ZONES = ("UTC", "Asia/Kathmandu", "Pacific/Chatham", "America/St_Johns", "<+0545>-5:45", "nonsense")
LOCALES = ("C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.UTF-8", "POSIX")
PYTHONS: tuple[tuple[str, ...], ...] = ((), ("-O",), ("-X", "dev"), ("-b",), ("-P",))


def run(budget: Budget, seed: int) -> Result:
    """Run some files, again and again, each time in other surroundings."""
    dice, result = random.Random(seed), Result()
    files = _files(math_only=budget.cases < 5)
    with workspace() as place:
        home = place / "home"
        home.mkdir(mode=0o500)
        while budget.open(result.cases):
            python = dice.choice(PYTHONS)
            chosen = dice.sample(files, min(len(files), 1 if budget.cases < 5 else 3))
            odd = {
                "TZ": dice.choice(ZONES),
                "LC_ALL": dice.choice(LOCALES),
                "LANG": dice.choice(LOCALES),
                "HOME": str(home),
                "PYTHONHASHSEED": str(dice.randrange(2**32)),
                "SFUMATO_SHUFFLE": str(dice.randrange(10**6)),
                "COLUMNS": dice.choice(("20", "80", "400")),
            }
            umask = dice.choice((0o000, 0o022, 0o077, 0o027))
            with result.case(f"{' '.join(python)} TZ={odd['TZ']} LC_ALL={odd['LC_ALL']} umask {umask:03o}"):
                options = ("-p", "proofs.shuffled", *_ignored(python))
                ran = pytest_run(chosen, options=options, python=python, environment=odd, umask=umask, seconds=900)
                assert not ran.failed, ran.said
                result.fired += ran.passed
    result.note = f"{result.fired:,} tests passed"
    return result


def _ignored(python: tuple[str, ...]) -> tuple[str, ...]:
    """-O: pytest says that asserts outside of tests are not there; -b: matplotlib hashes bytes; -X dev: torch warns."""
    if "-O" in python:
        return ("-W", "ignore::pytest.PytestConfigWarning")
    if "-b" in python:
        return ("-W", "ignore::BytesWarning:matplotlib.backends.backend_svg")
    return ("-W", "ignore::ResourceWarning", "-W", "ignore::ImportWarning") if "dev" in python else ()


def _files(math_only: bool) -> list[str]:
    """Return the files of the light rooms; of the lightest alone where there is little time."""
    rooms = ("exact",) if math_only else LIGHT
    found = [path for room in rooms for path in sorted((ROOT / "tests" / room).glob("test_*.py"))]
    return [os.path.relpath(path, ROOT) for path in found if not math_only or "numerics" in path.name]


def leaks(patch: pytest.MonkeyPatch) -> None:
    """Let a test fail that hangs on the order."""
    patch.setenv("PYTEST_ADDOPTS", "-p proofs.t29_leak")


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a test that fails now and then": leaks}
