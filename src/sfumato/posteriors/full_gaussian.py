r"""A normal with every covariance."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS


@final
@register("posterior")
class FullGaussian(Posterior):
    r"""q(z | x) = N(mu, L L^T) with (mu, L) = f(x), L lower triangular, its diagonal positive.

    The squares of the diagonal are bounded smoothly to [e^-20, e^10] as in
    :class:`~sfumato.posteriors.DiagonalGaussian`.

    Reference: An Introduction to Variational Autoencoders, Kingma and Welling, 2019,
    https://arxiv.org/abs/1906.02691, section 2.5.1.

    Args:
        moments: f, data to (1 + latent_dim, latent_dim): the mean, then the rows of L, the logarithm of the squares on
            its diagonal.

    Returns (call):
        a multivariate normal of batch shape (batch,) and event shape (latent_dim,).

    >>> from sfumato.networks import MLP
    >>> FullGaussian(MLP((784,), (1 + 16, 16)))(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, moments: Network) -> None:
        super().__init__()
        if len(moments.out_shape) != 2 or moments.out_shape[0] != 1 + moments.out_shape[1]:
            raise UserError(
                f"FullGaussian needs a network that gives a mean and a triangle, out_shape (1 + latent_dim, "
                f"latent_dim); got {moments.out_shape}. Build it like that."
            )
        self.moments = moments
        self.in_shape, self.latent_shape = moments.in_shape, moments.out_shape[1:]
        self.sees_label = moments.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> MultivariateNormal:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        found = self.moments(x, y)
        mean, rows = found[..., 0, :], found[..., 1:, :]
        log_variance = soft_bound(rows.diagonal(dim1=-2, dim2=-1), *LOG_VARIANCE_BOUNDS)
        lower = rows.tril(-1) + torch.diag_embed((0.5 * log_variance).exp())
        return MultivariateNormal(mean, scale_tril=lower, validate_args=False)
