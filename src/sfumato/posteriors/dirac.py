"""No noise: the autoencoder."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spec import register
from sfumato.distributions import Delta


@final
@register("posterior")
class Dirac(Posterior):
    """All mass at mu = f1(x): the noise-free limit, in which the VAE is an ordinary autoencoder.

    It has no density, so no KL, no ELBO at beta > 0 and no bound on the evidence; those refuse it with the reason.

    Reference: Reducing the Dimensionality of Data with Neural Networks, Hinton and Salakhutdinov, 2006.

    Args:
        mean: f1, data to z.

    Returns (call):
        a :class:`~sfumato.distributions.Delta` of batch shape (batch,) and event shape ``mean.out_shape``.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> Dirac(MLP((784,), (16,)))(torch.zeros(5, 784)).mean.shape
    torch.Size([5, 16])
    """

    def __init__(self, mean: Network) -> None:
        super().__init__()
        self.mean = mean
        self.in_shape = mean.in_shape
        self.latent_shape = mean.out_shape
        self.sees_label = mean.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Delta:
        """Return the point."""
        return Delta(self.mean(x, y), len(self.latent_shape))
