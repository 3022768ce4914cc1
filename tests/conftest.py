"""Shapes and types in the signatures of the mathematical rooms are checked at every call, here and nowhere else.

Not in ``data``, ``io`` and what stands above: they are the gates that wrong types come to, and say so themselves.
The hook rewrites modules while they are imported, so nothing may import sfumato before it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

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
install_import_hook([f"sfumato.{room}" for room in ROOMS], "shape_checker.check")

# The same examples at every run, and no clock: a busy machine is no bug.
settings.register_profile("sfumato", deadline=None, derandomize=True)
settings.load_profile("sfumato")
# Small tensors, often many tests at once: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one test measures or downloads is not known to the next, nor to whoever runs them."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SFUMATO_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
