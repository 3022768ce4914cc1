"""A distance between pictures, as a neural network sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from sfumato.core.numerics import sum_event


@final
class FeatureDistance(Distribution):
    r"""-|f(x) - f(mean)|^2 / (2 s^2) in the place of log p(x): a score and not a density (``has_density`` is False).

    Nobody knows what exp of it integrates to over x, and where f forgets something, x and another x score the same: so
    there is no evidence, and bounds refuse it.

    Reference: Perceptual Losses for Real-Time Style Transfer and Super-Resolution, Johnson et al., 2016,
    https://arxiv.org/abs/1603.08155; Deep Feature Consistent Variational Autoencoder, Hou et al., 2017,
    https://arxiv.org/abs/1610.00291.

    Args:
        location: the picture, (*batch, *event).
        features: f, from (..., *event) to (..., *features).
        scale: s, in the units of the features.
        event_dims: how many of the last dimensions are one event.

    ``log_prob`` takes (..., *event) and returns the score, (...).

    >>> FeatureDistance(torch.zeros(1, 2), lambda x: x, 1.0).log_prob(torch.ones(1, 2))
    tensor([-1.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_density = False

    def __init__(
        self, location: Tensor, features: Callable[[Tensor], Tensor], scale: float, event_dims: int = 1
    ) -> None:
        self.location, self.features, self.scale = location, features, scale
        split = location.ndim - event_dims
        super().__init__(location.shape[:split], location.shape[split:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The picture."""
        return self.location

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the score of ``value``, with a gradient that reaches the picture through f."""
        difference = self.features(self.location) - self.features(value)
        squared = (difference / self.scale).square()
        lead = max(len(self.batch_shape), value.ndim - len(self.event_shape))
        return -0.5 * sum_event(squared, squared.ndim - lead)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return the picture again and again, (*sample_shape, *batch, *event): there is nothing to draw from."""
        return self.location.detach().expand(*sample_shape, *self.location.shape)
