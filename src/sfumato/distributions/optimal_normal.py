r"""A normal whose one variance is the best for the batch that it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from sfumato.core.gaussians import independent_normal


@final
class OptimalNormal(Distribution):
    r"""N(mean, v I) with v = the mean squared error of the batch: the v that maximises the batch's likelihood.

    The derivative with respect to v vanishes at its optimum, so v is a constant for the gradient. It looks at the data
    that it scores: fit for training only, and :class:`~sfumato.likelihoods.Gaussian` leaves it in evaluation.

    Reference: Simple and Effective VAE Training with Calibrated Decoders, Rybkin et al., 2021,
    https://arxiv.org/abs/2006.13202.

    Args:
        mean: (*batch, *event).
        event_dims: how many of the last dimensions are one event.
        remember: called with v, a tensor of shape ().
        floor: the smallest v.
        average: the mean over the batch, another one than torch's where the batch is spread over processes.

    ``log_prob`` returns nats, (*batch).

    >>> import torch
    >>> normal = OptimalNormal(torch.zeros(2, 1), event_dims=1, remember=print, floor=1e-6)
    >>> log_density = normal.log_prob(torch.tensor([[1.0], [-3.0]]))
    tensor(5.)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        mean: Tensor,
        event_dims: int,
        remember: Callable[[Tensor], None],
        floor: float,
        average: Callable[[Tensor], Tensor] = torch.mean,
    ) -> None:
        self.location, self.event_dims, self.remember, self.floor = mean, event_dims, remember, floor
        self.average = average
        split = mean.ndim - event_dims
        super().__init__(mean.shape[:split], mean.shape[split:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.location

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value`` at the variance that is best for it."""
        variance = self.average((value - self.location).detach().square()).clamp(min=self.floor)
        self.remember(variance)
        log_variance = variance.log().expand_as(self.location)
        normal: Distribution = independent_normal(self.location, log_variance, self.event_dims)
        return normal.log_prob(value)
