r"""The variational Renyi bound."""

from __future__ import annotations

from typing import Annotated, final

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.numerics import logmeanexp
from sfumato.core.schedules import Step
from sfumato.core.spec import Range, Size, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, log_weights, reported, with_penalties


@final
@register("objective")
class Renyi(Objective):
    r"""loss = -1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha), w_k = p(x, z_k) / q(z_k | x), z_k from q; nats.

    In the limit alpha = 1 it is the ELBO, at alpha = 0 it is :class:`~sfumato.objectives.IWAE`. With alpha < 0 and many
    draws it exceeds log p(x): no bound then, and not called one.

    Reference: Renyi Divergence Variational Inference, Li and Turner, 2016, https://arxiv.org/abs/1602.02311.

    Args:
        alpha: the order; larger ones make q cover less.
        samples: K, used exactly.

    Returns (call):
        losses {"model": (batch,)}; values ``renyi`` (minus the loss) and those of
        :func:`~sfumato.objectives.values.reported`.

    >>> Renyi(alpha=0.5, samples=10).samples
    10
    """

    def __init__(self, alpha: Annotated[float, Range(-1e3, 1e3)] = 0.5, samples: Size = 5) -> None:
        super().__init__()
        self.alpha, self.samples = alpha, samples

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference."""
        weights, power = log_weights(terms, "Renyi"), 1 - self.alpha
        bound = logmeanexp(power * weights) / power if power else weights.mean(0)
        values = {"renyi": bound.detach(), **reported(terms, kl_of(terms))}
        return ObjectiveOutput({MODEL: with_penalties(-bound, terms)}, values)
