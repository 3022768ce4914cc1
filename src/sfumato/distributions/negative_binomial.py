"""Counts that vary more than their mean says."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F


@final
class NegativeBinomial(Distribution):
    r"""Counts of mean m and variance m + m^2 / r, each value an event of its own.

    P(x) = Gamma(x + r) / (Gamma(r) x!) (r / (r + m))^r (m / (r + m))^x: a Poisson whose rate is Gamma distributed, with
    shape r, the inverse dispersion. For r -> infinity it is the Poisson. It adds up in float64: for a large r the
    log-Gammas cancel.

    Reference: Differential expression analysis for sequence count data, Anders and Huber, 2010,
    https://doi.org/10.1186/gb-2010-11-10-r106 (mean and dispersion); Deep generative modeling for single-cell
    transcriptomics, Lopez et al., 2018, https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        log_mean: log m, (*batch).
        log_inverse_dispersion: log r, broadcast with ``log_mean``.

    ``log_prob`` takes whole numbers from 0, (*batch), and returns nats in the type of ``log_mean``.

    >>> NegativeBinomial(torch.zeros(2), torch.zeros(())).log_prob(torch.tensor([0.0, 1.0])).exp()
    tensor([0.5000, 0.2500])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, log_mean: Tensor, log_inverse_dispersion: Tensor) -> None:
        self.log_mean: Tensor = log_mean + torch.zeros_like(log_inverse_dispersion)
        self.log_r = log_inverse_dispersion  # not repeated for every example: its log-Gamma is not cheap
        super().__init__(self.log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.log_mean.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``."""
        x, log_r = value.double(), self.log_r.double()
        r, logit = log_r.exp(), self.log_mean.double() - log_r
        choices = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
        return (choices + r * F.logsigmoid(-logit) + x * F.logsigmoid(logit)).to(self.log_mean.dtype)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return counts, (*sample_shape, *batch): first a rate, then a Poisson of it."""
        with torch.no_grad():
            r = self.log_r.exp().expand(*sample_shape, *self.batch_shape).contiguous()
            return torch.poisson(torch._standard_gamma(r) * (self.log_mean - self.log_r).exp())
