r"""An objective for the encoder and another one for the decoder."""

from __future__ import annotations

from typing import final

from sfumato.core.errors import UserError
from sfumato.core.interfaces import HALVES, MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import register
from sfumato.core.terms import Terms


@final
@register("objective")
class PerPart(Objective):
    r"""d loss / d phi = d encoder loss / d phi, d loss / d theta = d decoder loss / d theta; phi of q, theta of p.

    Both read the same draws. The model must have halves: an encoder and a decoder that share no weights.

    Reference: PIWAE, Tighter Variational Bounds are Not Necessarily Better, Rainforth et al., 2018,
    https://arxiv.org/abs/1802.04537, is ``PerPart(encoder=IWAE(samples=K, outer=M), decoder=IWAE(samples=M * K))``.

    Args:
        encoder: what the posterior minimises.
        decoder: what prior, decoder and likelihood minimise; its values are reported.

    Returns (call):
        losses {"encoder": (batch,), "decoder": (batch,)}, and the values of both, those of ``decoder`` first.

    >>> from sfumato.objectives import ELBO, IWAE
    >>> PerPart(encoder=IWAE(samples=8, outer=8), decoder=IWAE(samples=64)).samples
    64
    """

    def __init__(self, encoder: Objective, decoder: Objective) -> None:
        super().__init__()
        for part in (encoder, decoder):
            if part.groups != (MODEL,):
                raise UserError(
                    f"PerPart needs two objectives that have one loss for the whole model; {type(part).__name__} has "
                    f"{', '.join(part.groups)}. Use another."
                )
        if encoder.samples != decoder.samples:
            raise UserError(
                f"PerPart's two objectives share their draws of z; the encoder's asks for {encoder.samples}, the "
                f"decoder's for {decoder.samples}. Give both the same number."
            )
        self.encoder, self.decoder, self.samples = encoder, decoder, encoder.samples

    @property
    def groups(self) -> tuple[str, ...]:
        """The halves of the model."""
        return HALVES

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values at ``step``."""
        encoder, decoder = self.encoder(terms, step), self.decoder(terms, step)
        losses = {half: each.losses[MODEL] for half, each in zip(HALVES, (encoder, decoder), strict=True)}
        return ObjectiveOutput(losses, {**encoder.values, **decoder.values})
