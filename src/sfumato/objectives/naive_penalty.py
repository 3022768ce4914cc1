r"""The two naive penalties, for comparison."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch

from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.numerics import sum_event
from sfumato.core.schedules import Step
from sfumato.core.spec import NonNegative, register
from sfumato.core.terms import Terms
from sfumato.objectives.batch import normal_of
from sfumato.objectives.values import kl_of, reported, with_penalties


@final
@register("objective")
class NaivePenalty(Objective):
    r"""loss = -E_q[log p(x | z)] + a |mu|^2 + b |log sigma^2|^2: what one might write down instead of the KL term.

    With ``variance="difference"`` the last penalty is |sigma^2 - 1|^2, which also is 0 at sigma = 1 alone.

    The ratio of a and b has to be chosen, and no choice makes it a bound on the evidence; the reported ``elbo`` is the
    true one all the same.

    Reference: Su Jianlin's first essay on the VAE (see the article page).

    Args:
        mean_weight: a.
        variance_weight: b.
        variance: the penalty on the variance: ``log``, |log sigma^2|^2, or ``difference``, |sigma^2 - 1|^2.

    Returns (call):
        losses {"model": (batch,)}; values ``mean_penalty`` = |mu|^2, ``variance_penalty`` = |log sigma^2|^2 (or
        |sigma^2 - 1|^2) and those of :func:`~sfumato.objectives.values.reported`.

    >>> NaivePenalty(mean_weight=1.0, variance_weight=0.1).samples
    1
    """

    numbers: ClassVar[tuple[str, ...]] = ("mean_weight", "variance_weight")

    def __init__(
        self,
        mean_weight: NonNegative = 1.0,
        variance_weight: NonNegative = 1.0,
        variance: Literal["log", "difference"] = "log",
    ) -> None:
        super().__init__()
        self.mean_weight, self.variance_weight, self.variance = mean_weight, variance_weight, variance

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference."""
        reconstruction = -terms.log_likelihood.mean(0)
        means, variances = [], []
        for level in terms.levels:
            normal = normal_of(level, "NaivePenalty")
            dims, batch = len(level.posterior.event_shape), terms.x.shape[0]
            means.append(sum_event(normal.loc.square(), dims).reshape(-1, batch).mean(0))
            off = 2 * normal.scale.log() if self.variance == "log" else normal.scale.square() - 1
            variances.append(sum_event(off.square(), dims).reshape(-1, batch).mean(0))
        mean_penalty, variance_penalty = torch.stack(means).sum(0), torch.stack(variances).sum(0)
        loss = reconstruction + self.mean_weight * mean_penalty + self.variance_weight * variance_penalty
        values = reported(terms, kl_of(terms))
        values |= {"mean_penalty": mean_penalty.detach(), "variance_penalty": variance_penalty.detach()}
        return ObjectiveOutput({"model": with_penalties(loss, terms)}, values)
