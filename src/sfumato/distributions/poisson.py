"""Counts whose variance is their mean."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class Poisson(Distribution):
    r"""log P(x) = x log m - m - log x!, each value an event of its own.

    torch has one, of the rate. This one takes its logarithm and adds up in float64: for counts in the thousands the
    terms are large and cancel, and float32 would lose hundredths of a nat on every value.

    Reference: Recherches sur la probabilite des jugements, Poisson, 1837, section 81.

    Args:
        log_mean: log m, (*batch).

    ``log_prob`` takes whole numbers from 0, (*batch), and returns nats in the type of ``log_mean``.

    >>> Poisson(torch.zeros(2)).log_prob(torch.tensor([0.0, 2.0]))
    tensor([-1.0000, -1.6931])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, log_mean: Tensor) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.log_mean.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``."""
        x, log_mean = value.double(), self.log_mean.double()
        return (x * log_mean - log_mean.exp() - torch.lgamma(x + 1)).to(self.log_mean.dtype)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return counts, (*sample_shape, *batch)."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(*sample_shape, *self.batch_shape))
