"""Counts whose means are shares of a total that is read off the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from sfumato.core.numerics import sum_event


@final
class GivenTotal(Distribution):
    r"""log P(x | z, l) at l = sum_i x_i, the library size, with means m_i = l s_i and shares s = softmax(logits).

    The total is a function of x, so this is not log p(x | z): it scores how l counts are spread, given that there are
    l. Summed over all x of one total it gives at most 1, so it bounds log p(x | z, l) from below. It compares with
    other scores given the total, as in scVI, and not with likelihoods of x.

    Reference: Deep generative modeling for single-cell transcriptomics, Lopez et al., 2018,
    https://doi.org/10.1038/s41592-018-0229-2; observed library size: scvi-tools, ``use_observed_lib_size``.

    Args:
        logits: (*batch, *event).
        counts: log m -> the distribution of the counts, each value an event of its own.
        total: the total that samples and means are made for.
        event_dims: how many of the last dimensions are one event.

    ``log_prob`` takes whole numbers from 0, (..., *event), and returns nats, (...).

    >>> from sfumato.distributions import Poisson
    >>> GivenTotal(torch.zeros(2), Poisson, total=6.0).mean
    tensor([3., 3.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self, logits: Tensor, counts: Callable[[Tensor], Distribution], total: float, event_dims: int = 1
    ) -> None:
        split = logits.ndim - event_dims
        self.log_shares = logits.flatten(split).log_softmax(-1).reshape(logits.shape)
        self.counts, self.total, self.event_dims = counts, total, event_dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The means for ``total``."""
        return self._of(self.log_shares.new_tensor(self.total)).mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the score of ``value`` given its total."""
        total = sum_event(value, self.event_dims).clamp(min=1e-6)
        return self._of(total.reshape(*total.shape, *[1] * self.event_dims)).log_prob(value)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return counts for ``total``, (*sample_shape, *batch, *event)."""
        return self._of(self.log_shares.new_tensor(self.total)).sample(torch.Size(sample_shape))

    def _of(self, total: Tensor) -> Distribution:
        return Independent(self.counts(self.log_shares + total.log()), self.event_dims, validate_args=False)

    def with_counts(self, change: Callable[[Distribution], Distribution]) -> GivenTotal:
        """Return the same shares with ``change`` of the counts in their place."""
        counts = self.counts
        return GivenTotal(self.log_shares, lambda log_mean: change(counts(log_mean)), self.total, self.event_dims)
