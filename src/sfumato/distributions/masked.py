r"""A distribution of many values of which some were not observed."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints


@final
class Masked(Distribution):
    r"""log p(x_observed | z) = sum over the values d of x that are not NaN of log p(x_d | z).

    The values are independent given z, so leaving one out integrates it out: the density of what was seen is exact.
    What is missing adds neither to the value nor to the gradient.

    Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
    https://arxiv.org/abs/1812.02633.

    Args:
        whole: p(x | z) of complete data, independent in every value.

    ``log_prob`` takes (..., *event) with NaN where a value is missing, and returns nats, (...).

    >>> from sfumato.core.gaussians import independent_normal
    >>> normal = Masked(independent_normal(torch.zeros(2), torch.zeros(2)))
    >>> normal.log_prob(torch.tensor([[0.0, 0.0], [0.0, torch.nan], [torch.nan, torch.nan]]))
    tensor([-1.8379, -0.9189,  0.0000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, whole: Independent[Distribution]) -> None:
        self.whole = whole
        super().__init__(whole.batch_shape, whole.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of complete data."""
        return self.whole.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of the values that are there."""
        missing = value.isnan()
        each = self.whole.base_dist.log_prob(torch.where(missing, 0.0, value))
        each = torch.where(missing, 0.0, each)
        return each.flatten(each.ndim - len(self.event_shape)).sum(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw complete data."""
        return self.whole.sample(torch.Size(sample_shape))
