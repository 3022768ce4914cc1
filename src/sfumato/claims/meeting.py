"""Several pieces of work whose trainings are done at once: each waits where it needs a model until all others do.

Every piece of work runs in a thread, one thread at a time, in their order. Where one asks for a training it lends its
turn to the next; when every one that is not done has asked, what they asked for is trained at once.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence

import torch

from sfumato.training.loop import Trainer
from sfumato.training.several import Ended, fit_several

PATIENCE = 10.0  # seconds for a thread that is told to stop


class Seat:
    """One piece of work's place.

    Args:
        meeting: whose turn it is.

    ``seconds`` are those of its share of the trainings.
    """

    def __init__(self, meeting: Meeting, work: Callable[[Seat], None]) -> None:
        self.meeting, self.work = meeting, work
        self.turn = threading.Semaphore(0)
        self.asked: Trainer | None = None
        self.answer: Ended | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.done = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def fit(self, trainer: Trainer) -> Ended | None:
        """Have ``trainer`` trained with those of the others; return how it ended, None after an interruption."""
        self.asked = trainer
        self.meeting.back.release()
        self.turn.acquire()
        if self.meeting.over:
            raise KeyboardInterrupt
        return self.answer

    def _run(self) -> None:
        self.turn.acquire()
        try:
            if not self.meeting.over:
                torch.set_num_threads(self.meeting.threads)  # a thread of Python has a number of its own
                self.work(self)
        except BaseException as error:  # told to whoever called
            self.error = error
        finally:
            self.done = True
            self.meeting.back.release()


class Meeting:
    """Pieces of work that meet for their trainings.

    Args:
        works: each is called with its seat, whose ``fit`` trains.
    """

    def __init__(self, works: Sequence[Callable[[Seat], None]]) -> None:
        self.back = threading.Semaphore(0)
        self.threads = torch.get_num_threads()
        self.over = False
        self.computes: Seat | None = None  # whose turn it is
        self.seats = [Seat(self, work) for work in works]

    def run(self) -> None:
        """Do all of it; raise what one of them raised."""
        for seat in self.seats:
            seat.thread.start()
        try:
            while waiting := [seat for seat in self.seats if not seat.done]:
                for seat in waiting:
                    self._pass_turn(seat)
                asked = [seat for seat in waiting if seat.asked is not None]
                trainers = [seat.asked for seat in asked if seat.asked is not None]
                begin = time.process_time()
                ended = fit_several(trainers)
                spent = (time.process_time() - begin) / max(1, len(asked))
                for seat, end in zip(asked, ended, strict=True):
                    seat.asked, seat.answer = None, end
                    seat.seconds += spent
        finally:
            self._end()

    def _pass_turn(self, seat: Seat) -> None:
        self.computes = seat
        seat.turn.release()
        self.back.acquire()
        self.computes = None
        if seat.error is not None:
            raise seat.error

    def _end(self) -> None:
        """See that every thread ends: those that wait at once, and one that computes (Ctrl-C) at its next line."""
        self.over = True
        for seat in self.seats:
            number = seat.thread.ident
            if seat is self.computes and number is not None:
                stop = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), stop)
            seat.turn.release()
        for seat in self.seats:
            seat.thread.join(PATIENCE)
