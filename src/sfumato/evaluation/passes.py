"""One pass over a split, in batches whose size and noise follow from the data and the seed alone.

Preprocessing may draw (dynamic binarisation): every part of an evaluation with the same seed sees the same x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Examples

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
) -> Iterator[Batch]:
    """Yield every example once, in order.

    Args:
        examples: the split.
        preprocessing: raw data to the model's input.
        device: where to.
        seed: of the noise.
        tell: called as tell(part, examples done, examples in all) after each batch.
        part: the name for ``tell``.

    Raises:
        UserError: there are no examples.
    """
    n = len(examples)
    if not n:
        raise UserError("there is nothing to evaluate: the split has no examples. Choose another split.")
    size = max(1, min(EXAMPLES, BATCH_NUMBERS // max(1, math.prod(examples.shape))))
    for number, start in enumerate(range(0, n, size)):
        raw, y = examples.batch(torch.arange(start, min(start + size, n)))
        raw = raw.to(device)
        own = seed_for(STREAM, seed, number)
        with fixed_noise(own, device):
            x = preprocessing(raw)
        yield Batch(x, None if y is None else y.to(device), raw, own)
        if tell is not None:
            tell(part, min(start + size, n), n)
