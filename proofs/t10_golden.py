"""T10: golden folders of every format version, damaged in many ways: each loads as it was, or says its sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import PLACE

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError
from sfumato.io import store
from sfumato.io.folder import load_model
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest

AIM, SHORT = 1_000, 0
Damage = Callable[[Path, Path, Path], None]  # (place, model folder, run folder)


def _bytes(file: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(place: Path, model: Path, run: Path) -> None:
        path = place / file
        path.write_bytes(change(path.read_bytes()))

    return damage


def _json(file: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change json inside a folder and, where it has one, write the manifest that fits: not an accident, an attack."""

    def damage(place: Path, model: Path, run: Path) -> None:
        path = place / file
        content = json.loads(path.read_bytes())
        changed = change(content)
        path.write_bytes(strict_json.dump(content if changed is None else changed))
        sealed(path.parent)

    return damage


def sealed(folder: Path) -> None:
    """Write the manifest that fits to what is in ``folder`` now."""
    if (folder / store.MANIFEST).exists():
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != store.MANIFEST}
        (folder / store.MANIFEST).write_bytes(store.with_manifest(files)[store.MANIFEST])


def _manifest(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Change a manifest and its own sum."""

    def damage(place: Path, model: Path, run: Path) -> None:
        manifest = json.loads((model / store.MANIFEST).read_bytes())
        manifest.pop("sha256")
        change(manifest)
        manifest["sha256"] = hashlib.sha256(strict_json.dump(manifest)).hexdigest()
        (model / store.MANIFEST).write_bytes(strict_json.dump(manifest))

    return damage


def _gone(file: str) -> Damage:
    def damage(place: Path, model: Path, run: Path) -> None:
        path = place / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _linked(place: Path, model: Path, run: Path) -> None:
    os.rename(model / "model.safetensors", place / "elsewhere")
    (model / "model.safetensors").symlink_to(place / "elsewhere")


def _piped(place: Path, model: Path, run: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def _swapped(place: Path, model: Path, run: Path) -> None:
    one, other = sorted((run / "checkpoints").glob("step-*"))[-2:]
    os.rename(one, place / "x")
    os.rename(other, one)
    os.rename(place / "x", other)


def _unfinished(place: Path, model: Path, run: Path) -> None:
    shutil.copytree(model, model.with_name(".part-model"))
    os.rename(model, model.with_name(".old-model"))


def _foreign(place: Path, model: Path, run: Path) -> None:
    shutil.copy(PLACE / "format-1" / "vae" / "model" / "model.safetensors", model)
    sealed(model)


def _beside(name: str) -> Damage:
    def damage(place: Path, model: Path, run: Path) -> None:
        (model / name).write_text("mine")

    return damage


def _no_model(tree: dict[str, Any]) -> None:
    del tree["model"]


def _nested(tree: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    tree["deep"] = deep


STEP = "run/checkpoints/step-00000011"
VARIANTS: Mapping[str, Damage] = {
    "nothing": lambda place, model, run: None,
    "weights cut": _bytes("model/model.safetensors", lambda data: data[:-1]),
    "weights empty": _bytes("model/model.safetensors", lambda data: b""),
    "weights longer": _bytes("model/model.safetensors", lambda data: data + b"\0"),
    "weights zeroed": _bytes("model/model.safetensors", lambda data: bytes(len(data))),
    "a bit of the weights": _bytes(
        "model/model.safetensors", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    ),
    "config cut": _bytes("model/config.json", lambda data: data[: len(data) // 2]),
    "config with other ends of lines": _bytes("model/config.json", lambda data: data.replace(b"\n", b"\r\n")),
    "config with a mark": _bytes("model/config.json", lambda data: b"\xef\xbb\xbf" + data),
    "manifest cut": _bytes("model/manifest.json", lambda data: data[:-3]),
    "manifest rewritten by an editor": _bytes("model/manifest.json", lambda data: data.replace(b"  ", b"\t")),
    "manifest gone": _gone("model/manifest.json"),
    "weights gone": _gone("model/model.safetensors"),
    "config gone": _gone("model/config.json"),
    "model gone": _gone("model"),
    "weights linked": _linked,
    "config a pipe": _piped,
    "a file too many": _beside("notes.txt"),
    "a hidden file": _beside(".DS_Store"),
    "a replacement that was interrupted": _unfinished,
    "a format of the future": _json("model/config.json", lambda tree: tree.update(format_version=99)),
    "a format that is no number": _json("model/config.json", lambda tree: tree.update(format_version="1")),
    "a manifest of the future": _manifest(lambda tree: tree.update(format_version=2)),
    "a manifest of another library": _manifest(lambda tree: tree.update(library="other")),
    "a manifest of negative sizes": _manifest(lambda tree: tree["files"]["config.json"].update(bytes=-1)),
    "a manifest of other names": _manifest(lambda tree: tree["files"].update({"../x": tree["files"]["config.json"]})),
    "an unknown class": _json("model/config.json", lambda tree: tree["model"].update({"class": "os.system"})),
    "an unknown argument": _json("model/config.json", lambda tree: tree["model"]["model"].update(shell=True)),
    "a huge size": _json("model/config.json", lambda tree: tree["model"]["model"]["prior"].update(latent_dim=65_536)),
    "a size that is true": _json(
        "model/config.json", lambda tree: tree["model"]["model"]["prior"].update(latent_dim=True)
    ),
    "a list for a model": _json("model/config.json", lambda tree: tree.update(model=[])),
    "no model": _json("model/config.json", _no_model),
    "nested deep": _json("model/config.json", _nested),
    "a megabyte of names": _json("model/config.json", lambda tree: tree.update(notes="x" * 1_100_000)),
    "weights of another model": _foreign,
    "run.json gone": _gone("run/run.json"),
    "run.json cut": _bytes("run/run.json", lambda data: data[: len(data) // 2]),
    "metrics gone": _gone("run/metrics.jsonl"),
    "metrics cut": _bytes("run/metrics.jsonl", lambda data: data[:-30]),
    "metrics damaged": _bytes("run/metrics.jsonl", lambda data: b"\0" * 20 + data[20:]),
    "the last checkpoint cut": _bytes(f"{STEP}/optimizer.safetensors", lambda data: data[:-1]),
    "the last checkpoint without state": _gone(f"{STEP}/state.json"),
    "all checkpoints gone": _gone("run/checkpoints"),
    "checkpoints swapped": _swapped,
    "a checkpoint of another step": _json(f"{STEP}/state.json", lambda tree: tree.update(step=12)),
}


def said_of(model: Path, run: Path) -> list[str]:
    """Load a model folder and look at a run; return the sentences that they say, and raise what is none of ours."""
    sentences: list[str] = []

    def tried(work: Callable[[], object]) -> None:
        try:
            work()
        except SfumatoError as error:
            sentences.append(str(error))

    def whole() -> None:
        module, _ = load_model(model, kind="packaged")
        if digest(module.state_dict()) != _digest():
            raise AssertionError("damaged weights were accepted")

    def taken_up() -> None:
        folder = RunFolder(run)
        checkpoints = folder.open_checkpoints()
        latest = checkpoints.latest()
        sentences.extend(checkpoints.warnings)
        folder.metrics.truncate(latest.state["metrics"] if latest else 0)
        folder.metrics.read()

    for work in (whole, RunFolder(run).read_run, taken_up):
        tried(work)
    return sentences


def _digest() -> str:
    return digest(load_model(PLACE / "format-1" / "classes" / "model", kind="packaged")[0].state_dict())


def run(budget: Budget, seed: int) -> Result:
    """Load the golden folders; do every damage of the list to those of each version, and then some at random."""
    result, dice = Result(), random.Random(seed)
    torch.manual_seed(seed)
    with workspace() as place:
        todo: list[tuple[str, Damage]] = list(VARIANTS.items())
        while budget.open(result.cases):
            name, damage = todo.pop(0) if todo else _random(dice)
            for version in sorted(PLACE.glob("format-*")):
                spot = place / str(result.cases)
                model = shutil.copytree(version / "classes" / "model", spot / "model")
                copy = shutil.copytree(version / "run", spot / "run")
                with result.case(name):
                    damage(spot, model, copy)
                    result.fired += name != "nothing"
                    sentences = said_of(model, copy)
                    assert sentences or name in HARMLESS, "nobody noticed"
                    assert all(each.endswith((".", "?")) and "\n" not in each for each in sentences), sentences
                shutil.rmtree(spot)
    return result


HARMLESS = ("nothing", "a hidden file", "a replacement that was interrupted", "all checkpoints gone")


def _random(dice: random.Random) -> tuple[str, Damage]:
    files = ["model/config.json", "model/model.safetensors", "model/manifest.json", f"{STEP}/model.safetensors"]
    file, kind, at = dice.choice([*files, f"{STEP}/state.json"]), dice.choice(("bit", "cut", "zero")), dice.random()

    def change(data: bytes) -> bytes:
        spot = int(at * (len(data) - 1))
        if kind == "bit":
            return data[:spot] + bytes([data[spot] ^ (1 << spot % 8)]) + data[spot + 1 :]
        if kind == "cut":
            return data[:spot]
        return data[:spot] + bytes(max(1, len(data) - spot)) if any(data[spot:]) else b""

    return f"{kind} at {at:.3f} of {file}", _bytes(file, change)


def unverified(patch: pytest.MonkeyPatch) -> None:
    """Read files without a look at their sums."""
    patch.setattr(store, "_verified", lambda folder, path, record: (Path(path)).read_bytes())


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a reader that trusts": unverified}
