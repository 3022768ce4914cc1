r"""A prior that is itself a VAE."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Size, Widths, register
from sfumato.distributions import Marginal
from sfumato.networks import MLP
from sfumato.priors.gaussian_mixture import LOG_VARIANCE_BOUNDS

# log s^2 is so many times a parameter: Adam's steps are all of one size, and s has further to go than a weight
SPEED = 10.0


@final
@register("prior")
class SecondStage(Prior):
    r"""p(z) = int N(u; 0, I) N(z; m(u), s^2 I) du: a VAE of z, with u as large as z, and one learned s.

    Fitted when the first stage is trained, to draws of its aggregate posterior (:func:`sfumato.fit_prior`), by the ELBO
    of this second stage; where the data lie on a surface of which z has too many dimensions, two stages get the density
    on it right and one does not. Draws are exact: u, then z, then x.

    The density is an integral. What its ``log_prob`` returns is the estimate from below of
    :class:`~sfumato.distributions.Marginal`, of one draw of u in training, of ``samples`` outside: every bound on log
    p(x) remains one, and annealing, which needs the density itself, says that it cannot be done. That is chosen over
    two other forms: a closed bound log p(z) >= ELBO(z), which this is with one draw, would leave more of it unseen; a
    ladder of both stages would train them together, which the paper found to be worse.

    Reference: Diagnosing and Enhancing VAE Models, Dai and Wipf, 2019, https://arxiv.org/abs/1903.05789.

    Args:
        latent_dim: the number of dimensions of z, and of u.
        hidden: the widths of the layers of its networks.
        samples: draws of u outside training.

    Returns (call):
        a :class:`~sfumato.distributions.Marginal` of batch shape () and event shape (latent_dim,); labels make no
        difference to it.

    >>> SecondStage(latent_dim=2, hidden=(8,))().sample((3,)).shape
    torch.Size([3, 2])
    """

    def __init__(self, latent_dim: Size, hidden: Widths = (256, 256), samples: Size = 20) -> None:
        super().__init__()
        self.latent_shape, self.samples = (latent_dim,), samples
        self.encoder = MLP((latent_dim,), (2, latent_dim), hidden)
        self.decoder = MLP((latent_dim,), (latent_dim,), hidden)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor | None = None) -> Marginal:
        """Return p(z)."""
        (dim,) = self.latent_shape
        log_variance = soft_bound(SPEED * self.log_scale, *LOG_VARIANCE_BOUNDS)
        return Marginal(self.decoder, log_variance, self._proposed, (dim, dim), 1 if self.training else self.samples)

    def _proposed(self, z: Tensor) -> Independent[Normal]:
        """Return r(u | z)."""
        mean, log_variance = self.encoder(z).unbind(-2)
        return independent_normal(mean, soft_bound(log_variance, *LOG_VARIANCE_BOUNDS))
