"""T21: mutated files through the command line (exit 2, the file named, no traceback) and the service (no 5xx)."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from app_helpers import application, call, image_model, saved

from proofs.mutating import IMAGES, guarded, mutated, seeds
from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.cli.main import run as command
from sfumato.core import errors
from sfumato.io.folder import CONFIG, WEIGHTS

AIM, SHORT = 20_000, 48
BLOCK = 40
FILES = ("npy", "npz", "csv", "parquet", "tar", "png")
BODIES = {"npz": "application/x-npz", "json": "application/json", **dict.fromkeys(IMAGES, "image/png")}
TARGETS = ("data", "model", "service")


def run(budget: Budget, seed: int) -> Result:
    """Take turns: data for ``inspect``, a model folder for ``info``, a body for the service."""
    dice, result = random.Random(seed), Result()
    warnings.simplefilter("ignore")
    with workspace() as place:
        whole, model = seeds(place), saved(place / "good", image_model())
        app = application(model)
        number = 0
        while budget.open(result.cases):
            target, size = TARGETS[number % len(TARGETS)], int(min(BLOCK, max(1, budget.cases / 3)))
            number += 1
            suffix = dice.choice(
                {"data": FILES, "model": (CONFIG, WEIGHTS, "manifest.json")}.get(target, tuple(BODIES))
            )
            good = whole[suffix] if target != "model" else [(model / suffix).read_bytes()]
            files = [(str(n), mutated(dice.choice(good), dice)) for n in range(size)]
            guarded(result, suffix.rpartition(".")[2], files, _reader(target, suffix, place, model, app, whole))
    return result


def _reader(
    target: str, suffix: str, place: Path, model: Path, app: Any, whole: Mapping[str, list[bytes]]
) -> Callable[[bytes], str]:
    if target == "service":
        return lambda data: _served(app, data, BODIES[suffix])
    if target == "model":
        return lambda data: _info(place, model, suffix, data)
    return lambda data: _inspected(place, suffix, data, whole[suffix][0])


def _inspected(place: Path, suffix: str, data: bytes, good: bytes) -> str:
    folder = place / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / f"broken.{suffix}"
    path.write_bytes(data)
    for number in range(3 * (suffix == "png")):  # or the folder is too small, and that is what is said
        (folder / f"good{number}.png").write_bytes(good)
    return _said(["inspect", str(folder if suffix == "png" else path)], "broken", place)


def _info(place: Path, model: Path, name: str, data: bytes) -> str:
    copy = place / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    (copy / name).write_bytes(data)
    return _said(["info", str(copy)], "copy", place)


def _said(arguments: list[str], named: str, place: Path) -> str:
    out, err = io.StringIO(), io.StringIO()
    here = Path.cwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command(arguments)
    finally:
        os.chdir(here)
    text = err.getvalue().strip()
    if code == 0:
        return ""
    if code != 2:
        return f"exit code {code}: {text}"
    if "Traceback" in text or not text.startswith("error: ") or "\n" in text:
        return f"no sentence: {text}"
    return "" if named in text else f"the file is not named: {text}"


def _served(app: Any, data: bytes, kind: str) -> str:
    answer = call(app, "POST", "/api/encode", data, kind)
    if answer.status >= 500:
        return f"status {answer.status}: {answer.body[:200]!r}"
    return "Traceback" * (b"Traceback" in answer.body)


def nameless(patch: pytest.MonkeyPatch) -> None:
    """Say what is wrong, but not where."""
    patch.setattr(errors.SfumatoError, "__str__", lambda self: "it cannot be read.")


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"errors that name no file": nameless}
