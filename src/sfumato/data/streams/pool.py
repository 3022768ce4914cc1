"""Who reads batches ahead: threads, and behind each of them a decoding process where images have to be decoded.

Rows of a flat file need no work but ``pread``, which waits without Python's lock, so threads do. Decoding holds that
lock for a part of its time, and Pillow's warnings filter is not for several threads: each such thread therefore has a
process of its own, asks it for one batch at a time, and waits.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sfumato.core.errors import SfumatoError, UserError
from sfumato.data.content import Array
from sfumato.data.streams.decoding import Decoder, Place
from sfumato.data.streams.encoded import EncodedRows
from sfumato.data.streams.rows import Streamed

WORKER = Path(__file__).with_name("worker.py")
Batch = tuple[Tensor, Int64[Tensor, " batch"] | None]


class WorkerDied(SfumatoError):
    """A decoding process ended in the middle of its work."""


@final
class Process:
    """A decoding process, and the memory that it shares with this one.

    Args:
        decoder: what every image becomes.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self._size = decoder, 0
        self._memory: mmap.mmap | None = None
        self._process: subprocess.Popen[str] | None = None
        self._finalizer: weakref.finalize[[subprocess.Popen[str]], Process] | None = None

    @property
    def pid(self) -> int | None:
        """The number of the running process."""
        return self._process.pid if self._process else None

    def decode(self, places: list[Place]) -> Array:
        """Return the images at ``places``, (n, channels, height, width).

        Raises:
            UserError: one of them cannot be used. WorkerDied: the process ended.
        """
        if not places:
            return np.empty((0, *self.decoder.shape), dtype=np.uint8)
        each = int(np.prod(self.decoder.shape))
        process = self._ready(8 + each * len(places))
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(places) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise WorkerDied(self._obituary(process, places))
        sentence = json.loads(line)
        if sentence:
            raise UserError(sentence)
        assert self._memory is not None
        x = np.frombuffer(self._memory, dtype=np.uint8, offset=8, count=each * len(places))
        return x.reshape(len(places), *self.decoder.shape).copy()

    def close(self) -> None:
        """End the process."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def _ready(self, size: int) -> subprocess.Popen[str]:
        """Return the process, started anew where it has too little memory."""
        if self._process is not None and size <= self._size:
            return self._process
        self.close()
        with _shared(size) as descriptor:
            self._memory = mmap.mmap(descriptor, size)
            process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=(descriptor,),
            )
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is gone already: the first request tells
                process.stdin.write(json.dumps([descriptor, size, self.decoder.to_json()]) + "\n")
                process.stdin.flush()
        self._process, self._size = process, size
        self._finalizer = weakref.finalize(self, _end, process)
        return process

    def _obituary(self, process: subprocess.Popen[str], places: list[Place]) -> str:
        code = process.wait()
        assert self._memory is not None
        number = int(np.frombuffer(self._memory, dtype=np.int64, count=1)[0])
        self.close()
        why = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                why = signal.Signals(-code).name
        return (
            f"a process that decodes images ended ({why}) at {places[min(number, len(places) - 1)].name}. If the "
            "machine ran out of memory, use a smaller batch; if it happens there again, remove that file."
        )


@final
class Pool:
    """Reads batches of ``examples`` in the background, in the order in which they are asked for.

    Args:
        examples: what to read.
        workers: how many batches at a time.
    """

    def __init__(self, examples: Streamed, workers: int) -> None:
        self.examples, self.workers = examples, workers
        self.processes: list[Process] = []
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sfumato-data")
        weakref.finalize(self, _stop, self._threads, self.processes)

    def submit(self, indices: Int64[Tensor, " batch"]) -> Future[Batch]:
        """Begin to read the examples ``indices``."""
        return self._threads.submit(_read, self.examples, self._own, self.processes, indices)

    def close(self) -> None:
        """End threads and processes."""
        _stop(self._threads, self.processes)


def _read(
    examples: Streamed, own: threading.local, processes: list[Process], indices: Int64[Tensor, " batch"]
) -> Batch:
    """Do what ``examples.batch`` does, in this thread's process where there is something to decode."""
    rows = examples.rows
    if not isinstance(rows, EncodedRows) or os.name != "posix":
        return _pinned(*examples.batch(indices))
    if not hasattr(own, "process"):
        own.process = Process(rows.decoder)
        processes.append(own.process)
    chosen = examples.chosen[indices.cpu().numpy()]
    x = own.process.decode([rows.place(int(row)) for row in chosen])
    return _pinned(torch.from_numpy(rows.verified(x, chosen)), examples.labels(indices))


def _pinned(x: Tensor, y: Tensor | None) -> Batch:
    """Return the batch in memory that an accelerator can copy from while it computes, where there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return x.pin_memory(), None if y is None else y.pin_memory()
    return x, y


@contextlib.contextmanager
def _shared(size: int) -> Iterator[int]:
    """Give the descriptor of ``size`` bytes that processes can share; they last as long as somebody maps them."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sfumato-data", 0)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[str]) -> None:
    """Let a process go: without a pipe to read from it ends by itself."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop(threads: ThreadPoolExecutor, processes: list[Process]) -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.close()
