"""Shapes and types in the signatures of the mathematical rooms are checked at every call, here and nowhere else.

Not in ``data``, ``io`` and what stands above: they are the gates that wrong types come to, and say so themselves.
The hook rewrites modules while they are imported, so nothing may import sfumato before it.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import shape_checker

ROOMS = (
    "core",
    "networks",
    "distributions",
    "priors",
    "posteriors",
    "likelihoods",
    "models",
    "objectives",
    "training",
    "evaluation",
)

assert "sfumato" not in sys.modules, "sfumato was imported before its shapes could be checked"
shape_checker.install([f"sfumato.{room}" for room in ROOMS])

# Where modules are compiled anew in every process, each that the tests start does that for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Nor need they compete with the other tests: one thread, and no processes of their own that compile.
os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

# The same examples at every run, and no clock: a busy machine is no bug.
settings.register_profile("sfumato", deadline=None, derandomize=True)
settings.load_profile("sfumato")
# Small tensors, often many tests at once: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield folders that there are not: pytest's own look at all others when they are made, thousands here."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one test measures or downloads is not known to the next, nor to whoever runs them."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("SFUMATO_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
