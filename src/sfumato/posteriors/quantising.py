r"""What quantisers share: the codes of an example, what a library makes of them, and what a prior over codes asks.

A z has P places (one, if z is a row), and a place a few codes: c = (c_1, ..., c_T), the codes of the first place
first. z = D(c) is the same thing written as vectors.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spaces import CODES, REAL
from sfumato.distributions import Delta

Quantise = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor], Tensor]]


def channels_of(encoder: Network) -> int:
    """Return the length of a code: a z of one row is one code; of any other shape the first axis holds the channels."""
    return encoder.out_shape[0]


class Quantiser(Posterior):
    """A posterior whose z is made of codes.

    ``counted``: the prior is one over codes. Then z is one of finitely many, P(z) is a probability, log q(z | x) = 0 is
    one as well, and there is a bound on the evidence; a prior with a density over R^d has none with a point.
    """

    spaces: ClassVar[tuple[str, ...]] = (REAL, CODES)
    counted: bool = False
    encoder: Network

    @property
    @abstractmethod
    def code_sizes(self) -> tuple[int, ...]:
        """How many values each code of a place has."""

    @abstractmethod
    def entries(self, codes: Int[Tensor, "n each"]) -> Float[Tensor, "n channels"]:
        """Return the vectors of codes."""

    @abstractmethod
    def nearest(self, rows: Float[Tensor, "n channels"]) -> Int[Tensor, "n each"]:
        """Return the codes whose vectors are the nearest.

        Raises:
            UserError: that cannot be told from the vectors.
        """

    def z_of(self, codes: Int[Tensor, "... codes"]) -> Tensor:
        """Return D(c), (..., *latent)."""
        places = math.prod(self.latent_shape[1:])
        rows = self.entries(codes.reshape(-1, len(self.code_sizes)))
        return rows.reshape(-1, places, rows.shape[-1]).mT.reshape(*codes.shape[:-1], *self.latent_shape)

    def codes_of(self, z: Tensor) -> Int[Tensor, "... codes"]:
        """Return c with D(c) = z, or the nearest, for z of (..., *latent); raises as :meth:`nearest`."""
        lead = z.shape[: z.ndim - len(self.latent_shape)]
        rows = z.reshape(-1, self.latent_shape[0], math.prod(self.latent_shape[1:])).mT
        return self.nearest(rows.reshape(-1, self.latent_shape[0])).reshape(*lead, -1)

    def quantised(self, x: Tensor, y: Tensor | None, quantise: Quantise) -> Delta:
        """Return the point that ``quantise`` makes of what the encoder says about x.

        Args:
            x: (batch, *data), or one example.
            y: class numbers.
            quantise: from (batch, places, channels) to the same, name -> (batch,) penalties, and the codes, (batch,
                places, each).
        """
        z = self.encoder(x, y)
        event = len(self.encoder.out_shape)
        lead = z.shape[: z.ndim - event]
        rows = z.reshape(-1, channels_of(self.encoder), math.prod(self.encoder.out_shape[1:]))
        found, penalties, codes = quantise(rows.mT)
        back = found.mT.reshape(z.shape)
        known = codes.reshape(*lead, -1) if self.counted else None
        return Delta(back, event, {name: value.reshape(lead) for name, value in penalties.items()}, known)
