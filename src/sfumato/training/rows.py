"""The weights of several runs side by side, each run's in a row of its own.

All that belongs to the parameters of a run (weights, their average, the two moments of Adam) is one row of a matrix,
and the tensors of the run's model are views of it. So a step over all runs reads and writes matrices, and whatever
looks at one run, evaluation and checkpoints for instance, sees the same numbers as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfumato.training.state import TrainingState


class Rows:
    """The states of runs with parameters of the same names, shapes and type.

    Args:
        states: one for each run, on the same device.
    """

    def __init__(self, states: Sequence[TrainingState]) -> None:
        self.states = list(states)
        first = states[0].parameters
        self.shapes = [tuple(each.shape) for each in first]
        self.sizes = [each.numel() for each in first]
        count, width = len(states), sum(self.sizes)
        self.weights = first[0].new_empty((count, width))
        self.averaged = torch.empty_like(self.weights)
        self.buffers = [torch.stack(same) for same in zip(*(state.model.buffers() for state in states), strict=True)]
        self.rows = [nn.Parameter(row) for row in self.weights]
        groups = [
            {**state.optimizer.param_groups[0], "params": [row]} for state, row in zip(states, self.rows, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        with torch.no_grad():
            for number in range(count):
                self._adopt(number)
        parts = torch.split(self.weights, self.sizes, 1)
        self.values = [part.view(count, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @torch.no_grad()
    def keep_up(self) -> None:
        """See to the optimizers whose moments were replaced: those of runs that went back to an earlier state."""
        for number, (state, row) in enumerate(zip(self.states, self.rows, strict=True)):
            if state.optimizer.state[state.parameters[0]].get("step") is not self.optimizer.state[row]["step"]:
                self._adopt_moments(number)

    @torch.no_grad()
    def step(self, rates: Sequence[float], gradients: Sequence[Tensor | None]) -> None:
        """Do a step of AdamW in every row that has a gradient; the others stay as they are.

        Args:
            rates: the learning rate of every run.
            gradients: (parameters,) each, or None.
        """
        for row, group, rate, gradient in zip(self.rows, self.optimizer.param_groups, rates, gradients, strict=True):
            group["lr"], row.grad = rate, gradient
        self.optimizer.step()
        for row in self.rows:
            row.grad = None

    @torch.no_grad()
    def release(self) -> None:
        """Give every run tensors of its own again."""
        for state in self.states:
            for tensor in (*state.parameters, *state.averaged.parameters(), *state.model.buffers()):
                tensor.data = tensor.data.clone()
            for moments in state.optimizer.state.values():
                moments.update({name: value.clone() for name, value in moments.items()})
            if all(not moments["step"] for moments in state.optimizer.state.values()):
                state.optimizer.state.clear()  # as it was before the first step

    def _adopt(self, number: int) -> None:
        """Let the tensors of a run be views of its row."""
        state = self.states[number]
        for row, tensors in (
            (self.weights[number], state.parameters),
            (self.averaged[number], list(state.averaged.parameters())),
        ):
            for view, tensor in zip(self._views(row), tensors, strict=True):
                tensor.data = view.copy_(tensor)
        for stacked, buffer in zip(self.buffers, state.model.buffers(), strict=True):
            buffer.data = stacked[number]
        self._adopt_moments(number)

    def _adopt_moments(self, number: int) -> None:
        state, row = self.states[number], self.rows[number]
        moments = {"step": torch.zeros((), device=row.device)}
        moments |= {name: torch.zeros_like(row) for name in ("exp_avg", "exp_avg_sq")}
        views = {name: self._views(moments[name]) for name in ("exp_avg", "exp_avg_sq")}
        for place, parameter in enumerate(state.parameters):
            before = state.optimizer.state[parameter]
            for name, there in views.items():
                if name in before:
                    there[place].copy_(before[name])
            if "step" in before:
                moments["step"].copy_(torch.maximum(moments["step"], before["step"]))
            state.optimizer.state[parameter] = {"step": moments["step"]} | {
                name: there[place] for name, there in views.items()
            }
        self.optimizer.state[row] = moments

    def _views(self, row: Tensor) -> list[Tensor]:
        """Return views of a row, (parameters,), in the shapes of the parameters."""
        return [part.view(shape) for part, shape in zip(torch.split(row, self.sizes), self.shapes, strict=True)]
