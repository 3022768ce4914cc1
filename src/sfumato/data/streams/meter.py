"""Where the time of a training goes: waiting for examples, copying them to the device, or computing.

A step's time is cut at the moments when the model asks for a batch and gets it. Reading ahead happens beside the
model, so the loader costs only what is waited for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import final

WORTH_SAYING = 0.1


@dataclass(frozen=True)
class StepTime:
    """The seconds of one step.

    Args:
        loader: waited for the batch.
        copy: to the device.
        model: everything else until the next batch was asked for.
    """

    loader: float
    copy: float
    model: float


@final
class Meter:
    """Adds up what steps wait for.

    Args:
        workers: how many there are, for the advice.
        clock: seconds; another one for tests.
        recent: of how many steps ``steps`` tells.

    >>> ticks = iter([0.0, 3.0, 4.0, 14.0, 14.0, 14.0])
    >>> meter = Meter(clock=lambda: next(ticks))
    >>> for _ in range(2):
    ...     _ = meter.asked(), meter.read(), meter.given()
    >>> meter.loader, meter.copy, meter.model
    (3.0, 1.0, 10.0)
    """

    def __init__(self, workers: int = 1, clock: Callable[[], float] = perf_counter, recent: int = 1000) -> None:
        self.workers, self._clock = workers, clock
        self.steps: deque[StepTime] = deque(maxlen=recent)
        self._recent = recent
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.steps.clear()
        self.loader = self.copy = self.model = 0.0
        self.count = 0
        self._asked = self._read = self._given = -1.0
        self._more_copy = 0.0

    def asked(self) -> None:
        """The model asks for a batch: the step before, if there is one, is over."""
        now = self._clock()
        if self._given >= 0:
            copy = self._given - self._read + self._more_copy
            step = StepTime(self._read - self._asked, copy, max(0.0, now - self._given - self._more_copy))
            self.steps.append(step)
            self.loader, self.copy, self.model = self.loader + step.loader, self.copy + copy, self.model + step.model
            self.count += 1
        self._asked, self._given, self._more_copy = now, -1.0, 0.0

    def read(self) -> None:
        """The batch is there, in this machine's memory."""
        self._read = self._clock()

    def given(self) -> None:
        """The batch is with the model."""
        self._given = self._clock()

    def copied(self, seconds: float) -> None:
        """So many seconds of the current step the device was copying, as it says itself."""
        self._more_copy += seconds

    @property
    def shares(self) -> dict[str, float]:
        """Return loader, copy and model as parts of the time of all whole steps; they add up to 1."""
        total = self.loader + self.copy + self.model
        names = ("loader", "copy", "model")
        return {name: getattr(self, name) / total if total > 0 else 0.0 for name in names}

    @property
    def bottleneck(self) -> str:
        """Return "loader" or "copy" where a tenth of the time is lost to it, else "model"."""
        shares = self.shares
        most = max(("loader", "copy"), key=shares.__getitem__)
        return most if shares[most] >= WORTH_SAYING else "model"

    def sentence(self) -> str:
        """Return which of the three is the bottleneck, and what would help."""
        shares = self.shares
        if not self.count:
            return "nothing was measured yet: two steps are needed."
        if self.bottleneck == "loader":
            return (
                f"the loader is the bottleneck: the model waits {shares['loader']:.0%} of the time. More workers (now "
                f"{self.workers}), smaller files or a faster disk would help."
            )
        if self.bottleneck == "copy":
            return (
                f"the copy to the device is the bottleneck: the model waits {shares['copy']:.0%} of the time for it. "
                "Keep the data in 8 bits, or make the batch larger."
            )
        return f"the model is the bottleneck: it waits {shares['loader'] + shares['copy']:.0%} of the time for data."
