"""Reading ahead: the next batches of a known order are read while the model computes.

What comes out is what ``examples.batch`` gives, bit for bit: reading ahead changes when a batch is read and nothing
else. A request that nobody foresaw is read there and then.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, final

import torch
from jaxtyping import Int64
from torch import Tensor

from sfumato.data.order import Order
from sfumato.data.streams.encoded import EncodedRows
from sfumato.data.streams.meter import Meter
from sfumato.data.streams.pool import Batch, Pool
from sfumato.data.streams.rows import Rows, Streamed

MOST_BYTES = 1 << 28
BatchOrder = Callable[[int], Int64[Tensor, " batch"]]


class _Ahead(NamedTuple):
    indices: Tensor
    batch: Future[Batch]


@final
class Prefetched:
    """The examples of a split, the next ones of which are there before they are asked for.

    Args:
        examples: what to read.
        order: step -> row numbers, counted from 0; None: until :meth:`expect`, passes in rising order are foreseen.
        ahead: how many batches are read ahead; fewer where they would take more than 256 MiB.
        workers: how many are read at a time; None: one less than there are cores, and at most 8.
        device: where the batches go; None: they stay where they were read (pinned, once an accelerator is in use).

    >>> import numpy as np
    >>> from sfumato.data.streams import ArrayRows
    >>> split = Streamed(ArrayRows(np.arange(10.0).reshape(5, 2)), np.arange(5))
    >>> data = Prefetched(split, Order(5, batch_size=2, seed=0))
    >>> x, y = data.batch(Order(5, batch_size=2, seed=0)(0))
    >>> x.shape
    torch.Size([2, 2])
    >>> data.close()
    """

    def __init__(
        self,
        examples: Streamed,
        order: Order | BatchOrder | None = None,
        ahead: int | None = None,
        workers: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1; got {workers}")
        self.examples = examples
        self.workers = workers or _default_workers(examples.rows)
        self.ahead = 2 * self.workers + 1 if ahead is None else ahead
        self.device = None if device is None else torch.device(device)
        self.meter = Meter(self.workers)
        self.foreseen = self.missed = 0
        self._pool: Pool | None = None
        self._queue: deque[_Ahead] = deque()
        self._order: BatchOrder | None = None
        self._given = False
        self._step = 0
        self._latest: tuple[Tensor, Batch] | None = None
        self._copies: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        if order is not None:
            self.expect(order)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.examples.shape

    @property
    def y(self) -> Int64[Tensor, " n"] | None:
        """The class numbers of all examples."""
        return self.examples.y

    def expect(self, order: Order | BatchOrder, step: int = 0) -> None:
        """From now on the batches of ``order`` at ``step``, ``step`` + 1, ... will be asked for."""
        self._clear()
        if isinstance(order, Order):  # its own copy: an order remembers the epoch that it was last asked about
            order = Order(order.count, order.batch_size, order.seed, order.salt)
        self._order, self._step, self._given = order, step, True

    def batch(self, indices: Int64[Tensor, " batch"]) -> tuple[Tensor, Int64[Tensor, " batch"] | None]:
        """Return (x, y) of the examples ``indices``.

        Raises:
            UserError: an example cannot be read; names it. WorkerDied: a decoding process ended.
        """
        self._note_copies()
        self.meter.asked()
        if not self._queue:
            self._fill()
        wanted = indices.cpu()
        if self._queue and torch.equal(self._queue[0].indices, wanted):
            self.foreseen += 1
            waiting = self._queue.popleft().batch
            self._fill()
            x, y = waiting.result()
        elif self._latest is not None and torch.equal(self._latest[0], wanted):  # a step that is tried several times
            x, y = self._latest[1]
        else:
            self.missed += 1
            x, y = self._unforeseen(wanted)
        self._latest = wanted, (x, y)
        self.meter.read()
        if self.device is not None:
            x, y = self._copied(x, y)
        self.meter.given()
        return x, y

    def close(self) -> None:
        """Stop reading ahead; what is asked for later is read when it is."""
        self._clear()
        self._order = self._latest = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _unforeseen(self, indices: Int64[Tensor, " batch"]) -> Batch:
        """Read now; where it is a part of a pass in rising order, foresee the rest of the pass."""
        first, size = (int(indices[0]), len(indices)) if len(indices) else (0, 0)
        rising = size > 1 and torch.equal(indices, torch.arange(first, first + size))
        if self._given or not rising:
            return self.examples.batch(indices)
        self._clear()
        count = len(self)

        def rest(step: int) -> Tensor:
            return torch.arange(min(count, first + step * size), min(count, first + (step + 1) * size))

        self._order, self._step = rest, 1
        self._fill()
        return self.examples.batch(indices)

    def _fill(self) -> None:
        """Begin to read until ``ahead`` batches are on their way."""
        if self._order is None:
            return
        while len(self._queue) < self._allowed():
            indices = self._order(self._step)
            if not len(indices):
                return
            if self._pool is None:
                self._pool = Pool(self.examples, self.workers)
            self._queue.append(_Ahead(indices, self._pool.submit(indices)))
            self._step += 1

    def _allowed(self) -> int:
        if not self._queue:
            return 1
        size = len(self._queue[0].indices) * self.examples.rows.row_bytes
        return max(1, min(self.ahead, MOST_BYTES // max(1, size)))

    def _clear(self) -> None:
        for ahead in self._queue:
            ahead.batch.cancel()
        self._queue.clear()

    def _copied(self, x: Tensor, y: Tensor | None) -> Batch:
        """Return the batch on the device; where that is an accelerator, the copy is timed there."""
        assert self.device is not None
        if self.device.type != "cuda":
            return x.to(self.device), None if y is None else y.to(self.device)
        events = _event(), _event()
        events[0].record()
        x = x.to(self.device, non_blocking=True)
        y = None if y is None else y.to(self.device, non_blocking=True)
        events[1].record()
        self._copies.append(events)
        return x, y

    def _note_copies(self) -> None:
        while self._copies and self._copies[0][1].query():  # type: ignore[no-untyped-call]
            begin, end = self._copies.popleft()
            self.meter.copied(begin.elapsed_time(end) / 1000)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _default_workers(rows: Rows) -> int:
    """Return the number of cores less one, from 1 to 8; 2 where nothing is decoded."""
    if not isinstance(rows, EncodedRows):
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))
