r"""Codes out of a learned list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.library import library
from sfumato.core.spec import NonNegative, Probability, Size, register
from sfumato.distributions import Delta
from sfumato.posteriors.quantising import Quantiser, channels_of


@final
@register("posterior")
class VectorQuantiser(Quantiser):
    r"""z = q_1 + ... + q_R: q_1 the nearest entry of a list to f(x), q_2 that of a second list to what is left, ...

    One list (R = 1) is the VQ-VAE, more are residual quantisation. The entries are running means of what was assigned
    to them (no gradient); gradients go straight through to f(x), which is pulled to its code by the penalty

        commitment = weight sum_r |f(x) - (q_1 + ... + q_r)|^2,   q held fast, summed over z.

    It has no density, so no KL, no ELBO at beta > 0 and no bound on the evidence, but with a prior over its codes
    (:class:`~sfumato.priors.AutoregressiveCodes`, fitted afterwards). Training: ``ELBO(beta=0)``. The lists are those
    of the library vector-quantize-pytorch.

    Reference: Neural Discrete Representation Learning, van den Oord et al., 2017, https://arxiv.org/abs/1711.00937;
    Autoregressive Image Generation using Residual Quantization, Lee et al., 2022, https://arxiv.org/abs/2203.01941.

    Args:
        encoder: f, data to z: (channels,), one code, or (channels, ...), a code at each place.
        codes: the entries of each list.
        quantisers: R.
        decay: of the running means.
        commitment: the weight of the penalty.

    Returns (call):
        a :class:`~sfumato.distributions.Delta` of batch shape (batch,) and event shape ``encoder.out_shape``, with the
        penalty ``commitment`` in training.

    >>> from sfumato.networks import MLP
    >>> VectorQuantiser(MLP((784,), (8, 4, 4)), codes=16)(torch.zeros(5, 784)).mean.shape
    torch.Size([5, 8, 4, 4])
    """

    remembers: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Network,
        codes: Size = 512,
        quantisers: Size = 1,
        decay: Probability = 0.99,
        commitment: NonNegative = 0.25,
    ) -> None:
        super().__init__()
        quantise = library("vector_quantize_pytorch", "quantisers", "VectorQuantiser")
        self.encoder, self.commitment = encoder, commitment
        self.lists: Any = quantise.ResidualVQ(
            dim=channels_of(encoder),
            num_quantizers=quantisers,
            codebook_size=codes,
            decay=decay,
            commitment_weight=0.0,
            rotation_trick=False,
        )
        self.in_shape, self.latent_shape = encoder.in_shape, encoder.out_shape
        self.sees_label = encoder.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Delta:
        """Return the point."""
        return self.quantised(x, y, self._assigned)

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """The entries of each list."""
        return tuple(len(entries) for entries in self.lists.codebooks)

    def entries(self, codes: Tensor) -> Tensor:
        """Return the sums of entries."""
        pairs = zip(self.lists.codebooks, codes.unbind(-1), strict=True)
        return torch.stack([entries[number] for entries, number in pairs]).sum(0)

    def nearest(self, rows: Tensor) -> Tensor:
        """Return the numbers of the nearest entries of one list."""
        if len(self.code_sizes) > 1:
            raise UserError(
                f"which {len(self.code_sizes)} entries a sum is made of cannot be told from the sum, so this prior "
                "knows the probability of the model's own z alone. Use quantisers=1 for the others."
            )
        return torch.cdist(rows, self.lists.codebooks[0].to(rows.dtype)).argmin(-1, keepdim=True)

    def _assigned(self, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor], Tensor]:
        with torch.no_grad():
            entries = self.lists.codebooks  # a copy: the call moves them on, in training
            chosen = self.lists(z.detach())[1]  # (batch, places, lists)
            codes = torch.stack([each[number] for each, number in zip(entries, chosen.unbind(-1), strict=True)])
            sums = codes.to(z.dtype).cumsum(0)
        straight = z + (sums[-1] - z).detach()
        if not self.training:
            return straight, {}, chosen
        price = self.commitment * (z - sums).square().flatten(2).sum((0, 2))
        return straight, {"commitment": price}, chosen
