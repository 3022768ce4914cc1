"""Categories: the prior of discrete latents."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import Prior
from sfumato.core.spec import Size, register
from sfumato.distributions import OneHot


@final
@register("prior")
class Categorical(Prior):
    r"""p(z) = prod_n pi_nk for z of N rows, each one of K unit vectors; pi = 1 / K, or learned.

    For the posterior :class:`~sfumato.posteriors.GumbelSoftmax`.

    Reference: Categorical Reparameterization with Gumbel-Softmax, Jang et al., 2017, https://arxiv.org/abs/1611.01144.

    Args:
        variables: N.
        categories: K.
        learn: learn pi; by default all are alike.

    Returns (call):
        a :class:`~sfumato.distributions.OneHot` of batch shape () and event shape (variables, categories); labels make
        no difference to it.

    >>> Categorical(variables=20, categories=10)().sample((3,)).shape
    torch.Size([3, 20, 10])
    """

    space: ClassVar[str] = "rows of one-hot numbers"
    logits: Tensor

    def __init__(self, variables: Size, categories: Size, learn: bool = False) -> None:
        super().__init__()
        self.latent_shape = (variables, categories)
        if learn:
            self.logits = nn.Parameter(torch.zeros(variables, categories))
        else:
            self.register_buffer("logits", torch.zeros(variables, categories), persistent=False)

    def forward(self, y: Tensor | None = None) -> OneHot:
        """Return p(z)."""
        return OneHot(self.logits)
