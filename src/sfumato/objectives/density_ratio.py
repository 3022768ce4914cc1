r"""How far the dimensions of the aggregate posterior are from independent, by a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import MODEL, Network, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import register
from sfumato.core.terms import Terms
from sfumato.objectives.adversary import logits, one_number, told_apart
from sfumato.objectives.batch import codes


@final
@register("objective")
class DensityRatio(Objective):
    r"""loss = log D(z) / (1 - D(z)), nats, which is log q(z) / prod_d q(z_d) for the best D: its mean is the TC.

    D is trained beside the model to tell z from permuted z, in which every dimension comes from another example of the
    batch: -log D(z) - log(1 - D(permuted z)). A term of a sum: FactorVAE is ``ELBO() + gamma * DensityRatio(D)``.

    Reference: Disentangling by Factorising, Kim and Mnih, 2018, https://arxiv.org/abs/1802.05983.

    Args:
        discriminator: all levels of z in one row to the logit of D: ``in_shape=(latent,)``, ``out_shape=(1,)``.

    Returns (call):
        losses {"model": (batch,), "density_ratio": (batch,)}; values ``total_correlation`` and ``density_ratio``, nats.

    >>> from sfumato.networks import MLP
    >>> DensityRatio(MLP((10,), (1,))).groups
    ('model', 'density_ratio')
    """

    any_samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(self, discriminator: Network) -> None:
        super().__init__()
        self.discriminator = one_number(discriminator, "DensityRatio")

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """D."""
        return {"density_ratio": self.discriminator}

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses; ``step`` makes no difference."""
        z = codes(terms)
        ratio = logits(self.discriminator, z)
        apart = told_apart(ratio, logits(self.discriminator, permuted(self.whole(z.detach()))[: len(z)]))
        values = {"total_correlation": ratio.detach(), "density_ratio": apart.detach()}
        return ObjectiveOutput({MODEL: ratio, "density_ratio": apart}, values)


def permuted(z: Tensor) -> Tensor:
    """Return (batch, latent) with every column in a random order of its own."""
    return z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))
