r"""A network whose layers stretch nothing."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.func import functional_call

from sfumato.core.interfaces import Network
from sfumato.core.spec import register


@final
@register("network")
class SpectralNorm(Network):
    r"""A network with W / sigma(W) in the place of every weight W, sigma its largest singular value.

    W is taken as a matrix with a row for each output. sigma is computed exactly at every call, from the weights alone:
    nothing is remembered from step to step.

    Reference: Spectral Normalization for Generative Adversarial Networks, Miyato et al., 2018,
    https://arxiv.org/abs/1802.05957; From Variational to Deterministic Autoencoders, Ghosh et al., 2020,
    https://arxiv.org/abs/1903.12436 (RAE-SN).

    Args:
        network: any network.

    Returns (call):
        (..., *network.out_shape).

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> SpectralNorm(MLP((2,), (3,)))(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network.in_shape, network.out_shape)
        self.network = network
        self.sees_label = network.sees_label  # type: ignore[misc]
        self.num_classes = getattr(network, "num_classes", 0)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (..., *in_shape) to (..., *out_shape)."""
        weights = {name: _normed(each) for name, each in self.network.named_parameters() if each.ndim > 1}
        out: Tensor = functional_call(self.network, weights, (x, y))
        return out

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, *out_shape)."""
        return self.forward(x)


def _normed(weight: Tensor) -> Tensor:
    found: Tensor = weight / torch.linalg.matrix_norm(weight.flatten(1), 2).clamp(min=1e-12)
    return found
