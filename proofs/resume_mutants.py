"""Resumes that forget or repeat something, one for each part of the state: the comparison must turn red."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from sfumato.data import Order
from sfumato.io.run import Metrics
from sfumato.training import Trainer
from sfumato.training.guard import Guard
from sfumato.training.state import TrainingState

Mutate = Callable[[pytest.MonkeyPatch], None]


def forgets_guard(patch: pytest.MonkeyPatch) -> None:
    """Forget what the guard knows."""
    patch.setattr(Guard, "restore", lambda self, state: None)


def forgets(name: str) -> Mutate:
    """Forget a number."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = TrainingState.restore

        def restore(self: TrainingState, tensors: Any, plain: Any) -> None:
            before = getattr(self, name)
            right(self, tensors, plain)
            setattr(self, name, before)

        patch.setattr(TrainingState, "restore", restore)

    return mutate


def forgets_tensors(stem: str) -> Mutate:
    """Forget the tensors of a file."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = TrainingState.restore

        def restore(self: TrainingState, tensors: Any, plain: Any) -> None:
            right(self, {**tensors, stem: self.capture()[0][stem]}, plain)

        patch.setattr(TrainingState, "restore", restore)

    return mutate


def forgets_adam_step(patch: pytest.MonkeyPatch) -> None:
    """Forget how many steps Adam has done."""
    right = TrainingState.restore

    def restore(self: TrainingState, tensors: Any, plain: Any) -> None:
        right(self, tensors, plain)
        for state in self.optimizer.state.values():
            state["step"].zero_()

    patch.setattr(TrainingState, "restore", restore)


def forgets_average_count(patch: pytest.MonkeyPatch) -> None:
    """Forget how many steps were averaged."""
    right = TrainingState.restore

    def restore(self: TrainingState, tensors: Any, plain: Any) -> None:
        right(self, tensors, {**plain, "averages": 1})

    patch.setattr(TrainingState, "restore", restore)


def loses_the_order_of_sums(patch: pytest.MonkeyPatch) -> None:
    """Sort what is summed."""
    right = TrainingState.restore
    patch.setattr(
        TrainingState,
        "restore",
        lambda self, tensors, plain: right(self, tensors, {**plain, "sums": sorted(plain["sums"])}),
    )


def keeps_metrics(patch: pytest.MonkeyPatch) -> None:
    """Keep the lines that were written after the checkpoint."""
    patch.setattr(Metrics, "truncate", lambda self, position: None)


def takes_best_for_current(patch: pytest.MonkeyPatch) -> None:
    """Go on from the averaged weights."""
    right = TrainingState.restore_checkpoint

    def restore(self: TrainingState, checkpoint: Any, best: Any) -> None:
        right(self, checkpoint, best)
        self.model.load_state_dict(checkpoint.tensors["ema"])

    patch.setattr(TrainingState, "restore_checkpoint", restore)


def noise_from_the_global_state(patch: pytest.MonkeyPatch) -> None:
    """Draw from torch's own state."""
    patch.setattr("sfumato.training.loop.fixed_noise", lambda seed, device: contextlib.nullcontext())


def order_from_the_start(patch: pytest.MonkeyPatch) -> None:
    """A loader that begins anew at each start of the process."""
    right = Order.__call__
    first: list[int] = []

    def restarted(self: Order, step: int) -> torch.Tensor:
        first.append(step)
        return right(self, step - first[0])

    patch.setattr(Order, "__call__", restarted)


def salt_not_restored(patch: pytest.MonkeyPatch) -> None:
    """Take another order than before."""
    right = Trainer._new_order

    def new_order(self: Trainer) -> Order:
        order = right(self)
        order.salt += 1
        return order

    patch.setattr(Trainer, "_new_order", new_order)


MUTANTS: Mapping[str, Mutate] = {
    "guard": forgets_guard,
    "model": forgets_tensors("model"),
    "ema": forgets_tensors("ema"),
    "optimizer": forgets_tensors("optimizer"),
    "adam step": forgets_adam_step,
    "count of the average": forgets_average_count,
    "order of sums": loses_the_order_of_sums,
    "count": forgets("count"),
    "sums": forgets("sums"),
    "step": forgets("step"),
    "best step": forgets("best_step"),
    "best value": forgets("best_value"),
    "metrics": keeps_metrics,
    "best for current": takes_best_for_current,
    "noise": noise_from_the_global_state,
    "order": order_from_the_start,
    "salt": salt_not_restored,
}
