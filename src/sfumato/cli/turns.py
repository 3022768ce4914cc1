"""One live line for several runs: those trained at once share it, and one that comes after them has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sfumato.cli.progress import Progress
from sfumato.training import Listener


class Turns:
    """The line, and whose it is.

    Args:
        new: makes a line.
    """

    def __init__(self, new: Callable[[], Progress]) -> None:
        self.new = new
        self.line: Progress | None = None
        self.holder: Turn | None = None

    def take(self, turn: Turn) -> Progress:
        """Return the line of ``turn``, a new one where another run has it."""
        if self.line is None or self.holder is not turn:
            self.close()
            self.line, self.holder = self.new(), turn
        return self.line

    def close(self) -> None:
        """End the line."""
        if self.line is not None:
            self.line.close()
        self.line = self.holder = None

    def pause(self) -> None:
        """End the line of a run that is over; one that has not begun to move is shared with the next run."""
        if self.line is not None and self.line.step > self.line.first:
            self.close()


class Turn(Listener):
    """What one of several runs tells.

    Args:
        turns: the line that they share.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        (self.turns.line or self.turns.take(self)).say(sentence)

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Show the line, unless a run that starts at the same time does."""
        self.turns.pause()
        if self.turns.line is None or not self.turns.line.steps:
            self.turns.take(self).on_start(step, steps, examples_per_step)

    def on_step(self, step: int) -> None:
        """Move the line; where the run that has it is over, this one takes it on."""
        line = self.turns.line
        if line is not None and line.step < step - 1:
            self.turns.holder = self
        if line is not None and self.turns.holder is self:
            line.on_step(step)

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Show the numbers of the run that has the line."""
        if self.turns.line is not None and self.turns.holder is self:
            self.turns.line.on_metrics(line)

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Add nothing."""
        return {}

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Show how far the evaluation is."""
        self.turns.take(self).on_measuring(part, done, of)
