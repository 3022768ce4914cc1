r"""The normal of the sphere."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spec import register
from sfumato.distributions import VonMisesFisher as Fisher
from sfumato.posteriors.spherical import SPHERE, direction_and_concentration, latent_shape_of


@final
@register("posterior")
class VonMisesFisher(Posterior):
    r"""q(z | x) = exp(kappa mu.z) / C(kappa) on the unit sphere, |z| = 1, with (mu, log kappa) = f(x).

    The higher kappa, the narrower. Its prior is :class:`~sfumato.priors.UniformSphere`, to which the KL
    has a closed form.

    Reference: Hyperspherical Variational Auto-Encoders, Davidson et al., 2018, https://arxiv.org/abs/1804.00891.

    Args:
        numbers: f, data to (latent_dim + 1,): a direction of any length, and log kappa, bounded smoothly to [-6, 12].

    Returns (call):
        a :class:`~sfumato.distributions.VonMisesFisher` of batch shape (batch,) and event shape (latent_dim,), whose
        ``mean`` is the mean direction mu.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> VonMisesFisher(MLP((784,), (3 + 1,)))(torch.zeros(5, 784)).rsample((2,)).shape
    torch.Size([2, 5, 3])
    """

    space: ClassVar[str] = SPHERE

    def __init__(self, numbers: Network) -> None:
        super().__init__()
        self.numbers = numbers
        self.in_shape, self.latent_shape = numbers.in_shape, latent_shape_of(numbers, "VonMisesFisher")
        self.sees_label = numbers.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Fisher:
        """Return q(z | x), or q(z | x, y) with a network that sees the label."""
        return Fisher(*direction_and_concentration(self.numbers(x, y)))
