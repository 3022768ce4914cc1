"""Values in [0, 1] with a density that integrates to one."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from sfumato.distributions.discretized_logistic import log1mexp

SMALL = 0.05


@final
class ContinuousBernoulli(Distribution):
    r"""p(x) = exp(eta x) eta / (exp(eta) - 1) on [0, 1], each value an event of its own.

    With u = eta / 2 it is log p(x) = eta (x - 1/2) - log(sinh(u) / u). torch has one whose normaliser is that of a
    clamped probability, wrong where |eta| is above 16; this one is exact for every eta.

    Reference: The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders, Loaiza-Ganem and
    Cunningham, 2019, https://arxiv.org/abs/1907.06845.

    Args:
        logits: eta, (*batch).

    ``log_prob`` takes values in [0, 1], (*batch), and returns nats.

    >>> ContinuousBernoulli(torch.zeros(2)).log_prob(torch.tensor([0.0, 0.7]))
    tensor([0., 0.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """1/2 + (coth(u) - 1/u) / 2."""
        u = self.logits.abs() / 2
        safe = u.clamp(min=SMALL)
        away = torch.where(u < SMALL, u / 3 - u**3 / 45, 1 / safe.tanh() - 1 / safe)
        return 0.5 + 0.5 * self.logits.sign() * away

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``."""
        u = self.logits.abs() / 2
        safe = u.clamp(min=SMALL)
        square = u.clamp(max=SMALL).square()
        # eta (x - 1/2) - |u| without cancellation: -|eta| times the distance to the nearer end.
        far = torch.where(self.logits > 0, 1 - value, value)
        large = -2 * u * far - log1mexp(2 * safe) + (2 * safe).log()
        small = self.logits * (value - 0.5) - square / 6 + square.square() / 180
        return torch.where(u < SMALL, small, large)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return values in [0, 1], (*sample_shape, *batch), by inverting the distribution function."""
        with torch.no_grad():
            eta = self.logits.abs().clamp(min=1e-4)
            u = torch.rand((*sample_shape, *self.batch_shape), device=eta.device, dtype=eta.dtype)
            distance = -torch.log1p(u * torch.expm1(-eta)) / eta  # from the end that is likelier
            return torch.where(self.logits > 0, 1 - distance, distance).clamp(0, 1)
