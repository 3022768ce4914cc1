"""How training is shown: a live line on a terminal, plain lines now and then everywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import nn

from sfumato.training import Listener
from sfumato.verbs.words import time_text

DRAW_EVERY = 0.2
SPEAK_EVERY = 60.0
MARKS = (1, 2, 5, *range(10, 101, 10))


class Progress(Listener):
    """What is known about a training while it runs; subclasses show it.

    Args:
        console: where to.
        unit: what an example is: img, rows, ...
    """

    def __init__(self, console: Console, unit: str = "img") -> None:
        self.console, self.unit = console, unit
        self.step = self.steps = self.batch = self.first = 0
        self.timed = -1  # the step from which time is counted: the first one, in which a program may be compiled
        self.latest: Mapping[str, Any] = {}
        self.began = time.monotonic()
        self.recent: deque[tuple[float, int]] = deque(maxlen=26)

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Start counting."""
        self.step = self.first = step
        self.steps, self.batch, self.timed = steps, examples_per_step, -1

    def on_step(self, step: int) -> None:
        """Count; the clock starts with the end of the first step."""
        self.step = step
        if self.timed < 0:
            self.timed, self.began = step, time.monotonic()
            self.recent.clear()
            self.recent.append((self.began, step))

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Keep the last line of the validation split."""
        if line.get("split") == "validation":
            self.latest = line

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Add nothing."""
        return {}

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self.console.print(Text(sentence), soft_wrap=True)

    def close(self) -> None:
        """End the display."""

    @property
    def percent(self) -> float:
        """The part that is done."""
        return 100 * self.step / max(1, self.steps)

    def count(self) -> str:
        """Return e.g. ``step 4,200/8,000``."""
        return f"step {self.step:,}/{self.steps:,}"

    def details(self) -> list[str]:
        """Return the numbers beside the bar, the most telling first."""
        parts = []
        if self.latest.get("elbo") is not None:
            parts.append(f"val ELBO {self.latest['elbo']:,.1f} nats")
        if 0 <= self.timed < self.step < self.steps:
            left = (time.monotonic() - self.began) / (self.step - self.timed) * (self.steps - self.step)
            parts.append(f"{time_text(left)} left")
        units, dims = self.latest.get("active_units"), self.latest.get("kl_per_dimension")
        if units is not None:
            parts.append(f"active {units}/{len(dims)}" if dims else f"active {units}")
        if self.latest.get("kl") is not None:
            parts.append(f"KL {self.latest['kl']:.1f}")
        begin, before = self.recent[0] if self.recent else (self.began, self.step)
        if self.step > before:
            rate = (self.step - before) * self.batch / (time.monotonic() - begin)
            parts.append(f"{_short(rate)} {self.unit}/s")
        return parts


class Lines(Progress):
    """Plain lines at 1, 2, 5, 10, 20 ... % and at least once a minute, without control codes."""

    def __init__(self, console: Console, unit: str = "img") -> None:
        super().__init__(console, unit)
        self._spoken = time.monotonic()
        self._mark = 0.0
        self._part = ""

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Start counting."""
        super().on_start(step, steps, examples_per_step)
        self._mark = self.percent

    def on_step(self, step: int) -> None:
        """Print a line when one is due."""
        super().on_step(step)
        passed = [mark for mark in MARKS if self._mark < mark <= self.percent]
        now = time.monotonic()
        if passed or now - self._spoken >= SPEAK_EVERY:
            self._mark = max([self._mark, *passed])
            self._spoken = now
            self.say(" · ".join([self.count(), f"{self.percent:.0f} %", *self.details()]))
            self.recent.append((now, step))

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Print a line for each part of the evaluation."""
        now = time.monotonic()
        if part != self._part or now - self._spoken >= SPEAK_EVERY:
            self.say(f"evaluating · {part} · {100 * done / max(1, of):.0f} %")
            self._part, self._spoken = part, now


class Bar(Progress):
    """One live line: steps, a bar, and as many numbers as the terminal is wide."""

    def __init__(self, console: Console, unit: str = "img") -> None:
        super().__init__(console, unit)
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._drawn = 0.0
        self._drawing = self._measuring = False
        self._waiting: list[str] = []

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Show the line."""
        super().on_start(step, steps, examples_per_step)
        self._live.start()
        self._draw()

    def on_step(self, step: int) -> None:
        """Draw the line again, a few times a second."""
        super().on_step(step)
        if time.monotonic() - self._drawn >= DRAW_EVERY or step == self.steps:
            self._draw()
            self.recent.append((time.monotonic(), step))

    def on_measuring(self, part: str, done: int, of: int) -> None:
        """Show how far the evaluation is below the steps."""
        if not self._measuring:
            self._measuring = True
            self._live.stop()
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        if time.monotonic() - self._drawn >= DRAW_EVERY or done == of:
            self._show("evaluating", done, of, [part])

    def say(self, sentence: str) -> None:
        """Print a sentence above the line; in the middle of drawing (a signal came), after it."""
        if self._drawing:
            self._waiting.append(sentence)
        else:
            super().say(sentence)

    def close(self) -> None:
        """Leave the line of the training as it is; that of the evaluation goes."""
        self._live.stop()

    def _draw(self) -> None:
        self._show(self.count(), self.step, self.steps, [f"{self.percent:.0f} %", *self.details()])

    def _show(self, head: str, done: int, of: int, details: list[str]) -> None:
        room = self.console.width - len(head) - 4
        shown: list[str] = []
        for part in details:
            if room - len(part) - 3 < 10:
                break
            shown.append(part)
            room -= len(part) + 3
        line = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(total=max(1, of), completed=done, width=max(8, min(30, room)))
        line.add_row(Text(f"  {head}"), bar, Text("   ".join(shown)))
        self._drawing = True
        try:
            self._live.update(line, refresh=True)
        finally:
            self._drawing = False
        self._drawn = time.monotonic()
        while self._waiting:
            super().say(self._waiting.pop(0))


class Silent(Progress):
    """Shows nothing."""

    def say(self, sentence: str) -> None:
        """Print nothing."""


def progress(console: Console, unit: str, quiet: bool) -> Progress:
    """Return what fits the place that ``console`` writes to."""
    kind = Silent if quiet else Bar if console.is_terminal and not console.is_dumb_terminal else Lines
    return kind(console, unit)


def _short(rate: float) -> str:
    return f"{rate / 1000:.0f}k" if rate >= 10_000 else f"{rate:,.0f}"
