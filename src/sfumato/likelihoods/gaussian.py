r"""Real data; the variance settles the ratio between reconstruction and KL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, final

import torch
from torch import Tensor, distributions, nn

from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Positive, Shape, register
from sfumato.distributions import OptimalNormal

LOG_VARIANCE_BOUNDS = (-14.0, 14.0)
MEMORY = 0.99


@final
@register("likelihood")
class Gaussian(Likelihood):
    r"""p(x | z) = N(x; mean, variance), the mean given by the decoder.

    -log p = D/2 log(2 pi v) + |x - mean|^2 / (2 v): the squared error of the article, with the weight that v gives it.

    Reference: Simple and Effective VAE Training with Calibrated Decoders, Rybkin et al., 2021,
    https://arxiv.org/abs/2006.13202 (``optimal`` and ``shared``).

    Args:
        shape: the shape of one example.
        variance: ``fixed`` at ``scale``^2; ``shared``, one learned number; ``per_dimension``, one learned number for
            each dimension; ``predicted``, given by the decoder for each value (2 numbers a value); ``optimal``, the
            mean squared error of each training batch, whose running average is used outside training.
        scale: the standard deviation, where fixed, or at the start, in the units of x.

    Returns (call):
        a normal of event shape ``shape``.

    >>> import torch
    >>> Gaussian(shape=(4,), variance="fixed", scale=0.1)(torch.zeros(2, 1, 4)).mean.shape
    torch.Size([2, 4])
    """

    log_variance: Tensor

    def __init__(
        self,
        shape: Shape,
        variance: Literal["fixed", "shared", "per_dimension", "predicted", "optimal"] = "shared",
        scale: Positive = 1.0,
    ) -> None:
        super().__init__(shape)
        self.variance = variance
        self.numbers_per_value = 2 if variance == "predicted" else 1
        start = 2 * math.log(scale)
        if variance == "shared":
            self.log_variance = nn.Parameter(torch.tensor(start))
        elif variance == "per_dimension":
            self.log_variance = nn.Parameter(torch.full(tuple(shape), start))
        else:
            self.register_buffer("log_variance", torch.tensor(start))
        if variance == "optimal":
            self.batch_mean: Callable[[Tensor], Tensor] = torch.mean  # training replaces it, over several processes

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the normal; in training with ``optimal`` variance, the best one for the batch."""
        mean, *rest = parameters.unbind(-len(self.shape) - 1)
        if self.variance == "optimal" and self.training:
            floor = math.exp(LOG_VARIANCE_BOUNDS[0])
            return OptimalNormal(mean, len(self.shape), self._remember, floor, self.batch_mean)
        log_variance = rest[0] + self.log_variance if rest else self.log_variance
        if self.variance != "fixed":
            log_variance = soft_bound(log_variance, *LOG_VARIANCE_BOUNDS)
        return independent_normal(mean, log_variance.expand_as(mean), len(self.shape))

    def accept_step(self) -> None:
        """Move the running optimal log-variance towards the last batch's; in logarithms it soon forgets its start."""
        if self.remembered is not None:
            self.log_variance.lerp_(self.remembered.log(), 1 - MEMORY)
            self.remembered = None

    def _remember(self, variance: Tensor) -> None:
        self.remembered = variance
