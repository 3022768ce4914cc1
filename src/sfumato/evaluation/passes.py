"""One pass over a split, in batches whose size and noise follow from the data and the seed alone.

Preprocessing may draw (dynamic binarisation): every part of an evaluation with the same seed sees the same x.

Several processes share a pass by taking turns at its batches: what is drawn for an example hangs on the seed and the
example, not on who computes it, and what was found is put together in the order of the examples. The numbers are those
of one process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Examples, Prefetched

EXAMPLES = 250
BATCH_NUMBERS = 4_000_000
STREAM = 0x70617373  # "pass": keeps these random numbers apart from others with the same seed

Tell = Callable[[str, int, int], None]


class Batch(NamedTuple):
    """Examples of a split.

    Args:
        x: (batch, *data), preprocessed, on the device.
        y: class numbers, (batch,), -1 where unknown; or None.
        raw: as they came, (batch, *data), on the device.
        seed: for whatever is drawn about this batch.
    """

    x: Tensor
    y: Int[Tensor, " batch"] | None
    raw: Tensor
    seed: int


def batches(
    examples: Examples,
    preprocessing: nn.Module,
    device: torch.device,
    seed: int,
    tell: Tell | None = None,
    part: str = "",
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """Yield every example once, in order; of several processes each yields the batches that are its turn.

    Args:
        examples: the split.
        preprocessing: raw data to the model's input.
        device: where to.
        seed: of the noise.
        tell: called as tell(part, examples done, examples in all) after each batch.
        part: the name for ``tell``.
        processes: that share the pass.

    Raises:
        UserError: there are no examples.
    """
    n = len(examples)
    if not n:
        raise UserError("there is nothing to evaluate: the split has no examples. Choose another split.")
    size = batch_size(examples)
    turns = [(number, torch.arange(number * size, min((number + 1) * size, n))) for number in range(-(-n // size))]
    own_turns = turns[processes.rank :: processes.count]
    if processes.several and isinstance(examples, Prefetched):
        examples.expect(lambda step: own_turns[step][1] if step < len(own_turns) else torch.arange(0))
    for number, rows in own_turns:
        raw, y = examples.batch(rows)
        raw = raw.to(device)
        own = seed_for(STREAM, seed, number)
        with fixed_noise(own, device):
            x = preprocessing(raw)
        yield Batch(x, None if y is None else y.to(device), raw, own)
        if tell is not None:
            tell(part, int(rows[-1]) + 1, n)


def batch_size(examples: Examples) -> int:
    """Return the number of examples in every batch but the last."""
    return max(1, min(EXAMPLES, BATCH_NUMBERS // max(1, math.prod(examples.shape))))


def batch_lengths(examples: Examples) -> list[int]:
    """Return the number of examples in each batch of a pass."""
    n, size = len(examples), batch_size(examples)
    return [min(size, n - start) for start in range(0, n, size)]


def merged(
    columns: Mapping[str, Sequence[Tensor]], lengths: Sequence[int], processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Return name -> all rows, in order, of columns whose pieces were computed by several processes in turn.

    Piece k, of ``lengths[k]`` rows, is that of process k modulo their number. All processes must call it.

    Args:
        columns: name -> the pieces of this process; every process that has any piece has the same names.
        lengths: the rows of each piece of all of them.
        processes: that share the work.
    """
    if not processes.several:
        return {name: torch.cat(list(pieces)) for name, pieces in columns.items()}
    heads = {
        name: (str(pieces[0].dtype).removeprefix("torch."), tuple(pieces[0].shape[1:]))
        for name, pieces in columns.items()
    }
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    places = [torch.arange(start, end) for start, end in itertools.pairwise(ends)]
    order = torch.cat([place for rank in range(processes.count) for place in places[rank :: processes.count]])
    found = {}
    for name, (dtype, shape) in processes.agree(heads).items():  # the first process always has the first piece
        pieces = list(columns.get(name, ())) or [torch.empty((0, *shape), dtype=getattr(torch, dtype))]
        rows = processes.rows(torch.cat(pieces))
        found[name] = torch.empty_like(rows)
        found[name][order.to(rows.device)] = rows
    return found
