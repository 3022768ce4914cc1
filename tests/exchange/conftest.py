"""Small finished runs, made once: a class-conditional one and a first stage of latent diffusion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import rare_evaluations, short_reports

from sfumato.cli.main import run


def make(folder: Path, name: str, *words: str) -> Path:
    """Train a run without its report."""
    with chdir(folder), rare_evaluations(), short_reports():
        assert run(["train", str(folder / "tiny.npz"), "--quiet", "--steps", "12", "--out", name, *words]) == 0
    return folder / name


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.npz``: 60 grey images of 8x8, three classes."""
    folder = tmp_path_factory.mktemp("exchange")
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = generator.integers(0, 40, (60, 8, 8))
    for number, row in enumerate(y):
        x[number, 2 * row + 1 : 2 * row + 3] += generator.integers(120, 200)
    np.savez(folder / "tiny.npz", x=x.astype(np.uint8), y=y, class_names=np.array(["top", "mid|dle", "<b>"]))
    return folder


@pytest.fixture(scope="session")
def conditional(place: Path) -> Path:
    """A run whose encoder and decoder see the class."""
    return make(place, "conditional", "--latent-dim", "3", "--recipe", "conv-small", "--condition", "both")


@pytest.fixture(scope="session")
def first_stage(place: Path) -> Path:
    """A run of the recipe autoencoder-kl."""
    return make(place, "first-stage", "--recipe", "autoencoder-kl", "--likelihood", "logistic", "--no-conditional")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: its code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
