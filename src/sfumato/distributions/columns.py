"""The columns of a table, each with a distribution of its own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class Columns(Distribution):
    r"""log p(x | z) = sum over parts of log p_part(x_part | z): the columns are independent given z.

    Reference: Handling Incomplete Heterogeneous Data using VAEs, Nazabal et al., 2020,
    https://arxiv.org/abs/1807.03653.

    Args:
        parts: distributions of event shape (number of columns,), of one batch shape.
        places: the column that each value of the parts is, in their order; every column once.

    ``log_prob`` takes (..., columns) and returns nats, (...).

    >>> from sfumato.core.gaussians import independent_normal
    >>> one = independent_normal(torch.zeros(1), torch.zeros(1))
    >>> Columns([one, one], (1, 0)).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parts: Sequence[Distribution], places: Sequence[int]) -> None:
        self.parts, self.places = tuple(parts), tuple(places)
        self.sizes = [part.event_shape[0] for part in self.parts]
        super().__init__(self.parts[0].batch_shape, torch.Size((sum(self.sizes),)), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The means of the parts."""
        return self.joined([part.mean for part in self.parts])

    def split(self, value: Tensor) -> tuple[Tensor, ...]:
        """Return the values of each part, (..., its columns)."""
        found: tuple[Tensor, ...] = torch.split(value[..., list(self.places)], self.sizes, -1)
        return found

    def joined(self, values: Sequence[Tensor]) -> Tensor:
        """Return the columns in their own order, (..., columns), from those of each part."""
        order = sorted(range(len(self.places)), key=self.places.__getitem__)
        return torch.cat(list(values), -1)[..., order]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density (of real columns) and log-mass (of all others) of ``value``."""
        scored = [part.log_prob(own) for part, own in zip(self.parts, self.split(value), strict=True)]
        return sum(scored[1:], start=scored[0])

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return rows, (*sample_shape, *batch, columns)."""
        drawn = [part.sample(torch.Size(sample_shape)) for part in self.parts]
        kind = drawn[0].dtype if len({one.dtype for one in drawn}) == 1 else torch.get_default_dtype()
        return self.joined([one.to(kind) for one in drawn])
