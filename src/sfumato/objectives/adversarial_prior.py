r"""An aggregate posterior that a network cannot tell from the prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from torch import nn
from torch.nn import functional as F

from sfumato.core.interfaces import MODEL, Network, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import register
from sfumato.core.terms import Terms
from sfumato.objectives.adversary import logits, one_number, told_apart
from sfumato.objectives.batch import codes, prior_codes


@final
@register("objective")
class AdversarialPrior(Objective):
    r"""loss = -log D(z), nats, z from q(z | x), for a D that tells draws u of the prior from z.

    D is trained beside the model: -log D(u) - log(1 - D(z)). A term of a sum: the adversarial autoencoder is
    ``ELBO(beta=0) + AdversarialPrior(D)``, with any posterior; with a weight the Wasserstein autoencoder's GAN form.

    Reference: Adversarial Autoencoders, Makhzani et al., 2016, https://arxiv.org/abs/1511.05644.

    Args:
        discriminator: all levels of z in one row to the logit of D: ``in_shape=(latent,)``, ``out_shape=(1,)``.

    Returns (call):
        losses {"model": (batch,), "prior_discriminator": (batch,)}; values ``adversarial`` and ``prior_discriminator``.

    >>> from sfumato.networks import MLP
    >>> AdversarialPrior(MLP((10,), (1,))).groups
    ('model', 'prior_discriminator')
    """

    any_samples: ClassVar[bool] = True

    def __init__(self, discriminator: Network) -> None:
        super().__init__()
        self.discriminator = one_number(discriminator, "AdversarialPrior")

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """D."""
        return {"prior_discriminator": self.discriminator}

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses; ``step`` makes no difference."""
        made = logits(self.discriminator, codes(terms))
        real = logits(self.discriminator, prior_codes(terms, "AdversarialPrior").detach())
        loss, apart = F.softplus(-made), told_apart(real, made)
        values = {"adversarial": loss.detach(), "prior_discriminator": apart.detach()}
        return ObjectiveOutput({MODEL: loss, "prior_discriminator": apart}, values)
