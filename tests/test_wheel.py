"""The wheel holds everything that the source has, and works without the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from cli_helpers import environment

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "sfumato"
# The wheel before what is installed; -I keeps the current folder and PYTHONPATH out.
COMMAND = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import sfumato
assert sfumato.__file__.startswith(sys.path[0]), sfumato.__file__
from sfumato.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout builds, with what is installed here and without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    process = subprocess.run(build, cwd=ROOT, env=environment(), check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def call(unpacked: Path, folder: Path, *arguments: str) -> str:
    """Run a command of the unpacked wheel in a process of its own; return what it printed."""
    command = [sys.executable, "-I", "-c", COMMAND, str(unpacked), *arguments]
    process = subprocess.run(command, cwd=folder, env=environment(), check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    there = {str(path.relative_to(SOURCE.parent)) for path in SOURCE.rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == there
    for name in ("py.typed", "app/static/index.html", "report/report.html.jinja", "data/assets/fashion_mnist_mini.npz"):
        assert f"sfumato/{name}" in packed


def test_the_wheel_says_what_it_is(unpacked: Path) -> None:
    (folder,) = unpacked.glob("*.dist-info")
    assert (folder / "entry_points.txt").read_text().split() == [
        *("[console_scripts]", "sfumato", "=", "sfumato.cli.main:main")
    ]
    metadata = (folder / "METADATA").read_text()
    assert f"Version: {version('sfumato')}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Dist: torch" in metadata


def test_its_commands_run_without_the_repository(unpacked: Path, tmp_path: Path) -> None:
    assert call(unpacked, tmp_path, "--version") == f"sfumato {version('sfumato')}\n"
    assert "sfumato train" in call(unpacked, tmp_path)
    assert "Usage: sfumato" in call(unpacked, tmp_path, "--help")
    assert "12,000" in call(unpacked, tmp_path, "inspect", "fashion-mnist-mini")
    assert not list(tmp_path.iterdir())
