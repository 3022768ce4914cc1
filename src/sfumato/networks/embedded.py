"""Rows of a table, as a network likes them."""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import Count, Length, Size, register

Levels = Annotated[tuple[Count, ...], Length(1_000_000)]


@final
@register("network")
class Embedded(Network):
    """Columns of different kinds to one row of numbers: what an encoder sees of a table, missing cells included.

    A number x becomes (x, 1), a count (log(1 + x), 1), a missing one (0, 0). A level becomes its one-hot row, or in a
    column of more than ``widest`` levels a learned vector of ``widest`` numbers; a missing one becomes zeros.

    Reference: Entity Embeddings of Categorical Variables, Guo and Berkhahn, 2016, https://arxiv.org/abs/1604.06737; the
    marks of missing cells: VAEs in the Presence of Missing Data, Collier et al., 2020,
    https://arxiv.org/abs/2006.05301.

    Args:
        levels: of each column, of which x holds 0, 1, ..., levels - 1; 0 for numbers and counts.
        counts: the columns that hold counts.
        widest: the most numbers that a level becomes.

    Returns (call):
        (..., width): first the numbers and counts, then their marks, then the levels, each in the order of the columns.

    >>> import torch
    >>> table = Embedded(levels=(0, 3))
    >>> table(torch.tensor([[0.5, 2.0], [torch.nan, 0.0]]))
    tensor([[0.5000, 1.0000, 0.0000, 0.0000, 1.0000],
            [0.0000, 0.0000, 1.0000, 0.0000, 0.0000]])
    """

    counted: Tensor

    def __init__(self, levels: Levels, counts: Levels = (), widest: Size = 16) -> None:
        numbers = [place for place, size in enumerate(levels) if not size]
        categories = [place for place, size in enumerate(levels) if size]
        if not levels or not set(counts) <= set(numbers):
            raise UserError(
                f"Embedded needs columns, and counts among those without levels; got levels {levels} and counts "
                f"{counts}. Give 0 as the levels of counts."
            )
        super().__init__((len(levels),), (2 * len(numbers) + sum(min(levels[place], widest) for place in categories),))
        self.levels, self.numbers, self.categories = tuple(levels), numbers, categories
        self.register_buffer("counted", torch.tensor([place in counts for place in numbers]), persistent=False)
        wide = [levels[place] for place in categories if levels[place] > widest]
        self.vectors = nn.ModuleList(nn.Embedding(size, widest) for size in wide)
        self.widest = widest

    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, columns) to (batch, width)."""
        there = ~x.isnan()
        filled = torch.where(there, x, 0.0)
        values, marks = filled[:, self.numbers], there[:, self.numbers].to(x.dtype)
        rows = [torch.where(self.counted, values.clamp(min=0).log1p(), values), marks]
        vectors = iter(self.vectors)
        for place in self.categories:
            size = self.levels[place]
            index = filled[:, place].round().clamp(0, size - 1).long()
            row = next(vectors)(index) if size > self.widest else nn.functional.one_hot(index, size).to(x.dtype)
            rows.append(row * there[:, place, None].to(x.dtype))
        return torch.cat(rows, 1)
