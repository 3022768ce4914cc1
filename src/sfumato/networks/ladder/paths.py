r"""What a hierarchical model needs of its networks, whatever they are made of.

    bottom-up   x -> f_1, ..., f_L                         features of the data, one set for each level, top first
    top-down    h_1 = t(z_1)                               the state after the top level
                p(z_l | z_<l): a_l(h_{l-1})                numbers of the prior of level l
                q(z_l | x, z_<l): b_l(h_{l-1}, f_l)        numbers of its posterior
                h_l = h_{l-1} + m_l(h_{l-1}, z_l)          the state takes z_l in
                p(x | z): o(h_L)                           numbers of the likelihood

The states are shared by prior and posterior: what is inferred at one level is what is generated with at the next.
Everything random stays outside. A row is one draw of z of one example; features are those of the examples, and serve
all draws of an example: with rows (samples times batch, ...) sample by sample, f_l is added to each sample's rows.

References: Ladder Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282; NVAE, Vahdat and
Kautz, 2020, https://arxiv.org/abs/2007.03898; Very Deep VAEs, Child, 2021, https://arxiv.org/abs/2011.10650.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Affine = Callable[[int, int], nn.Module]


class BottomUp(nn.Module, ABC):
    """x to features.

    Args:
        in_shape: the shape of one example.
        feature_shapes: of each level's features, top first.
    """

    spec_kind: ClassVar[str] = "bottom_up"

    def __init__(self, in_shape: Shape, feature_shapes: tuple[Shape, ...]) -> None:
        super().__init__()
        self.in_shape, self.feature_shapes = tuple(in_shape), feature_shapes

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (batch, *in_shape) to the features of each level, top first, each (batch, *feature_shape)."""


class TopDown(nn.Module, ABC):
    """The path from z_1 to x.

    Args:
        latent_shapes: the shape of z at each level, top first.
        feature_shapes: of the features that each level's posterior takes, top first.
        out_shape: of what goes to the likelihood, (numbers per value, *data).
    """

    spec_kind: ClassVar[str] = "top_down"

    def __init__(self, latent_shapes: tuple[Shape, ...], feature_shapes: tuple[Shape, ...], out_shape: Shape) -> None:
        super().__init__()
        self.latent_shapes, self.feature_shapes, self.out_shape = latent_shapes, feature_shapes, tuple(out_shape)

    @abstractmethod
    def begin(self, z: Tensor) -> Tensor:
        """Return the state after the top level: (rows, *latent_shapes[0]) to (rows, ...)."""

    @abstractmethod
    def prior(self, level: int, state: Tensor) -> Tensor:
        """Return the numbers of the prior of ``level`` 1 ... L - 1, (rows, 2, *latent_shape)."""

    @abstractmethod
    def posterior(self, level: int, state: Tensor | None, features: Tensor) -> Tensor:
        """Return the numbers of the posterior of ``level`` 0 ... L - 1, (rows, 2, *latent_shape).

        Args:
            level: the top one is 0.
            state: after the levels above, (rows, ...); None at the top.
            features: of the level, (batch, *feature_shape).
        """

    @abstractmethod
    def merge(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        """Return the state after ``level`` 1 ... L - 1, whose z is (rows, *latent_shape)."""

    @abstractmethod
    def finish(self, state: Tensor) -> Tensor:
        """Return what the likelihood needs, (rows, *out_shape)."""


class Rung(nn.Module):
    """One level below the top: an affine map to the prior, a gated hidden layer to the posterior, a gated step.

    a(h) = A h;  b(h, f) = B glu(C h + f);  m(h, z) = glu(M h + N z).  A starts at zero, so that p = N(0, 1); M and N
    start smaller the more levels there are, so that the states do not grow, but each by itself: with one layer for
    [h, z] the few numbers of z would hardly be heard beside those of h, and levels died before they were used.

    Args:
        affine: (from, to) channels to an affine layer; ``near`` ones for C and M.
        near: the same for layers that may look at neighbours.
        width: channels of the state.
        hidden: of the posterior's hidden layer; features have twice as many channels.
        latent: channels of z.
        shrink: the factor on M and N.
    """

    def __init__(self, affine: Affine, near: Affine, width: int, hidden: int, latent: int, shrink: float) -> None:
        super().__init__()
        self.prior = started(affine(width, 2 * latent), 0.0)
        self.look = started(near(width, 2 * hidden), 1.0)
        self.posterior = started(affine(hidden, 2 * latent), 0.5)
        self.step = started(near(width, 2 * width), shrink)
        self.take = started(affine(latent, 2 * width), shrink)
        self.gate = nn.GLU(1)

    def infer(self, state: Tensor, features: Tensor) -> Tensor:
        """Return b(h, f)."""
        numbers: Tensor = self.posterior(self.gate(beside(self.look(state), features)))
        return numbers

    def merge(self, state: Tensor, z: Tensor) -> Tensor:
        """Return h + m(h, z)."""
        change: Tensor = self.gate(self.step(state) + self.take(z))
        return state + change


def beside(rows: Tensor, features: Tensor) -> Tensor:
    """Return ``rows``, (samples times batch, ...), plus ``features``, (batch, ...), for every sample."""
    if rows.shape == features.shape:
        return rows + features
    return (rows.reshape(-1, *features.shape) + features).reshape(rows.shape)


def started(layer: nn.Module, scale: float) -> nn.Module:
    """Let an affine layer start normal with variance 2 scale^2 / fan-in and bias 0; return it."""
    nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.mul_(scale)  # type: ignore[operator]
    return layer


def shrink_for(levels: int) -> float:
    """Return the factor that keeps the sum of the steps of all levels as large as one."""
    return 1 / math.sqrt(max(1, levels))


def as_numbers(values: Tensor, shape: Shape) -> Tensor:
    """Return (rows, 2 channels, ...) as (rows, 2, *shape), float32 or wider whatever the autocast."""
    return wide(values).reshape(-1, 2, *shape)


def wide(values: Tensor) -> Tensor:
    """Return ``values`` in float32 or wider: densities are not computed in less."""
    return values.float() if values.dtype.itemsize < 4 else values
