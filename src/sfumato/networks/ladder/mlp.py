"""Ladders of gated fully connected layers, for small images, vectors and tables."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.spec import Shape, Size, Widths, register
from sfumato.networks.ladder.paths import BottomUp, Rung, TopDown, as_numbers, shrink_for, started, wide


@final
@register("bottom_up")
class MLPBottomUp(BottomUp):
    r"""g_L = glu(W x), g_{l-1} = g_l + glu(W_l g_l): one gated layer for each level; f_l = U_l g_l.

    Reference: Ladder Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282.

    Args:
        in_shape: the shape of one example.
        levels: how many.
        width: of the gated layers.
        hidden: half the size of each level's features.

    Returns (call):
        the features of each level, top first, each (batch, 2 hidden).

    >>> import torch
    >>> [f.shape for f in MLPBottomUp((1, 28, 28), levels=2, width=300, hidden=100)(torch.zeros(5, 1, 28, 28))]
    [torch.Size([5, 200]), torch.Size([5, 200])]
    """

    def __init__(self, in_shape: Shape, levels: Size = 3, width: Size = 300, hidden: Size = 128) -> None:
        super().__init__(in_shape, ((2 * hidden,),) * levels)
        self.first = started(nn.Linear(math.prod(in_shape), 2 * width), 1.0)
        shrink = shrink_for(levels)
        self.steps = nn.ModuleList(started(nn.Linear(width, 2 * width), shrink) for _ in range(levels - 1))
        self.outs = nn.ModuleList(started(nn.Linear(width, 2 * hidden), 1.0) for _ in range(levels))
        self.gate = nn.GLU(1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (batch, *in_shape) to the features."""
        state = self.gate(self.first(x.flatten(1)))
        found = [self.outs[0](state)]
        for step, out in zip(self.steps, list(self.outs)[1:], strict=True):
            state = state + self.gate(step(state))
            found.append(out(state))
        return found[::-1]


@final
@register("top_down")
class MLPTopDown(TopDown):
    r"""The shared top-down path of gated layers; h_1 = glu(T z_1), and o(h) = O glu(N h) at the end.

    Reference: Ladder Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282; residual
    states: Very Deep VAEs, Child, 2021, https://arxiv.org/abs/2011.10650.

    Args:
        latent_dims: the number of dimensions of z at each level, top first.
        out_shape: what the likelihood asks for.
        width: of the states.
        hidden: of each posterior's hidden layer; features have twice as many numbers.

    >>> import torch
    >>> path = MLPTopDown((4, 8), (1, 28, 28), width=32, hidden=16)
    >>> path.finish(path.merge(1, path.begin(torch.zeros(5, 4)), torch.zeros(5, 8))).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(self, latent_dims: Widths, out_shape: Shape, width: Size = 300, hidden: Size = 128) -> None:
        if not latent_dims:
            raise UserError("MLPTopDown needs at least one level; got none. Use latent_dims=(8, 16).")
        levels = len(latent_dims)
        super().__init__(tuple((size,) for size in latent_dims), ((2 * hidden,),) * levels, out_shape)
        self.top = started(nn.Linear(hidden, 2 * latent_dims[0]), 0.5)
        self.first = started(nn.Linear(latent_dims[0], 2 * width), 1.0)
        shrink = shrink_for(levels)
        self.rungs = nn.ModuleList(Rung(nn.Linear, nn.Linear, width, hidden, size, shrink) for size in latent_dims[1:])
        self.last = started(nn.Linear(width, 2 * width), 1.0)
        self.out = nn.Linear(width, math.prod(out_shape))
        self.gate = nn.GLU(1)

    def begin(self, z: Tensor) -> Tensor:
        """Return glu(T z_1)."""
        state: Tensor = self.gate(self.first(z))
        return state

    def prior(self, level: int, state: Tensor) -> Tensor:
        """Return (rows, 2, latent)."""
        return as_numbers(self.rungs[level - 1].prior(state), self.latent_shapes[level])  # type: ignore[operator]

    def posterior(self, level: int, state: Tensor | None, features: Tensor) -> Tensor:
        """Return (rows, 2, latent)."""
        if state is None:
            return as_numbers(self.top(self.gate(features)), self.latent_shapes[0])
        return as_numbers(self.rungs[level - 1].infer(state, features), self.latent_shapes[level])  # type: ignore[operator]

    def merge(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        """Return the next state."""
        state = self.rungs[level - 1].merge(state, z)  # type: ignore[operator]
        return state

    def finish(self, state: Tensor) -> Tensor:
        """Return (rows, *out_shape)."""
        out: Tensor = self.out(self.gate(self.last(state)))
        return wide(out).reshape(-1, *self.out_shape)
