"""Listeners of a training: the report that is redrawn at each evaluation, and two at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from sfumato.core.errors import SfumatoError
from sfumato.data import Dataset, Preprocessing
from sfumato.evaluation import quick_look
from sfumato.io.run import RunFolder
from sfumato.models import PackagedModel
from sfumato.report import write_report
from sfumato.training import Listener

PATIENCE = 15  # the next drawing waits this many times as long as the last one took


class Both(Listener):
    """Tells everything to two listeners.

    Args:
        first: asked first; what both add to a line of metrics is put together.
        second: the other.
    """

    def __init__(self, first: Listener, second: Listener) -> None:
        self.first, self.second = first, second

    def say(self, sentence: str) -> None:
        """Pass on a sentence."""
        self.first.say(sentence)
        self.second.say(sentence)

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Pass on the start."""
        self.first.on_start(step, steps, examples_per_step)
        self.second.on_start(step, steps, examples_per_step)

    def on_step(self, step: int) -> None:
        """Pass on a step."""
        self.first.on_step(step)
        self.second.on_step(step)

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Pass on a line of metrics."""
        self.first.on_metrics(line)
        self.second.on_metrics(line)

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Pass on an evaluation; the second hears what the first added."""
        added = self.first.on_evaluation(line, model)
        return {**added, **self.second.on_evaluation({**line, **added}, model)}

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Pass on how far the evaluation is."""
        self.first.on_measuring(part, done, of)
        self.second.on_measuring(part, done, of)


class Telling(Listener):
    """Passes on how far the evaluation is.

    Args:
        tell: called as tell(part, done, of).
    """

    def __init__(self, tell: Callable[[str, int, int], None] | None) -> None:
        self.tell = tell

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Pass it on."""
        if self.tell is not None:
            self.tell(part, done, of)


class Reporter(Listener):
    """Redraws ``report.html`` at evaluations, in little of the time, and adds the latent dimensions to the metrics.

    Args:
        folder: the run.
        preprocessing: raw data to the model's input.
        dataset: prepared; its validation split is looked at while training.
        steps: the steps that the training will have.
        tell: called with a sentence when the report cannot be written.
    """

    def __init__(
        self, folder: RunFolder, preprocessing: Preprocessing, dataset: Dataset, steps: int, tell: Callable[[str], None]
    ) -> None:
        self.tell = tell
        self.folder, self.preprocessing, self.dataset, self.steps = folder, preprocessing, dataset, steps
        self._next = 0.0

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Look at the latent dimensions and redraw."""
        look = quick_look(model, self.dataset.split("validation"), self.preprocessing)  # type: ignore[arg-type]
        begin = time.monotonic()
        if begin >= self._next:
            packaged = PackagedModel(model, self.preprocessing, self.dataset.class_names)  # type: ignore[arg-type]
            try:
                self.write(packaged, "running", line["step"], latest={**line, **look})
            except SfumatoError as error:
                self.tell(f"{error} Training goes on.")
            end = time.monotonic()
            self._next = end + PATIENCE * (end - begin)
        return look

    def write(
        self,
        packaged: PackagedModel,
        state: str,
        step: int,
        evaluation: dict[str, Any] | None = None,
        sentences: Sequence[str] = (),
        latest: Mapping[str, Any] | None = None,
    ) -> None:
        """Redraw the report."""
        metrics = self.folder.metrics.read() + ([dict(latest)] if latest else [])
        write_report(
            self.folder.report,
            run=self.folder.read_run(),
            metrics=metrics,
            packaged=packaged,
            dataset=self.dataset,
            evaluation=evaluation,
            verdict=sentences,
            state=state,  # type: ignore[arg-type]
            step=step,
            steps=self.steps,
        )
