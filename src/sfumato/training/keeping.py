"""What a training leaves on the disk and takes up again: metrics and checkpoints.

One process writes. A keeper without a folder keeps everything in memory, and so do those of the other processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfumato.core.errors import SfumatoError
from sfumato.core.processes import Processes
from sfumato.io.checkpoints import Checkpoint
from sfumato.io.run import RunFolder, finite
from sfumato.io.tensors import pack, unpack
from sfumato.training.listener import Listener
from sfumato.training.state import BEST, TensorTree, TrainingState, best_weights

Captured = tuple[TensorTree, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Good:
    """A state to go back to.

    Args:
        step: the steps done.
        tensors: file stem -> name -> tensor.
        state: everything else, as plain json: "training", and how far "metrics" and the "pending" lines were.
        best: the averaged weights of the best step until then.
    """

    step: int
    tensors: TensorTree
    state: dict[str, Any]
    best: dict[str, Tensor] | None

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation until then."""
        step: int | None = self.state["training"]["best_step"]
        return step


class Keeper:
    """Writes metrics and checkpoints, and reads them again.

    Args:
        folder: where they go; None: nowhere.
        listener: told when something cannot be written.
    """

    def __init__(self, folder: RunFolder | None, listener: Listener) -> None:
        self.folder, self.listener = folder, listener
        self.checkpoints = folder.open_checkpoints() if folder else None
        self.save_failed = ""
        self.good: Good | None = None
        self.unwritten: list[dict[str, Any]] = []

    def latest(self) -> Checkpoint | None:
        """Return the latest checkpoint that verifies, or None; tell of those that do not."""
        assert self.checkpoints is not None
        latest = self.checkpoints.latest()
        self.tell_warnings()
        return latest

    def good_of(self, latest: Checkpoint) -> Checkpoint:
        """Return the checkpoint to go back to from ``latest``."""
        assert self.checkpoints is not None
        good_step = latest.state["good_step"]
        return latest if good_step == latest.step else self.checkpoints.load(good_step)

    def with_best(self, checkpoint: Checkpoint) -> Good:
        """Return ``checkpoint`` with the best weights that it knows."""
        assert self.checkpoints is not None
        best = best_weights(self.checkpoints, checkpoint)
        return Good(checkpoint.step, checkpoint.tensors, checkpoint.state, best)

    def take_up(self, latest: Good | None, good: Good | None) -> None:
        """Go on from ``latest``: what was written after it is forgotten."""
        self.good = good
        self.unwritten = list(latest.state["pending"]) if latest else []
        if self.folder:
            self.folder.metrics.truncate(latest.state["metrics"] if latest else 0)

    def write(self, line: dict[str, Any]) -> None:
        """Append to the metrics; lines that find no room wait for the next."""
        self.listener.on_metrics(line)
        if self.folder is None:
            return
        self.unwritten.append(finite(line))
        try:
            self._write_pending(self.folder)
        except SfumatoError as error:
            self.listener.say(str(error))

    def _write_pending(self, folder: RunFolder) -> None:
        while self.unwritten:
            folder.metrics.append(self.unwritten[0])
            self.unwritten.pop(0)

    def capture(self, training: TrainingState, made_by: Mapping[str, str], found: Captured | None = None) -> Good:
        """Return the current state; its tensors and numbers are those ``found`` already, if they were."""
        tensors, plain = found or training.capture()
        state = {
            "training": plain,
            "metrics": self.folder.metrics.size() if self.folder else 0,
            "pending": list(self.unwritten),
            "good_step": self.good.step if self.good else training.step,
            "made_by": dict(made_by),
        }
        return Good(training.step, tensors, state, training.best_weights)

    def keep_good(self, training: TrainingState, made_by: Mapping[str, str]) -> None:
        """Remember this step to go back to; only steps of the schedule, so that an interruption changes nothing."""
        self.good = None
        self.good = self.capture(training, made_by)

    def save(self, training: TrainingState, made_by: Mapping[str, str]) -> None:
        """Write a checkpoint; without room training goes on and the next one tries again."""
        found = training.capture() if training.spread else None  # all processes take part in it
        if self.folder is None or self.checkpoints is None:
            return
        try:
            self._write_pending(self.folder)
            self.folder.metrics.position()
            there = self.checkpoints.steps()
            if self.good and self.good.step not in (training.step, *there):  # it found no room in its time
                self._save_as(self.good, there)
            self._save_as(self.capture(training, made_by, found), there)
            self.save_failed = ""
        except SfumatoError as error:
            self.save_failed = str(error)
            self.listener.say(f"{error} The last checkpoint stays good; the next one is tried as planned.")
        self.tell_warnings()

    def _save_as(self, kept: Good, there: Sequence[int]) -> None:
        """Write ``kept``; with the best weights in it when no other checkpoint ``there`` has them."""
        assert self.checkpoints is not None
        assert self.good is not None
        tensors = dict(kept.tensors)
        if kept.best is not None and kept.best_step not in (kept.step, *there):
            tensors[BEST] = kept.best
        protect = [step for step in (kept.best_step, self.good.step, self.good.best_step) if step is not None]
        self.checkpoints.save(kept.step, tensors, kept.state, protect)

    def go_back(self) -> Good:
        """Forget what came after the last good state, and return it."""
        assert self.good is not None
        if self.folder and self.checkpoints:
            self.checkpoints.forget_after(self.good.step)  # first, so that none knows more metrics than there are
            self.folder.metrics.truncate(self.good.state["metrics"])
        self.unwritten = list(self.good.state["pending"])
        return self.good

    def last_good(self) -> int | None:
        """Return the step of the latest checkpoint that is not after the last good state, or None."""
        steps = self.checkpoints.steps() if self.checkpoints and self.good else []
        return max((step for step in steps if self.good and step <= self.good.step), default=None)

    def tell_warnings(self) -> None:
        """Tell what the checkpoints warn of."""
        assert self.checkpoints is not None
        for warning in self.checkpoints.warnings:
            self.listener.say(warning)
        self.checkpoints.warnings.clear()


def shared(kept: Good | None, processes: Processes, tensors: bool = True) -> Good:
    """Return what the first process has ``kept`` in every process, to the last bit; safetensors and json travel.

    Args:
        kept: in the first process.
        processes: all of them.
        tensors: whether the others get tensors too.
    """
    stems = [*(kept.tensors if kept else ()), *([BEST + "-of"] if kept and kept.best is not None else ())]
    stems = stems if tensors else []
    head = {"step": kept.step, "state": kept.state, "stems": stems} if kept else None
    said = json.loads(processes.share(json.dumps(head).encode() if kept else None))
    named: TensorTree = {}
    for stem in said["stems"]:
        own = None if kept is None else kept.best if stem == BEST + "-of" else kept.tensors[stem]
        named[stem] = unpack(processes.share(None if own is None else pack(own)), stem)
    best = named.pop(BEST + "-of", None)
    return kept or Good(said["step"], named, said["state"], best)
