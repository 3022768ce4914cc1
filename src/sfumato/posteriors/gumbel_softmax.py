"""Categories: a posterior of discrete latents."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spec import Positive, register
from sfumato.distributions import OneHot


@final
@register("posterior")
class GumbelSoftmax(Posterior):
    r"""q(z | x) = prod_n pi_nk(x) for z of N rows, each one of K unit vectors, with log pi = f(x) but for a constant.

    In training draws are relaxed, softmax((log pi + Gumbel noise) / temperature), so that gradients flow; the KL is
    exact. Outside training they are unit vectors, and every bound is one of the discrete model. Its prior is
    :class:`~sfumato.priors.Categorical`.

    Reference: Categorical Reparameterization with Gumbel-Softmax, Jang et al., 2017, https://arxiv.org/abs/1611.01144;
    The Concrete Distribution, Maddison et al., 2017, https://arxiv.org/abs/1611.00712.

    Args:
        logits: f, data to (variables, categories).
        temperature: of the relaxed draws: small ones are nearly discrete, and their gradients noisy.

    Returns (call):
        a :class:`~sfumato.distributions.OneHot` of batch shape (batch,) and event shape (variables, categories).

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> GumbelSoftmax(MLP((784,), (20, 10)))(torch.zeros(5, 784)).rsample((2,)).shape
    torch.Size([2, 5, 20, 10])
    """

    space: ClassVar[str] = "rows of one-hot numbers"

    def __init__(self, logits: Network, temperature: Positive = 0.5) -> None:
        super().__init__()
        if len(logits.out_shape) != 2:
            raise UserError(
                f"GumbelSoftmax needs a network that gives out_shape (variables, categories); got {logits.out_shape}. "
                "Build it like that."
            )
        self.logits, self.temperature = logits, temperature
        self.in_shape, self.latent_shape = logits.in_shape, logits.out_shape
        self.sees_label = logits.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> OneHot:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        return OneHot(self.logits(x, y), self.temperature if self.training else None)
