r"""Latent dimensions that vary by themselves, by their covariance."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import NonNegative, register
from sfumato.core.terms import Terms
from sfumato.objectives.batch import for_each, normals


@final
@register("objective")
class DIP(Objective):
    r"""loss = a sum_{i != j} C_ij^2 + b sum_i (C_ii - 1)^2 with a covariance C over the batch.

    ``I``: C = Cov[mu(x)]; ``II``: C = Cov[mu(x)] + E[diag sigma^2(x)], the covariance of the aggregate posterior. All
    levels are one row. A term of a sum: ``ELBO() + DIP()``.

    Reference: Variational Inference of Disentangled Latent Concepts from Unlabeled Observations, Kumar et al., 2018,
    https://arxiv.org/abs/1711.00848.

    Args:
        kind: I or II.
        off_diagonal: a.
        diagonal: b.

    Returns (call):
        losses {"model": (batch,)}, the same for every example of the batch, without unit, and the value ``dip``.

    >>> DIP(kind="II", off_diagonal=5.0, diagonal=5.0).any_samples
    True
    """

    numbers: ClassVar[tuple[str, ...]] = ("off_diagonal", "diagonal")
    any_samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(
        self, kind: Literal["I", "II"] = "I", off_diagonal: NonNegative = 10.0, diagonal: NonNegative = 100.0
    ) -> None:
        super().__init__()
        self.kind, self.off_diagonal, self.diagonal = kind, off_diagonal, diagonal

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference."""
        columns = zip(*(normals(level, "DIP") for level in terms.levels), strict=True)
        mean, deviation = (self.whole(torch.cat(column, 1)) for column in columns)
        loss = for_each(self._penalty(mean, deviation), len(terms.x), len(mean))
        return ObjectiveOutput({MODEL: loss}, {"dip": loss.detach()})

    def _penalty(self, mean: Tensor, deviation: Tensor) -> Tensor:
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / len(mean)
        if self.kind == "II":
            covariance = covariance + deviation.square().mean(0).diag()
        own = covariance.diagonal()
        between = covariance.square().sum() - own.square().sum()
        return self.off_diagonal * between + self.diagonal * (own - 1).square().sum()
