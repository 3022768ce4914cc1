"""A point mass: what a posterior becomes when its noise has died."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class Delta(Distribution):
    """All mass at ``value``, P(z = value) = 1. It has samples and no density, and says so: ``has_density`` is False.

    Reference: the limit sigma -> 0 of N(value, sigma^2), in which the VAE becomes an autoencoder (the article page).

    Args:
        value: (*batch, *event).
        event_dims: how many of the last dimensions are one event.

    >>> Delta(torch.zeros(2, 3)).rsample((5,)).shape
    torch.Size([5, 2, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    has_density = False

    def __init__(self, value: Tensor, event_dims: int = 1) -> None:
        self.value = value
        split = value.ndim - event_dims
        super().__init__(value.shape[:split], value.shape[split:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.value

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return the point again and again, (*sample_shape, *batch, *event)."""
        return self.value.expand(*sample_shape, *self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: a point mass has no density."""
        raise NotImplementedError("a point mass has no density, so no log_prob; use a posterior with noise")
