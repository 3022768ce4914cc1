"""Ordered levels, by cumulative logits."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from sfumato.distributions.discretized_logistic import log1mexp


@final
class Ordinal(Distribution):
    r"""P(x <= k) = sigmoid(c_k - eta) for the levels k = 0 ... L - 2, each value an event of its own.

    A logistic variable around eta is cut at the thresholds c_0 < c_1 < ...; a larger eta means higher levels.

    Reference: Regression Models for Ordinal Data, McCullagh, 1980, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x.

    Args:
        location: eta, (*batch).
        thresholds: c, rising, (..., L - 1), broadcast with (*batch, L - 1).

    ``log_prob`` takes the levels 0 ... L - 1, (*batch), and returns nats.

    >>> Ordinal(torch.zeros(1), torch.tensor([-1.0986, 1.0986])).log_prob(torch.tensor([1.0])).exp()
    tensor([0.5000])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, location: Tensor, thresholds: Tensor) -> None:
        self.location, self.thresholds = location, thresholds
        super().__init__(location.shape, validate_args=False)

    @property
    def logits(self) -> Tensor:
        """log P(k) of every level, (*batch, L)."""
        c = self.thresholds - self.location.unsqueeze(-1)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), without cancellation.
        inside = F.logsigmoid(c[..., 1:]) + F.logsigmoid(-c[..., :-1]) + log1mexp(self.thresholds.diff(dim=-1))
        return torch.cat([F.logsigmoid(c[..., :1]), inside, F.logsigmoid(-c[..., -1:])], -1)

    @property
    def probs(self) -> Tensor:
        """P(k) of every level, (*batch, L)."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """The expected level."""
        return self.probs @ torch.arange(self.probs.shape[-1], dtype=self.location.dtype, device=self.location.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``."""
        logits = self.logits + torch.zeros_like(value).unsqueeze(-1)
        index = value.long().expand(logits.shape[:-1]).unsqueeze(-1)
        return logits.gather(-1, index).squeeze(-1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return levels, (*sample_shape, *batch)."""
        with torch.no_grad():
            noise = torch.rand((*sample_shape, *self.batch_shape, 1), device=self.location.device).clamp(1e-7, 1 - 1e-7)
            latent = self.location.unsqueeze(-1) + noise.logit()
            return (latent > self.thresholds).sum(-1).to(self.location.dtype)
