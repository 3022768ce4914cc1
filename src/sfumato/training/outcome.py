"""How a training ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        step: the steps done.
        best_step: the step of the best evaluation, whose averaged weights the model has now.
        best_value: its validation loss, nats.
        skipped: steps that changed nothing because they went wrong.
        recoveries: returns to the last good checkpoint.
        seconds: time used, over all sessions of the run.
        finished: whether there is nothing left to do.
        stopped_early: whether patience ended it.
        signal: the signal that interrupted it, or None.
        save_failed: why the last checkpoint could not be written, or "".
    """

    step: int
    best_step: int | None
    best_value: float | None
    skipped: int
    recoveries: int
    seconds: float
    finished: bool
    stopped_early: bool
    signal: int | None
    save_failed: str
