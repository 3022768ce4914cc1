"""Counts with zeros of two kinds: nothing was there, or it was missed."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from sfumato import distributions
from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register
from sfumato.distributions import GivenTotal
from sfumato.likelihoods.negative_binomial import NegativeBinomial
from sfumato.likelihoods.poisson import Poisson

LOGIT_BOUNDS = (-30.0, 30.0)
START = -4.0  # the logit of pi that a fresh decoder gives: few extra zeros


@final
@register("likelihood")
class ZeroInflated(Likelihood):
    r"""P(0) = pi_i + (1 - pi_i) P_0(0), and P(x) = (1 - pi_i) P_0(x) for x > 0; the logit of pi_i from the decoder,
    whose last number of a value is that logit plus 4.

    Reference: Deep generative modeling for single-cell transcriptomics, Lopez et al., 2018,
    https://doi.org/10.1038/s41592-018-0229-2 (around a negative binomial); Zero-Inflated Poisson Regression, Lambert,
    1992, https://doi.org/10.2307/1269547.

    Args:
        likelihood: P_0, a likelihood of counts; the decoder gives one number a value more than for it.

    Returns (call):
        a distribution of event shape ``shape`` over whole numbers.

    >>> import torch
    >>> from sfumato.likelihoods import NegativeBinomial
    >>> ZeroInflated(NegativeBinomial((1,)))(torch.zeros(1, 2, 1)).log_prob(torch.zeros(1, 1)).exp().detach()
    tensor([0.5090])
    """

    discrete: ClassVar[bool] = True

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__(likelihood.shape)
        if not isinstance(likelihood, NegativeBinomial | Poisson):
            raise UserError(
                f"ZeroInflated needs a likelihood of counts; got {type(likelihood).__name__}. Use NegativeBinomial."
            )
        self.likelihood = likelihood
        self.numbers_per_value = likelihood.numbers_per_value + 1

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the zero-inflated counts; the last number of a value is the logit."""
        axis = -len(self.shape) - 1
        numbers, last = torch.split(parameters, [self.numbers_per_value - 1, 1], axis)
        logits = soft_bound(last.squeeze(axis) + START, *LOGIT_BOUNDS)
        whole = self.likelihood(numbers)
        if isinstance(whole, GivenTotal):
            return whole.with_counts(lambda counts: distributions.ZeroInflated(counts, logits))
        assert isinstance(whole, Independent)
        inflated = distributions.ZeroInflated(whole.base_dist, logits)
        return Independent(inflated, len(self.shape), validate_args=False)
