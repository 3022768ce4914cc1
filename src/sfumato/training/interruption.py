"""Ctrl-C, SIGTERM and a terminal that closes ask for a clean end after the step; a second Ctrl-C leaves at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType


class Interruption:
    """While entered, notes SIGINT, SIGTERM and SIGHUP instead of letting them end the process.

    A SIGHUP that is ignored (nohup) stays so.

    Args:
        say: called with one sentence when the first signal comes.

    ``signal`` is the number of the signal that came, or None. Outside the main thread nothing is installed.
    """

    SENTENCE = "stopping after this step; Ctrl-C again to leave without saving"

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say or (lambda text: None)
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        with contextlib.suppress(Exception):  # a terminal that is gone, or busy printing, must not cost the checkpoint
            self.say(self.SENTENCE)
