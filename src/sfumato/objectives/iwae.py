r"""The importance-weighted bound."""

from __future__ import annotations

from typing import final

from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.numerics import logmeanexp
from sfumato.core.schedules import Step
from sfumato.core.spec import Size, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, needs_density, reported, with_penalties


@final
@register("objective")
class IWAE(Objective):
    r"""loss = -log 1/K sum_k w_k with w_k = p(x | z_k) p(z_k) / q(z_k | x), z_k from q(z | x); nats for each example.

    Its expectation rises with K to log p(x). The gradient is the plain one, through the bound itself.

    Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519.

    Args:
        samples: K, used exactly.

    Returns (call):
        losses {"model": (batch,)}; values ``iwae`` (the bound) and those of
        :func:`~sfumato.objectives.values.reported`.

    >>> IWAE(samples=5).samples
    5
    """

    def __init__(self, samples: Size = 5) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference."""
        needs_density(terms, "IWAE")
        assert terms.log_posterior is not None
        bound = logmeanexp(terms.log_likelihood + terms.log_prior - terms.log_posterior)
        values = {"iwae": bound.detach(), **reported(terms, kl_of(terms))}
        return ObjectiveOutput({"model": with_penalties(-bound, terms)}, values)
