"""T9: whatever happens to a file of a checkpoint or a model folder is noticed, named, and costs that one only."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from io_helpers import is_right, save, tiny

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core.errors import UserError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model

AIM, SHORT = 20_000, 0
CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
MODEL = ("config.json", "model.safetensors", "manifest.json")


def flipped(data: bytes, bit: int) -> bytes:
    """Return ``data`` with one bit changed."""
    at = bit // 8
    return data[:at] + bytes([data[at] ^ (1 << bit % 8)]) + data[at + 1 :]


CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "cut by one": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "end zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "longer": lambda data: data + b"\0",
    "longer by a line": lambda data: data + b"\n",
    "swapped ends": lambda data: data[len(data) // 2 :] + data[: len(data) // 2],
}


def _gone(path: Path) -> None:
    path.unlink()


def _linked(path: Path) -> None:
    os.rename(path, path.parent / ".aside")
    path.symlink_to(".aside")


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


PLACES: dict[str, Callable[[Path], None]] = {
    "gone": _gone,
    "linked": _linked,
    "a folder": _folder_instead,
    "a pipe": _pipe_instead,
}


def _any(data: bytes, dice: random.Random) -> tuple[str, bytes]:
    """Return a damage of one region."""
    at, size = dice.randrange(len(data)), dice.randint(1, 512)
    kind = dice.choice(("bit", "cut", "zeros", "noise", "moved"))
    if kind == "bit":
        bit = 8 * at + dice.randrange(8)
        return f"bit {bit}", flipped(data, bit)
    if kind == "cut":
        return f"cut at {at}", data[:at]
    end = min(len(data), at + size)
    middle = {"zeros": bytes(end - at), "noise": dice.randbytes(end - at), "moved": data[at:end][::-1]}[kind]
    return f"{kind} from {at} to {end}", data[:at] + middle + data[end:]


def run(budget: Budget, seed: int) -> Result:
    """Damage one file after another; what changes nothing is not counted as fired."""
    dice, result = random.Random(seed), Result()
    with workspace() as place:
        good, model = place / "good", place / "good-model"
        save(good, 3)
        save(good, 6)
        save_model(model, tiny(), card={"number": 1})
        while budget.open(result.cases):
            of_model = result.cases % 3 == 2
            file = dice.choice(MODEL if of_model else CHECKPOINT)
            folder = shutil.copytree(model if of_model else good, place / "copy")
            path = folder / file if of_model else folder / "step-00000006" / file
            name, harmless = _damage(path, dice)
            with result.case(f"{file}: {name}"):
                result.fired += not harmless
                if of_model:
                    _refused(folder, file, harmless)
                else:
                    _set_aside(folder, file, harmless)
            shutil.rmtree(folder)
    return result


def _damage(path: Path, dice: random.Random) -> tuple[str, bool]:
    """Damage a file; return how, and whether it is the same as before."""
    if dice.random() < 0.05:
        name = dice.choice(list(PLACES))
        PLACES[name](path)
        return name, False
    before = path.read_bytes()
    if dice.random() < 0.1:
        name = dice.choice(list(CONTENT))
        after = CONTENT[name](before)
    else:
        name, after = _any(before, dice)
    path.write_bytes(after)
    return name, before == after


def _refused(folder: Path, file: str, harmless: bool) -> None:
    try:
        load_model(folder, kind="tiny")
    except UserError as error:
        assert not harmless, f"refused though nothing was changed: {error}"
        assert file in str(error), f"the file is not named: {error}"
        return
    assert harmless, "damage was accepted"


def _set_aside(folder: Path, file: str, harmless: bool) -> None:
    checkpoints = Checkpoints(folder)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == (6 if harmless else 3), "damage was accepted"
    assert is_right(found)
    if not harmless:
        assert len(checkpoints.warnings) == 1
        assert f"step-00000006{os.sep}{file}" in checkpoints.warnings[0], checkpoints.warnings
        assert (folder / "damaged-step-00000006").is_dir(), "the damaged one is not kept"


def unsummed(patch: pytest.MonkeyPatch) -> None:
    """Look at the length of a file only."""
    patch.setattr(store, "_verified", lambda folder, path, record: store._read(folder, path, record["bytes"]))


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a reader that does not look at the sums": unsummed}
