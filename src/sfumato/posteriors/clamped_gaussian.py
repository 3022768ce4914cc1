r"""A normal whose mean and log-variance are one network's: the first stage of latent diffusion."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spec import register

LOG_VARIANCE_BOUNDS = (-30.0, 20.0)


@final
@register("posterior")
class ClampedGaussian(Posterior):
    r"""q(z | x) = N(m_0, diag exp(clamp(m_1, -30, 20))) with the moments (m_0, m_1) = f(x).

    The clamp is exactly the identity inside, which the smooth bounds of
    :class:`~sfumato.posteriors.DiagonalGaussian` are not, so that moments agree with diffusers' to rounding; outside no
    gradient flows.

    Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
    https://arxiv.org/abs/2112.10752.

    Args:
        moments: f, data to (2, *latent).

    Returns (call):
        a normal of batch shape (batch,) and event shape ``moments.out_shape[1:]``.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> ClampedGaussian(MLP((784,), (2, 16)))(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, moments: Network) -> None:
        super().__init__()
        if len(moments.out_shape) < 2 or moments.out_shape[0] != 2:
            raise UserError(
                f"ClampedGaussian needs a network that gives means and log-variances, out_shape (2, latent_dim); got "
                f"{moments.out_shape}. Build it like that."
            )
        self.moments = moments
        self.in_shape = moments.in_shape
        self.latent_shape = moments.out_shape[1:]
        self.sees_label = moments.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Independent[Normal]:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        mean, log_variance = self.moments(x, y).unbind(x.ndim - len(self.in_shape))
        return independent_normal(mean, log_variance.clamp(*LOG_VARIANCE_BOUNDS), len(self.latent_shape))
