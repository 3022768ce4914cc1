r"""What examples of one batch do to each other, where the batch is spread over processes.

A part that averages over the batch, the optimal variance of a likelihood for instance, gets a mean over all processes.
What compares the examples of a batch, the total correlation for instance, gets the rows of all of them.
With the rows r_1 ... r_B of the batch, of which this process has those in P and the others are constants here,

    sum over the processes of  d f(r_1, ..., r_B) / d r_P   is the gradient of f,

so every process computes the whole f and differentiates it by its own rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import Objective
from sfumato.core.processes import BatchMean, Processes


class BatchRows:
    """The rows of a batch that is spread over processes, of which those of this process carry gradients.

    Args:
        processes: all of which must call it, the same number of times.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.counts = True

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (n, ...) of all processes whose examples count, one process after the other."""
        own = rows if self.counts else rows[:0]
        sizes = [int(size) for size in self.processes.gather(str(len(own)))]
        every = torch.split(self.processes.rows(own.detach()), sizes)
        found = [own if rank == self.processes.rank else part for rank, part in enumerate(every)]
        return torch.cat(found)


class Coupling:
    """Lets the parts of a training know the whole batch.

    Args:
        model: whose parts may average over the batch.
        objective: that may compare its examples.
        processes: all of them. A single one has the whole batch anyway.

    ``found``: whether some part couples the examples, over several processes.
    """

    def __init__(self, model: nn.Module, objective: Objective, processes: Processes) -> None:
        self.objective, self._mean, self._rows = objective, BatchMean(processes), BatchRows(processes)
        self.found = False
        if processes.several:
            self.found = _average_over(model, self._mean) | _gather_with(model, self._rows)
            for part in objective.modules():
                if isinstance(part, Objective):
                    part.gather = self._rows
                    self.found |= part.compares

    def count(self, counts: bool) -> None:
        """Say whether the examples of this process count in the batch that comes."""
        self._mean.counts = self._rows.counts = counts

    def release(self, model: nn.Module) -> None:
        """Let the parts of ``model`` and the objective go back to the batch that they are given."""
        _average_over(model, torch.mean)
        _gather_with(model, None)
        for part in self.objective.modules():
            if isinstance(part, Objective):
                part.gather = None


def _average_over(model: nn.Module, mean: Callable[[Tensor], Tensor]) -> bool:
    """Let ``mean`` be what parts of the model average a batch with; return whether one of them does."""
    coupled = [module for module in model.modules() if hasattr(module, "batch_mean")]
    for module in coupled:
        module.batch_mean = mean  # type: ignore[assignment]
    return bool(coupled)


def _gather_with(model: nn.Module, gather: BatchRows | None) -> bool:
    """Let ``gather`` be how parts of the model get the rows of the whole batch; return whether one of them needs it."""
    coupled = [module for module in model.modules() if hasattr(module, "batch_rows")]
    for module in coupled:
        module.batch_rows = gather  # type: ignore[assignment]
    return bool(coupled)
