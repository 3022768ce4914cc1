r"""Independent categories, written as one-hot rows; relaxed where gradients must flow through draws."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn import functional as F


@final
class OneHot(Distribution):
    r"""p(z) = prod_n prod_k pi_nk^z_nk for z of N rows of which each is one of the K unit vectors.

    With a ``temperature`` t draws are relaxed, z_n = softmax((log pi_n + g_n) / t) with Gumbel noise g: no unit
    vectors, but close to them for small t, and with gradients. log p(z) = sum z log pi is taken of them too; it is
    exact at the unit vectors alone. KL to another is exact whatever the draws are, sum pi (log pi - log pi').

    Reference: Categorical Reparameterization with Gumbel-Softmax, Jang et al., 2017, https://arxiv.org/abs/1611.01144;
    The Concrete Distribution, Maddison et al., 2017, https://arxiv.org/abs/1611.00712.

    Args:
        logits: log pi but for a constant of each row, (*batch, N, K).
        temperature: t; None for draws that are unit vectors.

    ``log_prob`` takes (..., *batch, N, K) and returns nats, (..., *batch).

    >>> coin = OneHot(torch.zeros(1, 2))
    >>> coin.log_prob(torch.tensor([[0.0, 1.0]])).exp()
    tensor(0.5000)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float | None = None) -> None:
        self.log_probabilities, self.temperature = logits.log_softmax(-1), temperature
        super().__init__(logits.shape[:-2], logits.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """pi, (*batch, N, K)."""
        return self.log_probabilities.exp()

    @property
    def variance(self) -> Tensor:
        """pi (1 - pi)."""
        return self.mean * (1 - self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        return (value * self.log_probabilities).flatten(-2).sum(-1)

    def entropy(self) -> Tensor:
        """Return H, nats, (*batch)."""
        return -(self.mean * self.log_probabilities).flatten(-2).sum(-1)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws, (*sample_shape, *batch, N, K); without a temperature they have no gradient."""
        shape = (*sample_shape, *self.log_probabilities.shape)
        noise = -torch.empty(shape, dtype=self.mean.dtype, device=self.mean.device).exponential_().log()
        noisy = self.log_probabilities + noise
        if self.temperature is not None:
            return (noisy / self.temperature).softmax(-1)
        return F.one_hot(noisy.argmax(-1), noisy.shape[-1]).to(noisy.dtype)


@register_kl(OneHot, OneHot)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl(q: OneHot, p: OneHot) -> Tensor:
    return (q.mean * (q.log_probabilities - p.log_probabilities)).flatten(-2).sum(-1)
