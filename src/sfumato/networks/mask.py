"""Inputs of which some values are missing."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import register


@final
@register("network")
class WithMask(Network):
    """A network that sees which values are there: input = (x with 0 for NaN, 1 where x is there and 0 where not).

    Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
    https://arxiv.org/abs/1812.02633 (zeros in the encoder); VAEs in the Presence of Missing Data, Collier et al., 2020,
    https://arxiv.org/abs/2006.05301 (the mask beside them).

    Args:
        network: any network that does not see labels; the first axis of its ``in_shape`` is twice that of the data.

    Returns (call):
        (..., *network.out_shape).

    >>> from sfumato.networks import MLP
    >>> encoder = WithMask(MLP(in_shape=(2 * 5,), out_shape=(3,)))
    >>> encoder.in_shape
    (5,)
    """

    def __init__(self, network: Network) -> None:
        first, *rest = network.in_shape
        if first % 2 or network.sees_label:
            raise UserError(
                "WithMask needs a network without labels whose first axis has room for the data and as many marks; "
                f"got in_shape={network.in_shape}. Build it with in_shape=(2 * size, ...)."
            )
        super().__init__((first // 2, *rest), network.out_shape)
        self.network = network

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape), NaN where a value is missing."""
        missing = x.isnan()
        out: Tensor = self.network(torch.cat([torch.where(missing, 0.0, x), (~missing).to(x.dtype)], 1))
        return out
