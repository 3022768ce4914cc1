"""Several processes that work on one model: what they add up, what they agree on, and how they hear of each other.

The first one, of rank 0, decides what a measurement or a file decides, and it alone writes; the others ask it. What is
sent is json and tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from sfumato.core.errors import SfumatoError, UserError

Found = TypeVar("Found")
TEXT = 512  # bytes of a text that every process hears of every other


class Lost(SfumatoError):
    """Another process of this training ended, or could not be reached."""


class Differs(SfumatoError):
    """A process of this training has something else than the others."""


class Heard(SfumatoError):
    """What went wrong in the first process, as the others hear it.

    Args:
        sentence: of the error.
        exit_code: of the error.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """The processes of one training or evaluation, seen from one of them. A single one never sends anything.

    Args:
        rank: the number of this process, from 0.
        count: how many there are.
        device: where tensors that are sent must lie.

    >>> Processes(rank=1, count=3).part(torch.arange(7))
    (tensor([3, 4]), True)
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def first(self) -> bool:
        """Whether this is the one that decides and writes."""
        return self.rank == 0

    def part(self, indices: Tensor) -> tuple[Tensor, bool]:
        """Return the examples of a batch (batch,) that this process computes, and whether they count.

        The parts differ by one example at most. A process for which none is left computes the first one, which then
        does not count, so that every process goes the same way through a step.
        """
        own = torch.tensor_split(indices, self.count)[self.rank]
        return (own, True) if len(own) else (indices[:1], False)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up ``tensor`` over all processes, in place, and return it.

        Raises:
            Lost: a process is not there any more.
        """
        with lost():
            distributed.all_reduce(tensor)
        return tensor

    def share(self, data: bytes | None, source: int = 0) -> bytes:
        """Return the ``data`` of the first process, or of the process ``source``; the others give None."""
        if not self.several:
            assert data is not None
            return data
        size = torch.tensor([len(data) if data is not None else 0], dtype=torch.int64, device=self.device)
        with lost():
            distributed.broadcast(size, source)
            if data is not None:
                content = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8).to(self.device)
            else:
                content = torch.empty(max(1, int(size)), dtype=torch.uint8, device=self.device)
            distributed.broadcast(content, source)
        return content.cpu().numpy().tobytes()[: int(size)]

    def ask(self, work: Callable[[], Found]) -> Found:
        """Return what ``work``, done by the first process, returns: json. An error there is one everywhere.

        Raises:
            Heard: in the other processes, for a SfumatoError of the first.
        """
        if not self.several:
            return work()
        if not self.first:
            said: dict[str, Any] = json.loads(self.share(None))
            if "error" in said:
                raise Heard(said["error"], said["exit_code"])
            found: Found = said["found"]
            return found
        try:
            found = work()
        except SfumatoError as error:
            self.share(json.dumps({"error": str(error), "exit_code": error.exit_code}).encode())
            raise
        self.share(json.dumps({"found": found}).encode())
        return found

    def all_or_none(self, work: Callable[[], Found]) -> Found:
        """Return what ``work``, done by every process, returns in this one; a user's mistake in one is one in all.

        Raises:
            UserError: the sentence of the first process that found one.
        """
        if not self.several:
            return work()
        sentence, found = "", None
        try:
            found = work()
        except UserError as error:
            sentence = str(error)
        wrong = next((each for each in self.gather(sentence) if each), "")
        if wrong:
            raise UserError(wrong)
        return cast(Found, found)

    def agree(self, value: Found) -> Found:
        """Return the ``value``, json, of the first process."""
        return self.ask(lambda: value)

    def gather(self, text: str) -> list[str]:
        """Return the ``text`` of every process, cut after 512 bytes."""
        if not self.several:
            return [text]
        data = text.encode()[:TEXT].ljust(TEXT, b"\0")
        table = torch.zeros(self.count, TEXT, dtype=torch.int32)
        table[self.rank] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(torch.int32)
        rows = self.sum(table.to(self.device)).to("cpu", torch.uint8).numpy()
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]

    def rows(self, own: Tensor) -> Tensor:
        """Return the rows (n, ...) of every process, one process after the other; type and row shape are the same."""
        if not self.several:
            return own
        found = []
        for rank, count in enumerate(self.gather(str(len(own)))):
            rows = own if rank == self.rank else own.new_empty((int(count), *own.shape[1:]))
            rows = rows.to(self.device).contiguous()
            with lost():
                distributed.broadcast(rows, rank)
            found.append(rows.to(own.device))
        return torch.cat(found)

    def check(self, what: str, text: str) -> None:
        """Compare a ``text``, by its digest, over all processes; ``what`` names it.

        Raises:
            Differs: not all have the same. Named are those that are not as most; of two halves, the one without the
                first.
        """
        if not self.several:
            return
        found = self.gather(hashlib.sha256(text.encode()).hexdigest())
        times = Counter(found)
        usual = max(times, key=lambda each: (times[each], each == found[0]))
        odd = [str(rank) for rank, each in enumerate(found) if each != usual]
        if odd:
            raise Differs(
                f"{what} of process {', '.join(odd)} of {self.count} differs from that of the others: other data, "
                "another version, or a memory that fails."
            )

    def wait(self) -> None:
        """Return when every process is here."""
        if self.several:
            self.sum(torch.zeros(1, device=self.device))


ALONE = Processes()


class BatchMean:
    """The mean over a batch that is spread over processes; an average of a part is not one of the whole.

    Args:
        processes: all of which must call it, the same number of times.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.counts = True

    def __call__(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` of all processes whose examples count, of shape ()."""
        sums = torch.stack([values.sum(dtype=torch.float64), values.new_tensor(values.numel(), dtype=torch.float64)])
        total, count = self.processes.sum(sums if self.counts else torch.zeros_like(sums))
        mean: Tensor = (total / count).to(values.dtype)
        return mean


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Inside, a RuntimeError, which is what torch raises then, is the loss of a process."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0].rpartition("] ")[2][:150].rstrip(". ")
        raise Lost(f"another process of this training ended, or cannot be reached ({reason}).") from error
