"""Steps that go wrong: skip them, count them, and go back when they come in a row.

A step is bad when its loss or its gradient's norm is not finite, or when the norm is far outside what the accepted
steps before it had (median and MAD of a window, which outliers do not move). A skipped step changes nothing. Three
non-finite ones in a row ask for the last good checkpoint, half the learning rate and another order, at most five times.
Three finite outliers in a row are no accident but a new regime: they are believed, and the window starts anew.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.core.interfaces import ObjectiveOutput

WINDOW = 101
WARM = 32
IN_A_ROW = 3
RECOVERIES = 5
OUTLIER = 12.0
LEAST_SPREAD = 0.1

Verdict = Literal["accept", "skip", "rollback"]


class Guard:
    """Judges every step from its loss and its gradient's norm.

    Everything it knows is in :meth:`state`, plain json.
    """

    def __init__(self) -> None:
        self.log_norms: list[float] = []
        self.bad_in_a_row = 0
        self.outliers_in_a_row = 0
        self.skipped = 0
        self.recoveries = 0

    @property
    def learning_rate_factor(self) -> float:
        """One half for each recovery."""
        return 0.5**self.recoveries

    @property
    def exhausted(self) -> bool:
        """Whether one more recovery would be too many."""
        return self.recoveries >= RECOVERIES

    def judge(self, loss: float, norm: float) -> Verdict:
        """Return what to do with a step of this loss (nats) and gradient norm."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.skipped += 1
            self.bad_in_a_row += 1
            return "rollback" if self.bad_in_a_row >= IN_A_ROW else "skip"
        self.bad_in_a_row = 0
        log_norm = math.log(max(norm, 1e-30))
        if self._is_outlier(log_norm):
            self.outliers_in_a_row += 1
            if self.outliers_in_a_row < IN_A_ROW:
                self.skipped += 1
                return "skip"
            self.log_norms = []
        self.outliers_in_a_row = 0
        self.log_norms = [*self.log_norms, log_norm][-WINDOW:]
        return "accept"

    def recover(self) -> None:
        """Note that training went back to the last good checkpoint."""
        self.recoveries += 1
        self.bad_in_a_row = self.outliers_in_a_row = 0
        self.log_norms = []

    def state(self) -> dict[str, Any]:
        """Return everything, as plain json."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        for name in vars(self):
            setattr(self, name, state[name])

    def _is_outlier(self, log_norm: float) -> bool:
        """Only a norm far above the others counts; small ones do no harm."""
        if len(self.log_norms) < WARM:
            return False
        middle = statistics.median(self.log_norms)
        spread = statistics.median(abs(value - middle) for value in self.log_norms)
        return log_norm - middle > OUTLIER * 1.4826 * max(spread, LEAST_SPREAD)


def bad_value(output: ObjectiveOutput, indices: Tensor, items: Sequence[str] | None) -> str:
    """Return which number went wrong first, and for which example; "" where all are finite.

    Args:
        output: what the objective said about a batch.
        indices: which examples they were, (batch,).
        items: the names of all examples, if they have any.
    """
    losses = {f"the {group}'s loss": values for group, values in output.losses.items()}
    for name, values in {**output.values, **losses}.items():
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            index = int(indices[bad.nonzero()[0, 0].cpu()])
            item = items[index] if items else f"training example {index}"
            return f"{name} became {'NaN' if bool(values[bad].isnan().any()) else 'infinite'} (first in {item})"
    return ""
