"""All directions alike."""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from sfumato.core.interfaces import Prior
from sfumato.core.spec import Range, register
from sfumato.distributions import UniformSphere as Uniform


@final
@register("prior")
class UniformSphere(Prior):
    r"""p(z) = 1 / area of the unit sphere in d dimensions, for |z| = 1; its density is per unit of that area.

    For posteriors on the sphere: :class:`~sfumato.posteriors.VonMisesFisher`,
    :class:`~sfumato.posteriors.PowerSpherical`.

    Reference: Hyperspherical Variational Auto-Encoders, Davidson et al., 2018, https://arxiv.org/abs/1804.00891.

    Args:
        latent_dim: d, at least 2; the sphere itself has d - 1 dimensions.

    Returns (call):
        a :class:`~sfumato.distributions.UniformSphere` of batch shape () and event shape (latent_dim,); labels make no
        difference to it.

    >>> UniformSphere(latent_dim=3)().log_prob(torch.tensor([0.0, 0.6, 0.8])).exp()
    tensor(0.0796)
    """

    space: ClassVar[str] = "on the unit sphere"
    zeros: Tensor

    def __init__(self, latent_dim: Annotated[int, Range(2, 65_536)]) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, y: Tensor | None = None) -> Uniform:
        """Return the uniform distribution."""
        return Uniform(self.zeros)
