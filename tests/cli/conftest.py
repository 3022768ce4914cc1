"""A tiny data set, a run that is finished, and the command line as a function."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import chdir, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import STEPS, Command, Result, rare_evaluations, short_reports
from training_helpers import Child

from sfumato.cli.main import run
from sfumato.evaluation import thorough
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.gap import find_gap
from sfumato.verbs import evaluate, verify_resume


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    """60 images of 8x8, three classes: a bright bar in one of three places."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = generator.integers(0, 20, (60, 8, 8))
    for number, place in enumerate(y):
        x[number, 2 * place + 1 : 2 * place + 3] += generator.integers(120, 230)
    return x.astype(np.uint8), y


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_images: tuple[np.ndarray, np.ndarray]) -> Path:
    """A folder with ``tiny.npz`` and the finished run ``runs/tiny``; only for reading."""
    folder = tmp_path_factory.mktemp("finished")
    x, y = tiny_images
    np.savez(folder / "tiny.npz", x=x, y=y, class_names=np.array(["top", "middle", "bottom"]))
    with chdir(folder), rare_evaluations(), short_reports():
        assert run(["train", "tiny.npz", *STEPS, "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def quick_report(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write a short report, but where a test is about the real one."""
    with nullcontext() if "real_report" in request.fixturenames else short_reports():
        yield


@pytest.fixture(autouse=True)
def few_evaluations() -> Iterator[None]:
    """Evaluate a training four times."""
    with rare_evaluations():
        yield


@pytest.fixture(autouse=True)
def quick_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refine and anneal in few steps: how good they are is shown where they are tested."""
    monkeypatch.setattr(thorough, "find_gap", partial(find_gap, steps=50))
    monkeypatch.setattr(evaluate, "Annealing", partial(Annealing, leapfrogs=2))


@pytest.fixture
def forked_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let verify-resume train in forks of this process, not in new interpreters."""
    monkeypatch.setattr(
        verify_resume, "_Python", lambda root, name: Child(lambda: verify_resume.train_task(root, name))
    )


@pytest.fixture
def real_report() -> None:
    """Ask for the real report."""


@pytest.fixture
def place(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """An own copy of the folder with the data and the run, as the current folder; the run reads the original data."""
    shutil.copytree(finished, tmp_path / "place")
    with chdir(tmp_path / "place"):
        yield tmp_path / "place"
