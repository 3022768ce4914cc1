r"""The evidence lower bound."""

from __future__ import annotations

from typing import ClassVar, final

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.schedules import Constant, Schedule, Step
from sfumato.core.spec import NonNegative, Size, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import KL, kl_of, needs_density, reported, with_penalties

END = 10**15  # later than any step


@final
@register("objective")
class ELBO(Objective):
    r"""loss = -r E_q[log p(x | z)] + beta s(t) sum_l max(free_bits, KL_l), one number for each example, nats.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114; beta-VAE,
    Higgins et al., 2017; free bits: Improving Variational Inference with Inverse Autoregressive Flow, Kingma et al.,
    2016, https://arxiv.org/abs/1606.04934 (here for each level and example); the path gradient: Sticking the Landing,
    Roeder et al., 2017, https://arxiv.org/abs/1703.09194.

    Args:
        beta: the weight of the KL term at the end of the schedule.
        free_bits: nats of each level's KL that cost nothing.
        schedule: the factor s(t) on beta, ending at 1.
        kl: ``analytic``, the closed form where there is one; ``sampled``, log q - log p; ``path``, the same with a
            gradient that holds the parameters of log q fast: on average the same, without noise where q is exact.
        samples: draws of z for each example.
        reconstruction: r; 0 leaves the reconstruction to another term of a sum.

    Returns (call):
        losses {"model": (batch,)} and the values of :func:`~sfumato.objectives.values.reported`, whose ``elbo`` has
        beta 1 and no free bits.

    >>> ELBO(beta=4.0).samples
    1
    """

    numbers: ClassVar[tuple[str, ...]] = ("beta",)

    def __init__(
        self,
        beta: NonNegative = 1.0,
        free_bits: NonNegative = 0.0,
        schedule: Schedule = Constant(),  # noqa: B008 - immutable
        kl: KL = "analytic",
        samples: Size = 1,
        reconstruction: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        if schedule(END) != 1:
            raise UserError(
                f"ELBO needs a schedule that ends at 1, so that the KL term ends at beta; {type(schedule).__name__} "
                f"ends at {schedule(END):g}. Use WarmUp."
            )
        self.beta, self.free_bits, self.schedule, self.samples = beta, free_bits, schedule, samples
        self.kl, self.weighted, self.reconstruction = kl, beta > 0, reconstruction

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values at ``step``."""
        loss = -terms.log_likelihood.mean(0)
        loss = loss if self.reconstruction == 1 else self.reconstruction * loss
        beta = self.beta * self.schedule(step)
        if self.weighted:
            needs_density(terms, "ELBO with beta > 0")
        kl = kl_of(terms, self.kl)
        if kl is not None and self.weighted:
            # An estimate may be negative, and cutting it at 0 would bias it: no free bits, no clamp.
            paid = kl.clamp(min=self.free_bits) if self.free_bits else kl
            loss = loss + beta * paid.sum(0)
        return ObjectiveOutput({"model": with_penalties(loss, terms)}, reported(terms, kl))
