"""What a training tells the outside. The loop calls; a listener shows, draws or stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Listener:
    """Hears everything and does nothing; override what is of interest."""

    def say(self, sentence: str) -> None:
        """Hear a sentence for the user."""

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Hear that training goes from ``step`` to ``steps``."""

    def on_step(self, step: int) -> None:
        """Hear that ``step`` steps are done. Called at every step: be quick, do not read from the device."""

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Hear a line of metrics: means in nats, with "step" and "split"."""

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Hear an evaluation of ``model`` (averaged weights); what is returned is added to the line of metrics."""
        return {}

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Hear how far the final evaluation is: ``done`` of ``of`` in one part of it."""
