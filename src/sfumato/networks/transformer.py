r"""Transformers over tokens or sets.

A block is x + W softmax(q k^T / sqrt(d)) v on the normalised tokens, several heads side by side, and then
x + W_2 gelu(W_1 norm(x)) on each token by itself. Without positions a block does the same whatever the order, so the
mean over the tokens does not hang on it: such an encoder takes sets.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Count, Shape, Size, register


class Block(nn.Module):
    """Attention among the tokens, then a network on each of them; both added to what came in.

    ``causal``: a token sees itself and those before it alone.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        parts = self.query_key_value(self.before(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        query, key, value = parts.unbind(2)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal).transpose(1, 2).flatten(2)
        x = x + self.joined(seen)
        out: Tensor = x + self.narrow(F.gelu(self.wide(self.after(x))))
        return out


def tower(width: int, heads: int, depth: int, causal: bool = False) -> nn.Sequential:
    """Return ``depth`` blocks and a normalisation."""
    if width % heads:
        raise UserError(
            f"the width of a transformer must be a multiple of its heads; got {width} and {heads}. Use 4 heads."
        )
    return nn.Sequential(*[Block(width, heads, causal) for _ in range(depth)], nn.LayerNorm(width))


@final
@register("network")
class TransformerEncoder(Network):
    r"""Tokens to a vector: W mean_t(blocks(embed(x_t) + p_t)), with learned positions p, or without for sets.

    Reference: Attention Is All You Need, Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; sets: Set
    Transformer, Lee et al., 2019, https://arxiv.org/abs/1810.00825.

    Args:
        in_shape: (tokens, numbers of each), or with a ``vocabulary`` (tokens,).
        out_shape: the shape of one output.
        width: numbers of a token inside, a multiple of ``heads``.
        heads: of the attention.
        depth: blocks.
        vocabulary: x holds 0, 1, ..., vocabulary - 1; 0 for numbers.
        positions: learned, one for each token; without them the order does not matter.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> TransformerEncoder((10, 3), (8,), width=16, positions=False)(torch.zeros(5, 10, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        width: Size = 64,
        heads: Size = 4,
        depth: Size = 2,
        vocabulary: Count = 0,
        positions: bool = True,
    ) -> None:
        super().__init__(in_shape, out_shape)
        if len(in_shape) != (1 if vocabulary else 2):
            raise UserError(
                f"TransformerEncoder takes (tokens, numbers), or (tokens,) with a vocabulary; got in_shape={in_shape} "
                f"and vocabulary={vocabulary}. Reshape the data."
            )
        self.vocabulary = vocabulary
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(in_shape[1], width)
        self.positions = nn.Parameter(0.02 * torch.randn(in_shape[0], width)) if positions else None
        self.tower = tower(width, heads, depth)
        self.head = nn.Linear(width, math.prod(out_shape))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, tokens) or (batch, tokens, numbers) to (batch, size of out_shape)."""
        tokens = x.round().clamp(0, self.vocabulary - 1).long() if self.vocabulary else x
        h = self.embed(tokens)
        h = h if self.positions is None else h + self.positions
        out: Tensor = self.head(self.tower(h).mean(1))
        return out


@final
@register("network")
class TransformerDecoder(Network):
    r"""A vector to tokens: W blocks(p_t + V z), one learned position p_t for each token.

    Reference: Attention Is All You Need, Vaswani et al., 2017, https://arxiv.org/abs/1706.03762; tokens from one
    vector: Transformer VAE, Jiang et al., 2020, https://doi.org/10.1109/ICASSP40776.2020.9054554.

    Args:
        in_shape: the shape of one input.
        out_shape: (numbers per value, tokens, ...), what the likelihood asks for.
        width: numbers of a token inside, a multiple of ``heads``.
        heads: of the attention.
        depth: blocks.

    Returns (call):
        (..., *out_shape).

    >>> import torch
    >>> TransformerDecoder((8,), (1, 10, 3), width=16)(torch.zeros(5, 8)).shape
    torch.Size([5, 1, 10, 3])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, width: Size = 64, heads: Size = 4, depth: Size = 2) -> None:
        super().__init__(in_shape, out_shape)
        if len(out_shape) < 2:
            raise UserError(
                f"TransformerDecoder gives (numbers per value, tokens, ...); got out_shape={out_shape}. Use MLP "
                "for vectors."
            )
        numbers, tokens, *rest = out_shape
        self.each = (numbers, *rest)
        self.stem = nn.Linear(math.prod(in_shape), width)
        self.positions = nn.Parameter(torch.randn(tokens, width))
        self.tower = tower(width, heads, depth)
        self.head = nn.Linear(width, math.prod(self.each))

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, *out_shape)."""
        h = self.stem(x.flatten(1)).unsqueeze(1) + self.positions
        out: Tensor = self.head(self.tower(h))
        return out.reshape(*out.shape[:-1], *self.each).transpose(1, 2)
