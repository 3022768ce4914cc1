"""Data of a few levels with an order."""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Range, Shape, register

STEP_BOUNDS = (-10.0, 10.0)  # of the logarithm of the distance between thresholds
PLACE_BOUNDS = (-1e4, 1e4)


@final
@register("likelihood")
class Ordinal(Likelihood):
    r"""P(x_i <= k | z) = sigmoid(c_ik - eta_i) with learned thresholds c_i0 < c_i1 < ..., one number eta a value.

    x holds 0, 1, ..., levels - 1. Thresholds are c_i0 and steps exp(d_ik); they start where, at eta = 0, all levels are
    as likely.

    Reference: Regression Models for Ordinal Data, McCullagh, 1980, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x;
    in a VAE of mixed tables: Nazabal et al., 2020, https://arxiv.org/abs/1807.03653.

    Args:
        shape: the shape of one example.
        levels: the number of levels.

    Returns (call):
        a distribution of event shape ``shape`` over whole numbers.

    >>> import torch
    >>> Ordinal((2,), levels=4)(torch.zeros(1, 1, 2)).log_prob(torch.ones(1, 2)).exp().detach()
    tensor([0.0625])
    """

    discrete: ClassVar[bool] = True

    def __init__(self, shape: Shape, levels: Annotated[int, Range(2, 1_024)]) -> None:
        super().__init__(shape)
        self.levels = levels
        share = torch.arange(1, levels) / levels
        thresholds = (share / (1 - share)).log()
        self.first = nn.Parameter(thresholds[0].expand(self.shape).clone())
        self.log_steps = nn.Parameter(thresholds.diff().log().expand(*self.shape, -1).clone())

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the ordinal variables with ``parameters`` as eta."""
        location = soft_bound(parameters.squeeze(-len(self.shape) - 1), *PLACE_BOUNDS)
        steps = soft_bound(self.log_steps, *STEP_BOUNDS).exp()
        thresholds = torch.cat([self.first.unsqueeze(-1), self.first.unsqueeze(-1) + steps.cumsum(-1)], -1)
        return Independent(distributions.Ordinal(location, thresholds), len(self.shape), validate_args=False)
