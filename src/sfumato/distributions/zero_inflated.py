"""Counts with more zeros than their distribution has."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F


@final
class ZeroInflated(Distribution):
    r"""P(0) = pi + (1 - pi) P_0(0), and P(x) = (1 - pi) P_0(x) for x > 0, each value an event of its own.

    Reference: Zero-Inflated Poisson Regression, Lambert, 1992, https://doi.org/10.2307/1269547; Deep generative
    modeling for single-cell transcriptomics, Lopez et al., 2018, https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        counts: P_0, with ``log_prob``, ``mean`` and ``sample``, (*batch).
        logits: of pi, the share of zeros that P_0 knows nothing of; (*batch).

    ``log_prob`` takes whole numbers from 0, (*batch), and returns nats.

    >>> from sfumato.distributions import Poisson
    >>> ZeroInflated(Poisson(torch.zeros(1)), torch.zeros(1)).log_prob(torch.zeros(1)).exp()
    tensor([0.6839])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, counts: Distribution, logits: Tensor) -> None:
        self.counts, self.logits = counts, logits
        super().__init__(counts.batch_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, zeros included."""
        return torch.sigmoid(-self.logits) * self.counts.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``."""
        counted = F.logsigmoid(-self.logits) + self.counts.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(F.logsigmoid(self.logits), counted), counted)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return counts, (*sample_shape, *batch)."""
        with torch.no_grad():
            counts = self.counts.sample(torch.Size(sample_shape))
            return torch.where(torch.rand_like(counts) < torch.sigmoid(self.logits), 0.0, counts)
