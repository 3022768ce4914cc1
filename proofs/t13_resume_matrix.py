"""T13: stop, crash and kill over every pair of kind, source, precision, engine, processes and place: 0 bits in each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from data_helpers import save_image
from process_helpers import Team
from test_data_streams_training import streaming
from training_helpers import COUNT, At, Child, Crash, crash, everything, resumed, terminate, tiny, trainer

from proofs import resume_mutants
from proofs.covering import Row, pairwise
from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.data.streams import stream_images
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest

AIM, SHORT = 60, 0
AXES = {
    "kind": ("conditional", "iwae", "optimal"),
    "source": ("memory", "stream"),
    "precision": ("float32", "bf16"),
    "engine": ("eager", "compiled"),
    "processes": (1, 2),
    "place": (1, 12, 25, 59),
    "how": ("signal", "crash", "kill"),
}
COSTLY = {"engine": "compiled", "precision": "bf16"}


def allowed(row: Row) -> bool:
    """Images are of whole numbers; a crash in one of two processes is T8's; a compiled pair takes minutes."""
    if row["kind"] == "optimal" and (row["source"] == "stream" or row["engine"] == "compiled"):
        return False
    return row["processes"] == 1 or (row["how"] == "signal" and row["engine"] == "eager" and row["source"] == "memory")


def run(budget: Budget, seed: int) -> Result:
    """Go through the covering array, the quick cells first."""
    result = Result()
    cells = pairwise(AXES, allowed, seed)
    cells.sort(key=lambda row: sum(row[name] == value for name, value in COSTLY.items()) + (row["processes"] == 2))
    wholes: dict[str, Any] = {}
    with workspace() as place:
        rows = _images(place / "images")
        for cell in cells:
            if not budget.open(result.cases):
                break
            with result.case(", ".join(f"{name} {value}" for name, value in cell.items())):
                _cell(result, place, cell, rows, wholes)
    result.note = f"{result.cases} of {len(cells)} cells, which hold every pair of settings"
    return result


def _images(folder: Path) -> tuple[Any, Any]:
    x, y = tiny()[2].batch(torch.arange(COUNT))
    for number, row in enumerate(x.numpy()):
        save_image(folder / f"{number:03}.png", row.reshape(8, 8))
    return stream_images(folder, None, False, 10**6).x, y


def _cell(result: Result, place: Path, cell: Row, rows: Any, wholes: dict[str, Any]) -> None:
    settings = {"kind": cell["kind"], "precision": cell["precision"], "engine": cell["engine"]}
    name = "-".join(map(str, [*settings.values(), cell["source"], cell["processes"]]))
    many = int(str(cell["processes"]))
    used: list[Any] = []
    if cell["source"] == "stream":
        settings["change"] = streaming(rows, used)
    try:
        if name not in wholes:
            wholes[name] = _all(place / f"whole-{name}", many, settings)
        folder = place / "run"
        result.fired += _stopped(folder, many, settings, str(cell["how"]), int(str(cell["place"])))
        if many == 1:
            _taken_over(folder, settings)
        found = _all(folder, many, settings)
        different = [part for part in wholes[name] if wholes[name][part] != found[part]]
        assert not different, f"not bit for bit: {', '.join(different)}"
        shutil.rmtree(folder)
    finally:
        for ahead in used:
            ahead.close()


def _taken_over(folder: Path, settings: dict[str, Any]) -> None:
    """What a resumed training begins with is what the checkpoint holds; only the time goes on."""
    latest = RunFolder(folder).open_checkpoints().latest()
    if latest is not None:
        tensors, plain = resumed(folder, **settings).state.capture()
        pairs = ((latest.tensors, latest.state["training"]), (tensors, json.loads(json.dumps(plain))))
        held, found = (
            {**{f"{stem}.safetensors": digest(own) for stem, own in parts.items()}, **rest} for parts, rest in pairs
        )
        different = [name for name in held if held[name] != found.get(name) and name != "seconds"]
        assert not different, f"not taken over: {', '.join(different)}"


def _fit(folder: Path, settings: dict[str, Any], listener: Any = None) -> Any:
    """Go on from where the folder is, to the end or to what the listener does."""
    done = resumed(folder, **settings) if (folder / "checkpoints").exists() else trainer(folder, **settings)
    done.listener = listener or done.listener
    done.keeper.listener = done.listener
    done.fit()
    return done


def _all(folder: Path, many: int, settings: dict[str, Any]) -> dict[str, Any]:
    if many == 1:
        return _plain(everything(_fit(folder, settings)))
    folder.mkdir(exist_ok=True)
    return dict(Team(many, lambda rank: _plain(everything_of(_fit(folder, settings), rank))).results()[0])


def everything_of(done: Any, rank: int) -> dict[str, Any]:
    """Return everything of the first process; the others have no files."""
    return dict(everything(done)) if rank == 0 else {}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}


def _stopped(folder: Path, many: int, settings: dict[str, Any], how: str, step: int) -> bool:
    """Train until ``step`` and end there; return whether that happened."""
    if many > 1:
        folder.mkdir()

        def work(rank: int) -> int:
            listener = At(step, terminate)
            _fit(folder, settings, listener if rank == 0 else None)
            return int(listener.fired)

        return bool(Team(many, work).results()[0] == 1)
    if how == "kill":
        child = Child(lambda: _fit(folder, settings, At(step, lambda: os.kill(os.getpid(), signal.SIGKILL))) and 0)
        return bool(child.wait(300) == -signal.SIGKILL)
    listener = At(step, terminate if how == "signal" else crash)
    with contextlib.suppress(Crash):
        _fit(folder, settings, listener)
    return bool(listener.fired)


def mutants() -> Mutants:
    """Return what must turn it red."""
    names = ("adam step", "count", "best value")
    return {f"a resume that forgets: {name}": resume_mutants.MUTANTS[name] for name in names}
