r"""A normal whose dimensions are correlated along a few directions."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS


@final
@register("posterior")
class LowRankGaussian(Posterior):
    r"""q(z | x) = N(mu, diag sigma^2 + W W^T) with (mu, log sigma^2, W) = f(x), W of a few columns.

    The log-variance is bounded smoothly to [-20, 10] as in :class:`~sfumato.posteriors.DiagonalGaussian`.

    Reference: Stochastic Backpropagation and Approximate Inference in Deep Generative Models, Rezende et al., 2014,
    https://arxiv.org/abs/1401.4082, section 4.3.

    Args:
        moments: f, data to (2 + rank, latent_dim): mean, log-variance, and the columns of W.

    Returns (call):
        a low-rank multivariate normal of batch shape (batch,) and event shape (latent_dim,).

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> LowRankGaussian(MLP((784,), (2 + 3, 16)))(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, moments: Network) -> None:
        super().__init__()
        if len(moments.out_shape) != 2 or moments.out_shape[0] < 3:
            raise UserError(
                "LowRankGaussian needs a network that gives a mean, a log-variance and one or more directions, "
                f"out_shape (2 + rank, latent_dim); got {moments.out_shape}. Build it like that."
            )
        self.moments = moments
        self.in_shape, self.latent_shape = moments.in_shape, moments.out_shape[1:]
        self.sees_label = moments.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> LowRankMultivariateNormal:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        found = self.moments(x, y)
        variance = soft_bound(found[..., 1, :], *LOG_VARIANCE_BOUNDS).exp()
        return LowRankMultivariateNormal(found[..., 0, :], found[..., 2:, :].mT, variance, validate_args=False)
