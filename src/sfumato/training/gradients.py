r"""The gradients of a batch that is spread over processes, in one flat tensor.

With B examples in the batch and the parts P_r of the processes,

    gradient = sum_r sum_{i in P_r} (1 / B) d loss_i

is the gradient of one process with the whole batch, whatever the sizes of the parts. The numbers that are judged and
reported travel at its end, so a step sends one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.core.processes import Processes

SIGNALS = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM


@dataclass(frozen=True)
class Totals:
    """What all processes together found in a step.

    Args:
        loss: of the whole batch, nats, ().
        sums: name -> the sum over the batch of each reported value.
        signal: the number of the signal that one of them got, or None.
        squares: the sum of what each of them gave, ().
    """

    loss: Tensor
    sums: dict[str, Tensor]
    signal: int | None
    squares: Tensor | None = None


class Gradients:
    """Adds up gradients over processes.

    Args:
        parameters: of the model.
        processes: the processes.
    """

    def __init__(self, parameters: Sequence[Tensor], processes: Processes) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.processes = processes
        self._flat: Tensor | None = None
        self._views: list[Tensor] = []

    @torch.no_grad()
    def add_up(
        self,
        loss: Tensor,
        values: Mapping[str, Tensor],
        counts: bool,
        signal: int | None,
        squares: Tensor | None = None,
    ) -> Totals:
        """Let the gradients be those of the whole batch.

        A parameter that no process has a gradient for gets none.

        Args:
            loss: this process's part of it.
            values: name -> (batch,), of this process's examples.
            counts: whether its examples count.
            signal: the number of the signal that this process got, or None.
            squares: of gradients that are spread over the processes, the sum of squares of this one's, ().
        """
        there = [parameter.grad is not None for parameter in self.parameters]
        head = [*(float(signal == number) for number in SIGNALS), *map(float, there)]
        sums = [value.detach().sum(dtype=torch.float64) * counts for value in values.values()]
        sums += [] if squares is None else [squares]
        flat, views = self._tensor(1 + len(head) + len(sums))
        tail = flat[len(flat) - 1 - len(head) - len(sums) :]
        for view, parameter in zip(views, self.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        tail.copy_(torch.cat([loss.detach().reshape(1).to(tail), tail.new_tensor(head), *_rows(sums, tail)]))
        self.processes.sum(flat)
        numbers = tail[1:].tolist()
        signals, anywhere = numbers[: len(SIGNALS)], numbers[len(SIGNALS) : len(head)]
        for view, parameter, somewhere in zip(views, self.parameters, anywhere, strict=True):
            if somewhere:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(view)
        reported = tail.to(torch.float64, copy=True)  # the next step writes there
        return Totals(
            loss=reported[0],
            sums=dict(zip(values, reported[1 + len(head) :].unbind(), strict=squares is None)),
            squares=None if squares is None else reported[-1],
            signal=next((number for number, got in zip(SIGNALS, signals, strict=True) if got), None),
        )

    def _tensor(self, more: int) -> tuple[Tensor, list[Tensor]]:
        """Return the flat tensor with ``more`` numbers at its end, and views of it in the shapes of the parameters."""
        sizes = [parameter.numel() for parameter in self.parameters]
        length = sum(sizes) + more
        if self._flat is None or len(self._flat) != length:
            wide = not self.parameters or any(each.dtype == torch.float64 for each in self.parameters)
            widest = torch.float64 if wide else torch.float32
            self._flat = torch.zeros(length, dtype=widest, device=self.processes.device)
            pieces = torch.split(self._flat[: length - more], sizes)
            self._views = [piece.view_as(each) for piece, each in zip(pieces, self.parameters, strict=True)]
        return self._flat, self._views


def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the norm of the gradients of all ``parameters`` together, ()."""
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def clip(parameters: Sequence[Tensor], most: float, norm: Tensor, length: float) -> None:
    """Cut the gradients of ``parameters`` to the norm ``most``; 0: never.

    Args:
        parameters: with gradients.
        most: the norm that is allowed.
        norm: of all gradients together, ().
        length: the same, read.
    """
    if 0 < most < length:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)


def _rows(sums: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    return [each.reshape(1).to(like) for each in sums]
