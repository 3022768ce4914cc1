r"""A posterior that an encoder proposes, and a few steps up the ELBO refine."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal, independent_normal
from sfumato.core.interfaces import Posterior
from sfumato.core.spec import Range, Size, register
from sfumato.core.whole import NeedsWhole

LONGEST = 1.0  # the most that a log-variance changes in a step


@final
@register("posterior")
class SemiAmortised(NeedsWhole, Posterior):
    r"""q(z | x) = N(mu_K, diag sigma_K^2), K steps up the ELBO of x from what an encoder says, (mu_0, sigma_0).

    A step is along the natural gradient, rate sigma^2 dELBO/dmu and 2 rate dELBO/dlog sigma^2, which knows no units of
    z: at rate 1 a model whose exact posterior is such a normal gets its mean in a step. The ELBO is taken at draws that
    are the same for every step and example, so that q(z | x) repeats. The encoder learns as if what the steps added
    were a constant (first order).

    Reference: Semi-Amortized Variational Autoencoders, Kim et al., 2018, https://arxiv.org/abs/1802.02550.

    Args:
        base: the encoder, whose posterior is normal with independent dimensions.
        steps: K.
        rate: of a step.
        pairs: mirrored pairs of draws.

    Returns (call):
        a normal of batch shape (batch,) and event shape ``base.latent_shape``.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> from sfumato.priors import StandardNormal
    >>> posterior = SemiAmortised(DiagonalGaussian(mean=MLP((9,), (2,)), log_variance=MLP((9,), (2,))))
    >>> model = VAE(StandardNormal(2), posterior, MLP((2,), (1, 9)), Bernoulli((9,)))
    >>> model.encode(torch.zeros(5, 9)).mean.shape
    torch.Size([5, 2])
    """

    def __init__(
        self, base: Posterior, steps: Size = 5, rate: Annotated[float, Range(1e-4, 1.0)] = 0.3, pairs: Size = 2
    ) -> None:
        super().__init__()
        self.base, self.steps, self.rate, self.pairs = base, steps, rate, pairs
        self.in_shape, self.latent_shape = base.in_shape, base.latent_shape
        self.sees_label = base.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Independent[Normal]:
        """Return q(z | x), or q(z | x, y) with parts that see the label.

        Raises:
            UserError: there is no model yet, or the base is not normal.
        """
        first = as_normal(self.base(x, y))
        if first is None:
            raise UserError(
                f"SemiAmortised refines a normal with independent dimensions; {type(self.base).__name__} gives none. "
                "Use DiagonalGaussian."
            )
        start = first.loc, 2 * first.scale.log()
        mean, log_variance = (value.detach() for value in start)
        noise = self._noise(mean)
        for _ in range(self.steps):
            up, wider = self._slopes(x, y, mean, log_variance, noise)
            mean = mean + self.rate * log_variance.exp() * up
            log_variance = log_variance + (2 * self.rate * wider).clamp(-LONGEST, LONGEST)
        # the value of the end, the gradient of the start
        mean, log_variance = (own + (end - own).detach() for own, end in zip(start, (mean, log_variance), strict=True))
        return independent_normal(mean, log_variance, len(self.latent_shape))

    def _slopes(
        self, x: Tensor, y: Tensor | None, mean: Tensor, log_variance: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient of the ELBO in mean and log-variance; that of the entropy in the latter is 1/2."""
        with torch.enable_grad():
            place, width = mean.detach().requires_grad_(), log_variance.detach().requires_grad_()
            z = place + (0.5 * width).exp() * noise
            prior: Distribution = self.whole.prior(y)
            log_joint = (self.whole.decode(z, y).log_prob(x) + prior.log_prob(z)).mean(0).sum()
            up, wider = torch.autograd.grad(log_joint, (place, width))
        return up, wider + 0.5

    def _noise(self, like: Tensor) -> Tensor:
        """Return noise of mean 0 and mean square 1 in every dimension, (2 pairs, 1 ..., *latent)."""
        generator = torch.Generator().manual_seed(self.pairs)
        half = torch.randn(self.pairs, *self.latent_shape, generator=generator, dtype=torch.float64)
        half = half / half.square().mean(0).sqrt()
        lead = [1] * (like.ndim - len(self.latent_shape))
        return torch.cat([half, -half]).reshape(2 * self.pairs, *lead, *self.latent_shape).to(like)
