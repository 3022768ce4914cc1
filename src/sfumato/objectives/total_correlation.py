r"""How far the dimensions of the aggregate posterior are from independent, by the batch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import Range, register
from sfumato.core.terms import Terms
from sfumato.objectives.batch import codes, for_each, normals


@final
@register("objective")
class TotalCorrelation(Objective):
    r"""loss = E[log q(z) - sum_d log q(z_d)], nats, with q(z) = 1/N sum_n q(z | x_n) estimated from a batch.

    With B examples, z_i from q(z | x_i), log q(z_i) and every log q(z_id) are log sum_j W_ij q(. | x_j), where

        ``weighted``:    W_ij = 1 / (N B), which is too low by log N on average for a large batch;
        ``stratified``:  W_ii = 1 / N, W_ij = 1 / M, but (N - M) / (N M) for one j, M = B - 1: no bias in q(z).

    A term of a sum: beta-TC-VAE is ``ELBO() + (beta - 1) * TotalCorrelation(N)``. Levels above each other are one row.

    Reference: Isolating Sources of Disentanglement in Variational Autoencoders, Chen et al., 2018,
    https://arxiv.org/abs/1802.04942.

    Args:
        size: N, the examples of the training split.
        sampling: weighted or stratified.

    Returns (call):
        losses {"model": (batch,)}, the same for every example of the batch, and the value ``total_correlation``, nats.

    >>> TotalCorrelation(size=60_000).any_samples
    True
    """

    any_samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(
        self, size: Annotated[int, Range(1, 10**12)], sampling: Literal["weighted", "stratified"] = "weighted"
    ) -> None:
        super().__init__()
        self.size, self.sampling = size, sampling

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference."""
        columns = zip(*(normals(level, "TotalCorrelation") for level in terms.levels), strict=True)
        mean, deviation = (self.whole(torch.cat(column, 1)) for column in columns)
        z = self.whole(codes(terms))
        joint, each = self.log_densities(z, mean, deviation)
        loss = for_each((joint - each.sum(-1)).mean(), len(terms.x), len(z))
        return ObjectiveOutput({MODEL: loss}, {"total_correlation": loss.detach()})

    def log_densities(
        self, z: Float[Tensor, "batch latent"], mean: Float[Tensor, "batch latent"], deviation: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch latent"]]:
        """Return the estimates of log q(z_i), and of log q(z_id) for every dimension, nats."""
        pairs: Tensor = Normal(mean, deviation, validate_args=False).log_prob(z.unsqueeze(1))  # type: ignore[no-untyped-call]
        weights = self._weights(len(z)).to(pairs).log()
        return (weights + pairs.sum(-1)).logsumexp(1), (weights.unsqueeze(-1) + pairs).logsumexp(1)

    def _weights(self, batch: int) -> Tensor:
        """Return W, (batch, batch), float64. A batch is taken for no larger than the split."""
        size, others = max(self.size, batch), batch - 1
        if self.sampling == "weighted" or not others:
            return torch.full((batch, batch), 1 / (size * batch) if others else 1.0, dtype=torch.float64)
        weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
        places = torch.arange(batch)
        weights[places, (places + 1) % batch] = (size - others) / (size * others)
        weights[places, places] = 1 / size
        return weights
