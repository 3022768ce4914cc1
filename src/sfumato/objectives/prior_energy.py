r"""What a code costs under the prior, without the entropy that a posterior with noise would get back."""

from __future__ import annotations

from typing import ClassVar, final

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import register
from sfumato.core.terms import Terms


@final
@register("objective")
class PriorEnergy(Objective):
    r"""loss = -E_q[log p(z | y)], nats; under N(0, I) that is 1/2 |z|^2 and a constant.

    A term of a sum, also for a point mass, which has no KL: the regularised autoencoder is
    ``ELBO(beta=0) + b * PriorEnergy()`` with a :class:`~sfumato.posteriors.Dirac` posterior and a penalised decoder.

    Reference: From Variational to Deterministic Autoencoders, Ghosh et al., 2020, https://arxiv.org/abs/1903.12436.

    Returns (call):
        losses {"model": (batch,)} and the value ``prior_energy``, nats.

    Args: none.

    >>> PriorEnergy().any_samples
    True
    """

    any_samples: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference."""
        energy = -terms.log_prior.mean(0)
        return ObjectiveOutput({MODEL: energy}, {"prior_energy": energy.detach()})
