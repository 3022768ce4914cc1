"""Numbers that depend on the step: functions of the step alone, so that a resumed run has the same ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

from torch import Tensor

from sfumato.core.spec import Count, Probability, Size, register

Step = int | Tensor  # a tensor of shape () inside a compiled step


class Schedule(ABC):
    """A factor in [0, 1] for each step, counted from 0.

    For a tensor of shape (), which a compiled step passes, it returns one: arithmetic, no ``if``.
    """

    spec_kind = "schedule"

    @abstractmethod
    def __call__(self, step: Step) -> Any:
        """Return the factor of ``step``."""


@final
@register("schedule")
class Constant(Schedule):
    """s(t) = 1: the factor 1 at every step.

    Reference: none needed.

    >>> Constant()(1000)
    1.0
    """

    def __init__(self) -> None:
        pass

    def __call__(self, step: Step) -> Any:
        """Return 1."""
        return 1.0


@final
@register("schedule")
class WarmUp(Schedule):
    """A straight line from ``start`` at step 0 to exactly 1 at step ``steps``, and 1 from there on.

    Reference: Ladder Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282 (warm-up of the
    KL term).

    Args:
        steps: the first step at which the factor is 1.
        start: the factor at step 0.

    >>> [WarmUp(steps=4)(step) for step in (0, 2, 4, 9)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: Count, start: Probability = 0.0) -> None:
        self.steps = steps
        self.start = start

    def __call__(self, step: Step) -> Any:
        """Return the height of the line at ``step``."""
        return self.start + (1 - self.start) * at_most_1(step / self.steps) if self.steps else 1.0


@final
@register("schedule")
class Cyclical(Schedule):
    """Several rises from 0 to 1, each a straight line and then a level stretch; 1 from step ``steps`` on.

    s(t) = min(1, u / r) with u = the part of its cycle of ``steps`` / ``cycles`` steps that step t has done.

    Reference: Cyclical Annealing Schedule, Fu et al., 2019, https://arxiv.org/abs/1903.10145; with one cycle it is the
    monotone schedule there, and ``WarmUp(r * steps)``.

    Args:
        steps: the first step after the last cycle.
        cycles: how many.
        rising: r, the share of a cycle in which the factor rises.

    >>> schedule = Cyclical(steps=8, cycles=2, rising=0.5)
    >>> [schedule(step) for step in (0, 1, 2, 3, 4, 5, 8, 9)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, steps: Count, cycles: Size = 4, rising: Probability = 0.5) -> None:
        self.steps, self.cycles, self.rising = steps, cycles, rising

    def __call__(self, step: Step) -> Any:
        """Return the factor of ``step``."""
        if not self.steps or not self.rising:
            return 1.0
        done = step * self.cycles % self.steps / self.steps  # of the cycle; whole numbers, so that it is exact
        after = (step >= self.steps) * 1.0
        return at_most_1(done / self.rising + after)


@final
@register("schedule")
class WarmUpCosine(Schedule):
    """Linear warm-up over ``warmup`` steps, then half a cosine down to ``floor`` at step ``steps``: for learning rates.

    Reference: SGDR, Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983.

    Args:
        steps: the step at which ``floor`` is reached.
        warmup: the steps before the peak.
        floor: the factor at the end.

    >>> schedule = WarmUpCosine(steps=10, warmup=2)
    >>> [round(schedule(step), 2) for step in (0, 1, 2, 6, 10, 11)]
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, steps: Count, warmup: Count = 0, floor: Probability = 0.0) -> None:
        self.steps = steps
        self.warmup = warmup
        self.floor = floor

    def __call__(self, step: Step) -> Any:
        """Return the factor at ``step``; the first step of the warm-up is not 0."""
        if step < self.warmup:  # for learning rates, which are no part of a compiled step
            return (step + 1) / self.warmup
        progress = at_most_1((step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def at_most_1(value: Any) -> Any:
    """Return min(1, value) for a number or a tensor."""
    return value.clamp(max=1.0) if isinstance(value, Tensor) else min(1.0, value)


__all__ = ["Constant", "Cyclical", "Schedule", "WarmUp", "WarmUpCosine"]
