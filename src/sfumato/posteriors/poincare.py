r"""Every sample's own normal on hyperbolic space."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register
from sfumato.distributions import PoincareNormal
from sfumato.distributions.poincare_normal import from_origin

LOG_VARIANCE_BOUNDS = (-20.0, 4.0)  # at a deviation of 7 every draw is on the edge of the ball


@final
@register("posterior")
class PoincareGaussian(Posterior):
    r"""q(z | x) = the normal of the Poincare ball around mu with diag sigma^2, (m, log sigma^2) = f(x), mu = exp_0(m).

    m is the vector at the origin that points to mu and is as long as the way there. Its prior is
    :class:`~sfumato.priors.PoincareNormal`; the KL is sampled. The decoder gets z as coordinates in the unit ball.

    Reference: Continuous Hierarchical Representations with Poincare Variational Auto-Encoders, Mathieu et al., 2019,
    https://arxiv.org/abs/1901.06033.

    Args:
        moments: f, data to (2, latent_dim).

    Returns (call):
        a :class:`~sfumato.distributions.PoincareNormal` of batch shape (batch,) and event shape (latent_dim,).

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> PoincareGaussian(MLP((784,), (2, 16)))(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    space: ClassVar[str] = "the Poincare ball"

    def __init__(self, moments: Network) -> None:
        super().__init__()
        if len(moments.out_shape) != 2 or moments.out_shape[0] != 2:
            raise UserError(
                f"PoincareGaussian needs a network that gives a way from the origin and log-variances, out_shape (2, "
                f"latent_dim); got {moments.out_shape}. Build it like that."
            )
        self.moments = moments
        self.in_shape, self.latent_shape = moments.in_shape, moments.out_shape[1:]
        self.sees_label = moments.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> PoincareNormal:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        way, log_variance = self.moments(x, y).unbind(-2)
        return PoincareNormal(from_origin(way), (0.5 * soft_bound(log_variance, *LOG_VARIANCE_BOUNDS)).exp())
