r"""A posterior that follows the gradient of the joint density."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, final

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import Posterior
from sfumato.core.spec import Positive, Range, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import WithMomentum
from sfumato.posteriors.leapfrog import cooling, logit, slope_of_joint


@final
@register("posterior")
class Hamiltonian(NeedsWhole, Posterior):
    r"""z = z_K after K leapfrog steps on U(z) = -log p(x, z) from z_0 ~ q_0(z | x) and r_0 ~ N(0, I) / sqrt(beta_0).

    A step: r <- r - e/2 U'(z), z <- z + e r, r <- r - e/2 U'(z), and then r <- r sqrt(beta_(k-1) / beta_k), with
    1 / sqrt(beta_k) = 1 + (1 / sqrt(beta_0) - 1) (1 - k^2 / K^2): the momentum cools from beta_0 to 1. Step sizes (for
    each dimension) and beta_0 are learned. In the density of (z, r) the factors of beta_0 cancel. The ELBO needs second
    derivatives of the decoder, and K times its passes.

    Its density is known at its own draws only: bounds have it; what asks for q(z | x) of other z is refused.

    Reference: Hamiltonian Variational Auto-Encoder, Caterini et al., 2018, https://arxiv.org/abs/1805.11328.

    Args:
        base: q_0.
        steps: K.
        step_size: e at the start.
        inverse_temperature: beta_0 at the start.

    Returns (call):
        a :class:`~sfumato.distributions.WithMomentum` of batch shape (batch,) and event shape ``base.latent_shape``.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> from sfumato.priors import StandardNormal
    >>> posterior = Hamiltonian(DiagonalGaussian(mean=MLP((9,), (2,)), log_variance=MLP((9,), (2,))))
    >>> model = VAE(StandardNormal(2), posterior, MLP((2,), (1, 9)), Bernoulli((9,)))
    >>> model.terms(torch.zeros(5, 9), samples=3).log_posterior.shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        base: Posterior,
        steps: Size = 3,
        step_size: Positive = 0.05,
        inverse_temperature: Annotated[float, Range(0.01, 0.99)] = 0.3,
    ) -> None:
        super().__init__()
        self.base, self.steps = base, steps
        self.in_shape, self.latent_shape = base.in_shape, base.latent_shape
        self.sees_label = base.sees_label
        self.log_step = nn.Parameter(torch.full(base.latent_shape, math.log(step_size)))
        self.heat = nn.Parameter(torch.tensor(logit(inverse_temperature)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> WithMomentum:
        """Return q(z | x), or q(z | x, y) with a base, prior or decoder that sees the label.

        Raises:
            UserError: there is no model yet.
        """
        slope = slope_of_joint(self.whole, x, y)

        def dynamics(z: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor, float]:
            step, heats = self.log_step.exp(), cooling(self.heat, self.steps)
            momentum = momentum * heats[0]
            for before, after in itertools.pairwise(heats):
                momentum = momentum + 0.5 * step * slope(z)
                z = z + step * momentum
                momentum = (momentum + 0.5 * step * slope(z)) * (after / before)
            return z, momentum, 0.0

        return WithMomentum(self.base(x, y), dynamics)
