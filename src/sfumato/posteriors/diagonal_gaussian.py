r"""Every sample's own normal, with independent dimensions."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register

LOG_VARIANCE_BOUNDS = (-20.0, 10.0)


@final
@register("posterior")
class DiagonalGaussian(Posterior):
    r"""q(z | x) = N(mu, diag sigma^2) with mu = f1(x) and log sigma^2 = f2(x).

    With a ``trunk`` t the two are heads on shared features, f1(t(x)) and f2(t(x)). The log-variance is bounded smoothly
    to [-20, 10] (sigma from 4.5e-5 to 148), the identity in between, so that no output of f2 makes inf or NaN.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args:
        mean: f1, data (or the trunk's features) to z.
        log_variance: f2, of the same shapes.
        trunk: features that both share; None for two separate encoders.

    Returns (call):
        a normal of batch shape (batch,) and event shape ``mean.out_shape``.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> posterior = DiagonalGaussian(mean=MLP((784,), (16,)), log_variance=MLP((784,), (16,)))
    >>> posterior(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(self, mean: Network, log_variance: Network, trunk: Network | None = None) -> None:
        super().__init__()
        if (mean.in_shape, mean.out_shape) != (log_variance.in_shape, log_variance.out_shape):
            raise UserError(
                f"DiagonalGaussian needs mean and log_variance networks of the same shapes; got {mean.in_shape} to "
                f"{mean.out_shape} and {log_variance.in_shape} to {log_variance.out_shape}. Build both alike."
            )
        if trunk is not None and trunk.out_shape != mean.in_shape:
            raise UserError(
                f"DiagonalGaussian needs heads that take what the trunk gives, {trunk.out_shape}; got heads for "
                f"{mean.in_shape}. Build them with in_shape={trunk.out_shape}."
            )
        self.mean, self.log_variance, self.trunk = mean, log_variance, trunk
        self.in_shape = mean.in_shape if trunk is None else trunk.in_shape
        self.latent_shape = mean.out_shape
        self.sees_label = any(part.sees_label for part in (mean, log_variance, trunk) if part is not None)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Independent[Normal]:
        """Return q(z | x), or q(z | x, y) with networks that see the label."""
        features = x if self.trunk is None else self.trunk(x, y)
        log_variance = soft_bound(self.log_variance(features, y), *LOG_VARIANCE_BOUNDS)
        return independent_normal(self.mean(features, y), log_variance, len(self.latent_shape))
