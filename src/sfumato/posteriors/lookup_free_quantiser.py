r"""Codes without a list: the signs of a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from sfumato.core.interfaces import Network
from sfumato.core.library import library
from sfumato.core.spec import NonNegative, register
from sfumato.distributions import Delta
from sfumato.posteriors.quantising import Quantiser, channels_of


@final
@register("posterior")
class LookupFreeQuantiser(Quantiser):
    r"""z_c = sign(f_c(x)), 2^channels codes; gradients go straight through.

    The penalty, weight (mean H(code | x) - diversity H(mean code)) over a batch, makes each code sure and all of them
    used. It has no density, so no KL, no ELBO at beta > 0 and no bound on the evidence, but with a prior over its codes
    (:class:`~sfumato.priors.AutoregressiveCodes`). Training: ``ELBO(beta=0)``. The quantiser is that of the library
    vector-quantize-pytorch.

    Reference: Language Model Beats Diffusion: Tokenizer is Key to Visual Generation, Yu et al., 2024,
    https://arxiv.org/abs/2310.05737.

    Args:
        encoder: f, data to z: (channels,), one code, or (channels, ...), a code at each place.
        entropy: the weight of the penalty.
        diversity: how much the second entropy counts.

    Returns (call):
        a :class:`~sfumato.distributions.Delta` of batch shape (batch,) and event shape ``encoder.out_shape``, with the
        penalty ``entropy``, nats, the same for every example of the batch, in training.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> LookupFreeQuantiser(MLP((784,), (6, 4, 4)))(torch.zeros(5, 784)).mean.shape
    torch.Size([5, 6, 4, 4])
    """

    def __init__(self, encoder: Network, entropy: NonNegative = 0.1, diversity: NonNegative = 1.0) -> None:
        super().__init__()
        quantise = library("vector_quantize_pytorch", "quantisers", "LookupFreeQuantiser")
        self.encoder = encoder
        self.signs: Any = quantise.LFQ(dim=channels_of(encoder), entropy_loss_weight=entropy, diversity_gamma=diversity)
        self.in_shape, self.latent_shape = encoder.in_shape, encoder.out_shape
        self.sees_label = encoder.sees_label

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Two for each channel."""
        return (2,) * self.latent_shape[0]

    def entries(self, codes: Tensor) -> Tensor:
        """Return -1 for 0 and 1 for 1."""
        return 2.0 * codes - 1.0

    def nearest(self, rows: Tensor) -> Tensor:
        """Return 1 where a number is above 0."""
        return (rows > 0).long()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Delta:
        """Return the point."""
        return self.quantised(x, y, self._signed)

    def _signed(self, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor], Tensor]:
        found = self.signs(z)
        penalty = {"entropy": found.entropy_aux_loss.to(z.dtype).expand(len(z))} if self.training else {}
        quantised = found.quantized.to(z.dtype)
        return z + (quantised - z).detach(), penalty, self.nearest(quantised)
