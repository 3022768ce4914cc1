r"""A table that is read column by column, to what the model sees of it.

A cell may be missing: NaN, in the raw data as in x.
"""

from __future__ import annotations

from typing import Annotated, final

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.spec import Length, register
from sfumato.data.columns import Column, ColumnKind, described
from sfumato.data.content import Array
from sfumato.data.preprocessing import Preprocessing, Standardise


@final
@register("preprocessing")
class Columns(Preprocessing):
    """Raw rows of a table to x: real columns to mean 0 and deviation 1, counts as they are, levels to 0, 1, 2, ...

    A missing cell is NaN on both sides. log_abs_det counts the real columns alone, -sum log scale; of a row with
    missing cells those that are there, see :meth:`log_abs_dets`. Until :meth:`fit`, or loading, mean is 0 and scale 1.

    Args:
        columns: of the table, in its order.

    >>> table = Columns((Column("a", "real"), Column("b", "binary", (1.0, 2.0))))
    >>> table(torch.tensor([[0.5, 2.0], [torch.nan, 1.0]]))
    tensor([[0.5000, 1.0000],
            [   nan, 0.0000]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, columns: Annotated[tuple[Column, ...], Length(1_000_000)]) -> None:
        super().__init__((len(columns),))
        self.columns = tuple(columns)
        self.register_buffer("mean", torch.zeros(len(columns)))
        self.register_buffer("scale", torch.ones(len(columns)))

    def places(self, *kinds: ColumnKind) -> list[int]:
        """Return which columns are of these kinds."""
        return [place for place, column in enumerate(self.columns) if column.kind in kinds]

    def fit(self, raw: Array) -> Columns:
        """Set mean and scale of the real columns to those of the training rows' filled cells."""
        for place in self.places("real"):
            cells = raw[:, place : place + 1]
            one = Standardise((1,)).fit(cells[~np.isnan(cells)][:, None])
            self.mean[place], self.scale[place] = one.mean[0], one.scale[0]
        return self

    def transform(self, raw: Tensor) -> Tensor:
        """Return x; a level that there is not becomes the one below it."""
        wide = raw.double()
        x = (wide - self.mean) / self.scale
        for place in self.places("binary", "category", "ordinal"):
            cells = wide[:, place]
            index = torch.searchsorted(self._values(place, raw), cells.contiguous(), right=True) - 1
            x[:, place] = torch.where(cells.isnan(), torch.nan, index.clamp(min=0).double())
        return x.float()

    def inverse(self, x: Tensor) -> Tensor:
        """Return raw rows: levels and whole numbers rounded."""
        raw = x.double() * self.scale + self.mean
        for place, column in enumerate(self.columns):
            cells = raw[..., place]
            if column.levels:
                values = self._values(place, x)
                cells = values[cells.nan_to_num().round().clamp(0, len(values) - 1).long()]
                raw[..., place] = torch.where(raw[..., place].isnan(), torch.nan, cells)
            elif column.whole:
                raw[..., place] = cells.round()
        return raw.float()

    @property
    def log_abs_det(self) -> float:
        """-sum log scale over the real columns of a complete row, nats."""
        return -float(self.scale.double().log().sum())

    def log_abs_dets(self, raw: Tensor) -> Float64[Tensor, " batch"]:
        """Return -sum log scale over the real columns whose cells are there, nats."""
        there = (~raw.isnan()).double()
        return -(there * self.scale.double().log()).sum(-1)

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for a level that no training row has, or a count that is none."""
        for place, column in enumerate(self.columns):
            cells = raw[:, place]
            cells = cells[~np.isnan(cells)].astype(np.float64)
            if column.levels:
                odd = cells[~np.isin(cells.astype(np.float32), np.array(column.values, dtype=np.float32))]
            else:
                odd = cells[(cells < 0) | (cells != np.floor(cells))] if column.kind == "count" else cells[:0]
            if len(odd):
                raise UserError(
                    f"{source}, column '{column.name}': expected {described(column)}; got {odd[0]:g}. Empty that cell, "
                    "or train on data that have it."
                )

    def _values(self, place: int, like: Tensor) -> Tensor:
        """Return the raw values of a column of levels, as float32 keeps them."""
        values = torch.tensor(self.columns[place].values or (0.0,), dtype=torch.float32)
        return values.to(like.device).double()
