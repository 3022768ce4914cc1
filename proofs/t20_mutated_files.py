"""T20: mutated files at the loaders, 2 GB of memory and a second of work each: only our own sentences come out."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from proofs.mutating import IMAGES, guarded, kept, mutated, seeds
from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.data import load_dataset
from sfumato.io import folder as folder_module
from sfumato.io import tensors as tensors_module

FORMATS = (*IMAGES, "npy", "npz", "csv", "parquet", "tar", "safetensors", "json")
AIM, SHORT = 100_000 * len(FORMATS), 20 * len(FORMATS)
BLOCK = 200


def run(budget: Budget, seed: int) -> Result:
    """Read the finds of earlier runs, and then mutate."""
    dice, result, counts = random.Random(seed), Result(), dict.fromkeys(FORMATS, 0)
    with workspace() as place:
        whole = seeds(place)
        readers = {suffix: _reader(suffix, place / suffix) for suffix in FORMATS}
        for suffix in ("json", "safetensors", "png"):  # what is done once in a process is no work of a file
            readers[suffix](whole[suffix][0])
        for suffix in FORMATS:
            guarded(result, suffix, list(kept(suffix)), readers[suffix])
        while budget.open(result.cases):
            suffix = min(counts, key=counts.__getitem__)
            size = int(min(BLOCK, max(1, budget.cases / len(FORMATS))))
            other = dice.choice(whole[dice.choice(FORMATS)])
            files = [(str(n), mutated(dice.choice(whole[suffix]), dice, other)) for n in range(size)]
            guarded(result, suffix, files, readers[suffix])
            counts[suffix] += size
    result.note = f"{min(counts.values()):,} of each of {len(FORMATS)} formats"
    return result


def _reader(suffix: str, place: Path) -> Callable[[bytes], str]:
    """Return what reads a file of a format, in ``place`` where it needs one."""
    place.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")
    if suffix == "safetensors":
        return lambda data: "" if tensors_module.unpack(data, "x.safetensors") is not None else "nothing"
    if suffix == "json":
        return lambda data: "" if folder_module._outline(_model(data), "packaged", "config.json") else "nothing"
    if suffix in IMAGES:
        return lambda data: _images(place, suffix, data)
    return lambda data: _file(place / f"x.{suffix}", data)


def _model(data: bytes) -> object:
    return folder_module._parse(data, "config.json")["model"]


def _images(place: Path, suffix: str, data: bytes) -> str:
    for number in range(2):  # one alone would leave a split without examples
        (place / f"{number}.{suffix}").write_bytes(data)
    found = load_dataset(place, split=(1.0, 0.0, 0.0), size=8, stream=False)
    return "" if found.x.shape[2:] == (8, 8) else f"another shape, {found.x.shape}"


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    dataset = load_dataset(path, split=(1.0, 0.0, 0.0))
    rows = dataset.split("train")
    x, _ = rows.batch(torch.arange(min(3, len(rows))))
    return "" if x.shape[1:] == dataset.shape else "another shape"


def lets_through(patch: pytest.MonkeyPatch) -> None:
    """Let the library that reads tensors say what it likes."""
    patch.setattr(tensors_module, "unpack", lambda data, source: safetensors.torch.load(data))


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a loader that lets its library speak": lets_through}
