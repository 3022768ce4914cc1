"""A point mass: what a posterior becomes when its noise has died."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class Delta(Distribution):
    """All mass at ``value``, P(z = value) = 1. It has samples and no density, and says so: ``has_density`` is False.

    Where z is one of finitely many, written as ``codes``, probabilities take the place of densities: then log P(value)
    = 0 counts as one, and KL to a distribution of codes P is -log P(value).

    Reference: the limit sigma -> 0 of N(value, sigma^2), in which the VAE becomes an autoencoder (the article page).

    Args:
        value: (*batch, *event).
        event_dims: how many of the last dimensions are one event.
        penalties: name -> (*batch,), what the point costs in training beside what the objective asks for.
        codes: (*batch, codes), whole numbers that stand for the value.

    >>> Delta(torch.zeros(2, 3)).rsample((5,)).shape
    torch.Size([5, 2, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        value: Tensor,
        event_dims: int = 1,
        penalties: Mapping[str, Tensor] | None = None,
        codes: Tensor | None = None,
    ) -> None:
        self.value, self.penalties, self.codes = value, dict(penalties or {}), codes
        split = value.ndim - event_dims
        super().__init__(value.shape[:split], value.shape[split:], validate_args=False)

    @property
    def has_density(self) -> bool:
        """Whether log P means anything: for codes."""
        return self.codes is not None

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.value

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return the point again and again, (*sample_shape, *batch, *event)."""
        return self.value.expand(*sample_shape, *self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P of codes, 0 at the point and -inf elsewhere; refuse without: a point mass has no density."""
        if self.codes is None:
            raise NotImplementedError("a point mass has no density, so no log_prob; use a posterior with noise")
        same = (value == self.value).flatten(value.ndim - len(self.event_shape)).all(-1)
        return torch.where(same, 0.0, -math.inf).to(self.value.dtype)
