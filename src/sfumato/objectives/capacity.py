r"""A KL that is led along a schedule."""

from __future__ import annotations

from typing import ClassVar, final

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Constant, Schedule, Step
from sfumato.core.spec import NonNegative, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, needs_density


@final
@register("objective")
class Capacity(Objective):
    r"""loss = |KL(q || p) - C s(t)|, of all levels together, nats: how far the KL is from what it may have.

    A term of a sum: the disentangled beta-VAE is ``ELBO(beta=0) + gamma * Capacity(25.0, WarmUp(steps))``.

    Reference: Understanding Disentangling in beta-VAE, Burgess et al., 2018, https://arxiv.org/abs/1804.03599.

    Args:
        capacity: C, nats at the end.
        schedule: s, ending at 1.

    Returns (call):
        losses {"model": (batch,)} and the value ``capacity`` = C s(t), nats.

    >>> Capacity(25.0).any_samples
    True
    """

    numbers: ClassVar[tuple[str, ...]] = ("capacity",)
    any_samples: ClassVar[bool] = True

    def __init__(self, capacity: NonNegative, schedule: Schedule = Constant()) -> None:  # noqa: B008 - immutable
        super().__init__()
        self.capacity, self.schedule = capacity, schedule

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss and the capacity at ``step``."""
        needs_density(terms, "Capacity")
        kl = kl_of(terms)
        assert kl is not None
        total = kl.sum(0)
        allowed = total.new_ones(()) * (self.capacity * self.schedule(step))
        return ObjectiveOutput({MODEL: (total - allowed).abs()}, {"capacity": allowed.expand_as(total).detach()})
