"""T14: every sample once an epoch whatever the number of processes, unsorted, in another order each epoch."""

from __future__ import annotations

import math
import random

import pytest
import torch

from proofs.proof import Budget, Mutants, Result
from sfumato.core.processes import Processes
from sfumato.data import Order, order

AIM, SHORT = 20_000, 120
SPECIAL = (1, 2, 3, 5, 7, 31, 64, 97, 127, 128, 211, 509)


def run(budget: Budget, seed: int) -> Result:
    """Draw sizes (prime, 1, batch - 1, batch, batch + 1), processes before and after a resume, seeds and salts."""
    dice, result = random.Random(seed), Result()
    moved = 0
    while budget.open(result.cases):
        batch = dice.choice(SPECIAL)
        count = max(1, dice.choice([*SPECIAL, batch - 1, batch, batch + 1, dice.randint(1, 600)]))
        number, salt, before, after = dice.randrange(2**40), dice.randrange(6), dice.randint(1, 9), dice.randint(1, 9)
        with result.case(f"{count} in batches of {batch}, {before} to {after} processes, seed {number}, salt {salt}"):
            one = Order(count, batch, number, salt)
            epochs = [_epoch(one, epoch, before) for epoch in (0, 3)]
            for rows in epochs:
                assert sorted(rows) == list(range(count)), "not every sample once"
            again = Order(count, batch, number, salt)
            assert _epoch(again, 3, after) == epochs[1], "another number of processes has other batches"
            if count > 20:
                assert sorted(epochs[0]) != epochs[0], "not shuffled"
                assert epochs[0] != epochs[1], "each epoch the same"
                moved += 1
                fixed = sum(row == place for place, row in enumerate(epochs[0]))
                assert fixed < 9, f"{fixed} samples kept their place"  # their number is Poisson(1): 1e-6 for 9
            result.fired += 1
    if result.cases > 500:
        _uniform(result, seed)
    return result


def _epoch(one: Order, epoch: int, processes: int) -> list[int]:
    """Return the rows of an epoch as the processes compute them, one part after the other."""
    rows: list[int] = []
    for position in range(one.steps_per_epoch):
        indices = one(epoch * one.steps_per_epoch + position)
        parts = [Processes(rank, processes).part(indices) for rank in range(processes)]
        counted = [own for own, counts in parts if counts]
        sizes = [len(own) for own in counted]
        assert max(sizes) - min(sizes) <= 1, "the parts are not of one size"
        rows += torch.cat(counted).tolist()
    return rows


def _uniform(result: Result, seed: int) -> None:
    """Every sample is equally likely everywhere: chi squared over 2,000 epochs of 12, 121 degrees of freedom."""
    count, epochs = 12, 2_000
    table = torch.zeros(count, count)
    for epoch in range(epochs):
        table[torch.arange(count), order.epoch_order(count, seed, epoch)] += 1
    expected = epochs / count
    found = float(((table - expected) ** 2 / expected).sum())
    result.require(abs(found - 121) < 5.5 * math.sqrt(242), f"chi squared {found:.0f} of 121 degrees of freedom")


def sorted_order(patch: pytest.MonkeyPatch) -> None:
    """Do not shuffle."""
    patch.setattr(order, "epoch_order", lambda count, seed, epoch, salt=0: torch.arange(count))


def one_order(patch: pytest.MonkeyPatch) -> None:
    """Shuffle once."""
    right = order.epoch_order
    patch.setattr(order, "epoch_order", lambda count, seed, epoch, salt=0: right(count, seed, 0, salt))


def overlapping(patch: pytest.MonkeyPatch) -> None:
    """Fill the last part with samples of the first, as usual samplers do."""

    def part(self: Processes, indices: torch.Tensor) -> tuple[torch.Tensor, bool]:
        size = -(-len(indices) // self.count)
        again = torch.cat([indices, indices, indices, indices, indices, indices, indices, indices, indices])
        return again[self.rank * size : (self.rank + 1) * size], True

    patch.setattr(Processes, "part", part)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {
        "a shuffle that does not shuffle": sorted_order,
        "one order for all epochs": one_order,
        "parts that are filled up": overlapping,
    }
