r"""A normalising flow."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Prior
from sfumato.core.spec import Size, Widths, register
from sfumato.distributions import Flowed
from sfumato.networks.flows import zuko_transform

FAMILIES = {"coupling": "NICE", "autoregressive": "MAF", "spline": "NSF"}


@final
@register("prior")
class Flow(Prior):
    r"""log p(z) = log N(f(z); 0, I) + log|det df/dz| with a learned invertible f, from the library zuko.

    ``coupling``: affine maps of one half given the other half, in turns (RealNVP), equally fast both ways.
    ``autoregressive``: z_i is a normal given z_1 ... z_(i-1), whose mean and variance are networks, the order reversed
    in turns (MAF): the autoregressive prior; its density takes one pass, a draw as many as there are dimensions.
    ``spline``: the same with monotone rational-quadratic splines on [-5, 5] in the place of the affine maps (NSF).

    Reference: Density Estimation Using Real NVP, Dinh et al., 2017, https://arxiv.org/abs/1605.08803; Masked
    Autoregressive Flow for Density Estimation, Papamakarios et al., 2017, https://arxiv.org/abs/1705.07057; Neural
    Spline Flows, Durkan et al., 2019, https://arxiv.org/abs/1906.04032.

    Args:
        latent_dim: the number of dimensions of z.
        kind: of the maps.
        transforms: how many, one after the other.
        hidden: the widths of their networks' layers.

    Returns (call):
        a :class:`~sfumato.distributions.Flowed` of batch shape () and event shape (latent_dim,); labels make no
        difference to it.

    >>> Flow(latent_dim=2, kind="coupling", transforms=2, hidden=(8,))().sample((3,)).shape
    torch.Size([3, 2])
    """

    zeros: Tensor

    def __init__(
        self,
        latent_dim: Size,
        kind: Literal["coupling", "autoregressive", "spline"] = "coupling",
        transforms: Size = 4,
        hidden: Widths = (128, 128),
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        smooth = nn.SiLU  # a density without kinks, for those who follow its gradient
        layers: dict[str, Any] = {"transforms": transforms, "hidden_features": hidden, "activation": smooth}
        self.transform = zuko_transform(FAMILIES[kind], "the prior Flow", latent_dim, **layers)
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, y: Tensor | None = None) -> Flowed:
        """Return p(z)."""
        transform = self.transform()
        there, back = transform.inv.call_and_ladj, transform.call_and_ladj
        return Flowed(independent_normal(self.zeros, self.zeros), there, back)
