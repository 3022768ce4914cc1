"""Opening what sfumato wrote: the folder of a run, or a model folder, wherever a verb takes one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato import recipes as _recipes  # noqa: F401 - registers the classes that a model folder may name
from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import from_spec
from sfumato.data import Columns, Dataset, load_dataset
from sfumato.data.columns import by_name, recoded
from sfumato.data.streams import Rows
from sfumato.io.folder import CONFIG, load_model
from sfumato.io.hub import is_address, parse_address, pull
from sfumato.io.run import RunFolder
from sfumato.io.store import DamagedError, shown
from sfumato.models import PackagedModel
from sfumato.recipes import fresh_model
from sfumato.training.state import best_weights
from sfumato.verbs.train import fitted, same_data

ROWS = 500


@dataclass(frozen=True)
class Opened:
    """A model, and the run it comes from where there is one.

    Args:
        path: the folder that was given.
        model: on the CPU, in evaluation mode.
        step: the step of its weights, or None where nobody wrote it down.
        card: what ``config.json`` says beside the model; empty for a run that has no model folder yet.
        folder: the run, or None for a model folder alone.
        decided: the content of ``run.json``, or None.
    """

    path: Path
    model: PackagedModel
    step: int | None
    card: Mapping[str, Any]
    folder: RunFolder | None = None
    decided: Mapping[str, Any] | None = None

    @cached_property
    def dataset(self) -> Dataset:
        """The data of the run, read again.

        Raises:
            UserError: a model folder alone has none; they are gone; they are not the same any more.
        """
        if self.decided is None:
            raise UserError(f"{shown(self.path)} is a model without data. Give the folder of its run, or DATA as well.")
        return same_data(self.decided)

    @cached_property
    def prepared(self) -> Dataset:
        """The same, as it was trained on."""
        return self.model.preprocessing.prepare(self.dataset)

    @property
    def is_images(self) -> bool:
        """Whether the model makes images."""
        return len(self.model.preprocessing.shape) == 3

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each column of a table; made up for other rows."""
        known = (self.decided or {}).get("data", {}).get("columns") or self.card.get("columns") or ()
        size = self.model.preprocessing.shape[0]
        return tuple(map(str, known)) if len(known) == size else tuple(f"c{number}" for number in range(size))

    def examples(
        self, data: Any = None, split: str | None = None, **reading: Any
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return raw examples, streamed ones still to be read, and the model's class numbers, -1 where unknown.

        Args:
            data: anything that ``load_dataset`` takes, all of it in its own order; None: the data of the run.
            split: of the run's data: train, validation or test; None: all of them, in their own order.
            reading: more arguments for ``load_dataset``.
        """
        if data is None:
            dataset = self.prepared
            rows = np.sort(np.concatenate(list(dataset.splits.values()))) if split is None else dataset.rows(split)
        else:
            if split is not None:
                raise UserError(
                    "--split chooses among the data of the run; got DATA as well. Leave out one of the two."
                )
            if self.is_images and reading.get("size") is None and isinstance(data, str | Path) and Path(data).is_dir():
                reading["size"] = self.model.preprocessing.shape[1:]
            dataset = data if isinstance(data, Dataset) else self._read(data, reading)
            rows = np.arange(len(dataset))
        if not len(rows):
            raise UserError(f"there are no examples in the {split} split. Choose another --split.")
        x = dataset.x.only(rows) if isinstance(dataset.x, Rows) else dataset.x[rows]
        return x, self._labels(dataset)[rows]

    def _read(self, data: Any, reading: Mapping[str, Any]) -> Dataset:
        """Return other data, all of them one split; a table for a model of single columns as that model writes it."""
        preprocessing = self.model.preprocessing
        mixed = isinstance(preprocessing, Columns)
        dataset = load_dataset(data, **{"split": (1.0, 0.0, 0.0), "mixed": mixed, **reading})
        if not isinstance(preprocessing, Columns) or not dataset.texts:
            return dataset
        x = recoded(preprocessing.columns, by_name(dataset.x, dataset.columns, dataset.texts), dataset.name)
        preprocessing.check(x, dataset.name)
        texts = tuple(column.texts for column in preprocessing.columns)
        return replace(dataset, x=x, columns=self.columns, texts=texts)

    def seen(self, y: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return ``y`` where encoder or decoder look at labels, else None."""
        return y if self.model.model.labels_reach_networks else None

    def _labels(self, dataset: Dataset) -> NDArray[np.int64]:
        """Return the model's class numbers, matched by name."""
        names = self.model.class_names or dataset.class_names
        if dataset.y is None:
            return np.full(len(dataset), -1)
        numbers = [names.index(name) if name in names else -1 for name in dataset.class_names]
        return np.array([*numbers, -1])[dataset.y]


def open_model(path: str | Path) -> Opened:
    """Open the folder of a run, a model folder, or "hf://owner/name", a model on the Hugging Face Hub.

    An unfinished run gives the averaged weights of its best evaluation so far.

    Raises:
        UserError: it is neither. DamagedError: a file of it is missing, cut or changed.
    """
    if is_address(path):
        return _from_hub(str(path))
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"'{path}' does not exist.{_nearest(path)} Give the folder of a run, or a model folder.")
    if not is_run(path):
        return Opened(path, *_load(path))
    folder = RunFolder(path)
    decided = folder.read_run()
    try:
        if folder.model.exists():
            return Opened(path, *_load(folder.model), folder, decided)
        return Opened(path, *_from_checkpoint(folder, decided), {}, folder, decided)
    except (KeyError, TypeError, IndexError) as error:
        raise DamagedError(
            f"{shown(folder.run)} is not the description of a run ({error}). Use the original."
        ) from None


def open_run(path: str | Path) -> Opened:
    """Open the folder of a run, or the model folder inside it; refuse a model folder alone."""
    path = Path(path).expanduser()
    if not is_run(path) and path.name == "model" and is_run(path.parent):
        path = path.parent
    opened = open_model(path)
    if opened.folder is None:
        raise UserError(f"{shown(path)} is a model folder; expected the folder of a run, the one with run.json.")
    return opened


def load(path: str | Path) -> PackagedModel:
    """Return the model of a model folder, a run or "hf://owner/name", ready to encode, decode, sample, reconstruct."""
    return open_model(path).model


def is_run(path: str | Path) -> bool:
    """Whether ``path`` is the folder of a run, whole or not."""
    path = Path(path)
    return path.is_dir() and any((path / name).exists() for name in ("run.json", "metrics.jsonl", "checkpoints"))


def is_model(path: str | Path) -> bool:
    """Whether ``path`` is the folder of a run, a model folder, or the address of a model on the Hub."""
    return is_address(path) or is_run(path) or (Path(path) / CONFIG).is_file()


def _load(path: Path) -> tuple[PackagedModel, int | None, dict[str, Any]]:
    module, card = load_model(path, "packaged")
    assert isinstance(module, PackagedModel)
    step = card.get("step")
    return module, step if isinstance(step, int) else None, card


def _from_hub(address: str) -> Opened:
    """Fetch a model folder, and open it; nothing of it is kept but what huggingface_hub keeps."""
    name, revision = parse_address(address)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name.replace("/", "--")
        folder.mkdir()
        pull(name, revision, folder)
        return Opened(Path(name), *_load(folder))


def _from_checkpoint(folder: RunFolder, decided: Mapping[str, Any]) -> tuple[PackagedModel, int]:
    checkpoints = folder.open_checkpoints()
    steps = checkpoints.steps()
    if not steps:
        raise UserError(
            f"{shown(folder.path)} has no model yet. Train on with: sfumato train --resume {shown(folder.path)}"
        )
    latest = checkpoints.load(steps[-1])
    best = latest.state["training"]["best_step"]
    model = fresh_model(decided["model"], 0)
    model.load_state_dict(best_weights(checkpoints, latest) or latest.tensors["ema"])
    preprocessing = from_spec(decided["preprocessing"], "preprocessing", "preprocessing")
    if hasattr(preprocessing, "fit"):
        preprocessing = fitted(decided["preprocessing"], same_data(decided))
    packaged = PackagedModel(model, preprocessing, tuple(decided["data"]["class_names"]))
    return packaged.eval(), latest.step if best is None else best


def _nearest(path: Path) -> str:
    try:
        names = [item.name for item in path.parent.iterdir() if is_model(item)]
    except OSError:
        return ""
    meant = did_you_mean(path.name, names) if names else ""
    return f" {meant}" if meant else ""


def in_parts(*arrays: NDArray[Any] | None) -> list[tuple[Any, ...]]:
    """Return the arrays cut into pieces of some hundred rows, side by side; None stays None."""
    first = next(array for array in arrays if array is not None)
    starts = range(0, len(first), ROWS)
    return [tuple(None if array is None else array[start : start + ROWS] for array in arrays) for start in starts]


def as_numpy(values: Any) -> NDArray[Any]:
    """Return a tensor or array as numpy."""
    return values.numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
