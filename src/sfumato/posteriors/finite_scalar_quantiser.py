r"""Codes without a list: each number rounded to a few levels."""

from __future__ import annotations

from typing import Annotated, Any, final

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.library import library
from sfumato.core.spec import Length, Range, register
from sfumato.distributions import Delta
from sfumato.posteriors.quantising import Quantiser, channels_of

Levels = Annotated[tuple[Annotated[int, Range(2, 1024)], ...], Length(64)]


@final
@register("posterior")
class FiniteScalarQuantiser(Quantiser):
    r"""z_c = round(squash(f_c(x))) / half, with ``levels[c]`` levels in [-1, 1]; gradients go straight through.

    Nothing is learned, no code can die, no penalty is needed. It has no density, so no KL, no ELBO at beta > 0 and no
    bound on the evidence, but with a prior over its codes (:class:`~sfumato.priors.AutoregressiveCodes`). Training:
    ``ELBO(beta=0)``. The rounding is that of the library vector-quantize-pytorch.

    Reference: Finite Scalar Quantization: VQ-VAE Made Simple, Mentzer et al., 2024, https://arxiv.org/abs/2309.15505.

    Args:
        encoder: f, data to z: (channels,), one code, or (channels, ...), a code at each place.
        levels: for each channel; (8, 5, 5, 5) makes 1,000 codes.

    Returns (call):
        a :class:`~sfumato.distributions.Delta` of batch shape (batch,) and event shape ``encoder.out_shape``.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> FiniteScalarQuantiser(MLP((784,), (3, 4, 4)), levels=(8, 6, 5))(torch.zeros(5, 784)).mean.shape
    torch.Size([5, 3, 4, 4])
    """

    def __init__(self, encoder: Network, levels: Levels) -> None:
        super().__init__()
        if channels_of(encoder) != len(levels):
            raise UserError(
                f"FiniteScalarQuantiser needs levels for each of {channels_of(encoder)} channels; got {len(levels)}. "
                "Give one number for each."
            )
        quantise = library("vector_quantize_pytorch", "quantisers", "FiniteScalarQuantiser")
        with torch.device("cpu"):  # it reads one of its numbers, which a model without memory does not have
            rounding = quantise.FSQ(list(levels))
        self.encoder, self.rounding = encoder, rounding
        self._levels = tuple(levels)
        self.in_shape, self.latent_shape = encoder.in_shape, encoder.out_shape
        self.sees_label = encoder.sees_label

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """The levels of each channel."""
        return self._levels

    def entries(self, codes: Tensor) -> Tensor:
        """Return the levels as numbers in [-1, 1]."""
        half = self._halves(codes)
        return (codes - half) / half

    def nearest(self, rows: Tensor) -> Tensor:
        """Return the nearest level of each number."""
        half, highest = self._halves(rows), torch.tensor(self._levels, device=rows.device) - 1
        return torch.minimum((rows * half + half).round().clamp(min=0), highest).long()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Delta:
        """Return the point."""

        def rounded(z: Tensor) -> tuple[Tensor, dict[str, Any], Tensor]:
            found = self.rounding(z)[0].to(z.dtype)
            return found, {}, self.nearest(found)

        return self.quantised(x, y, rounded)

    def _halves(self, like: Tensor) -> Tensor:
        return torch.tensor([float(count // 2) for count in self._levels], device=like.device)
