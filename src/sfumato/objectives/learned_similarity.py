r"""A reconstruction that is judged by the features of a network that tells data from what the model makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from torch import nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import HALVES, Network, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import NonNegative, register
from sfumato.core.terms import Terms
from sfumato.objectives.adversary import logits, one_number, told_apart


@final
@register("objective")
class LearnedSimilarity(Objective):
    r"""encoder: s = 1/2 |F(x) - F(x')|^2, decoder: g s - log D(x') - log D(x''), with features F of D.

    x' is the mean of p(x | z) at a draw of q, x'' that at a draw of the prior. D = sigmoid(h(F(x))) is trained beside
    the model: -log D(x) - 1/2 log(1 - D(x')) - 1/2 log(1 - D(x'')). A term of a sum, for models whose encoder and
    decoder share no weights: the VAE/GAN is ``ELBO(reconstruction=0) + LearnedSimilarity(F, h)``. s is no density of x.

    Reference: Autoencoding beyond pixels using a learned similarity metric, Larsen et al., 2016,
    https://arxiv.org/abs/1512.09300.

    Args:
        features: F, an example to features of any shape.
        head: h, features to the logit of D, ``out_shape=(1,)``.
        similarity: g, what the features count beside the adversary for the decoder.

    Returns (call):
        losses {"encoder": ..., "decoder": ..., "discriminator": ...}, each (batch,); values ``feature_distance``,
        ``adversarial`` and ``discriminator``.

    >>> from sfumato.networks import MLP
    >>> LearnedSimilarity(MLP((784,), (32,), activate_output=True), MLP((32,), (1,), hidden=())).groups
    ('encoder', 'decoder', 'discriminator')
    """

    any_samples: ClassVar[bool] = True

    def __init__(self, features: Network, head: Network, similarity: NonNegative = 1.0) -> None:
        super().__init__()
        if features.out_shape != head.in_shape:
            raise UserError(
                f"LearnedSimilarity needs a head for the features, {features.out_shape}; got one for {head.in_shape}. "
                f"Build it with in_shape={features.out_shape}."
            )
        self.features, self.head = features, one_number(head, "LearnedSimilarity")
        self.similarity = similarity

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """F and h."""
        return {"discriminator": nn.ModuleList([self.features, self.head])}

    @property
    def groups(self) -> tuple[str, ...]:
        """Both halves of the model, and D."""
        return (*HALVES, "discriminator")

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses; ``step`` makes no difference.

        Raises:
            UserError: the terms know no model, so that nothing can be drawn from the prior.
        """
        if terms.draw_prior is None or terms.observe is None:
            raise UserError("LearnedSimilarity needs samples, and these terms know no model. Use terms of a model.")
        drawn = terms.observe(terms.draw_prior().unsqueeze(0)).mean[0]
        seen, again, new = (self.features(each) for each in (terms.x, terms.observation.mean[0], drawn))
        distance = 0.5 * (seen - again).square().flatten(1).sum(1)
        real, remade, made = (logits(self.head, each) for each in (seen, again, new))
        fooled = F.softplus(-remade) + F.softplus(-made)
        apart = 0.5 * (told_apart(real, remade) + told_apart(real, made))
        losses = (distance, self.similarity * distance + fooled, apart)
        values = {"feature_distance": distance, "adversarial": fooled, "discriminator": apart}
        return ObjectiveOutput(
            dict(zip(self.groups, losses, strict=True)), {name: value.detach() for name, value in values.items()}
        )
