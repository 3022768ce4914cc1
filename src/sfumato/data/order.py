"""Which examples make up a batch: a pure function of (seed, epoch, position), so that nothing needs to be saved.

An epoch is a permutation pi of 0 ... count - 1; the batch at position p is pi[p B], ..., pi[(p + 1) B - 1], and the
last one of an epoch holds what is left. With ceil(count / B) batches an epoch, step s (from 0, over the whole training)
is position s mod ceil(count / B) of epoch s div ceil(count / B).
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor

from sfumato.core.numerics import seed_for

_STREAM = 0x6F72646572  # "order": keeps these random numbers apart from others with the same seed


def epoch_order(count: int, seed: int, epoch: int, salt: int = 0) -> Int64[Tensor, " count"]:
    """Return the permutation of 0 ... count - 1 that is the order of ``epoch``.

    Args:
        count: the number of examples.
        seed: the training's seed.
        epoch: from 0.
        salt: another number gives another order, for instance after going back to a checkpoint.
    """
    generator = torch.Generator().manual_seed(seed_for(_STREAM, seed, salt, epoch))
    return torch.randperm(count, generator=generator)


def batch_at(step: int, count: int, batch_size: int, seed: int, salt: int = 0) -> Int64[Tensor, " batch"]:
    """Return the row numbers of the batch of ``step``; see :class:`Order`, which is faster for many."""
    return Order(count, batch_size, seed, salt)(step)


@final
class Order:
    """The batches of a whole training, with the current epoch's permutation kept.

    Args:
        count: the number of examples, at least 1.
        batch_size: at least 1.
        seed: the training's seed.
        salt: see :func:`epoch_order`.

    >>> order = Order(count=5, batch_size=2, seed=0)
    >>> [len(order(step)) for step in range(4)], order.steps_per_epoch
    ([2, 2, 1, 2], 3)
    """

    def __init__(self, count: int, batch_size: int, seed: int, salt: int = 0) -> None:
        if count < 1 or batch_size < 1:
            raise ValueError(f"count and batch_size must be at least 1; got {count} and {batch_size}")
        self.count, self.batch_size, self.seed, self.salt = count, batch_size, seed, salt
        self.steps_per_epoch = -(-count // batch_size)
        self._epoch = -1
        self._permutation: Tensor | None = None

    def __call__(self, step: int) -> Int64[Tensor, " batch"]:
        """Return the row numbers of the batch of ``step``, counted from 0 over the whole training."""
        if step < 0:
            raise ValueError(f"step must be at least 0; got {step}")
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._permutation is None or epoch != self._epoch:
            self._permutation = epoch_order(self.count, self.seed, epoch, self.salt)
            self._epoch = epoch
        return self._permutation[position * self.batch_size : (position + 1) * self.batch_size]
