"""Tables whose columns are of different kinds, some of their cells missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from sfumato import distributions
from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Count, Length, register
from sfumato.likelihoods.bernoulli import Bernoulli
from sfumato.likelihoods.masked import Masked

Parts = Annotated[tuple[Likelihood, ...], Length(10_000)]
Places = Annotated[tuple[Count, ...], Length(1_000_000)]


@final
@register("likelihood")
class Mixed(Likelihood):
    r"""log p(x | z) = sum over the columns d that are there of log p_d(x_d | z), each of its own kind.

    Real columns have densities, all others masses. A missing cell is NaN and does not count
    (:class:`~sfumato.likelihoods.Masked`). Columns of one kind may share a part.

    Reference: Handling Incomplete Heterogeneous Data using VAEs, Nazabal et al., 2020,
    https://arxiv.org/abs/1807.03653; missing cells: MIWAE, Mattei and Frellsen, 2019, https://arxiv.org/abs/1812.02633.

    Args:
        parts: a likelihood of shape (number of columns,) for each part of the table, independent in every value.
        places: the columns of the first part, then those of the second, ...; every column once.

    Returns (call):
        a :class:`~sfumato.distributions.Columns` of event shape (columns,), whose samples are complete. The decoder
        gives all numbers of the first part, then of the second, ..., in one row: see ``parameter_shape``.

    >>> import torch
    >>> from sfumato.likelihoods import Categorical, Gaussian
    >>> table = Mixed((Gaussian((2,), "per_dimension"), Categorical((1,), levels=3)), places=(0, 2, 1))
    >>> table.parameter_shape, table(torch.zeros(5, 5)).sample().shape
    ((5,), torch.Size([5, 3]))
    """

    def __init__(self, parts: Parts, places: Places) -> None:
        sizes = [part.shape for part in parts]
        if (
            not parts
            or any(len(shape) != 1 for shape in sizes)
            or sorted(places) != list(range(sum(s for (s,) in sizes)))
        ):
            raise UserError(
                f"Mixed needs parts of shape (columns,) and every column once among their places; got parts of "
                f"{', '.join(map(str, sizes)) or 'nothing'} and places {places}. List the columns of each part."
            )
        super().__init__((len(places),))
        self.parts = torch.nn.ModuleList(Masked(part) for part in parts)
        self.places = tuple(places)
        self.widths = [part.numbers_per_value * part.shape[0] for part in parts]
        self.numbers_per_value = max(part.numbers_per_value for part in parts)

    @property
    def whole_parts(self) -> list[Likelihood]:
        """The likelihoods of the parts, of complete data."""
        return [part.likelihood for part in self._masked]

    @property
    def _masked(self) -> list[Masked]:
        return [part for part in self.parts if isinstance(part, Masked)]

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether all columns have masses."""
        return all(part.discrete for part in self._masked)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The numbers of all parts, in one row."""
        return (sum(self.widths),)

    def distribution(self, parameters: Tensor) -> distributions.Columns:
        """Return the distribution of rows."""
        rows = torch.split(parameters, self.widths, -1)
        found = [
            part(row.reshape(*row.shape[:-1], *part.parameter_shape))
            for part, row in zip(self._masked, rows, strict=True)
        ]
        return distributions.Columns(found, self.places)

    def expectation(self, observation: Distribution) -> Tensor:
        """Return the mean of numbers and counts, and the likeliest level of everything else."""
        return self.centre(observation, self.summaries(observation))

    def summaries(self, observation: Distribution) -> list[Tensor]:
        """Return what a mixture averages: means, (..., columns), or of levels P(level), (..., columns, levels).

        Args:
            observation: what a call gave.
        """
        assert isinstance(observation, distributions.Columns)
        found = []
        for part, own in zip(self.whole_parts, observation.parts, strict=True):
            assert isinstance(own, distributions.Masked)
            shares = probabilities(part, own.whole)
            found.append(own.mean if shares is None else shares)
        return found

    def centre(self, observation: Distribution, summaries: Sequence[Tensor]) -> Tensor:
        """Return the mean of numbers and counts, and the likeliest level of everything else, (..., columns).

        Args:
            observation: what a call gave.
            summaries: :meth:`summaries` of it, or a mean of them over draws of z.
        """
        assert isinstance(observation, distributions.Columns)
        found = [
            value.argmax(-1).to(value.dtype) if has_levels(part) else value
            for part, value in zip(self.whole_parts, summaries, strict=True)
        ]
        return observation.joined(found)

    def accept_step(self) -> None:
        """Let the parts take over their statistics."""
        for part in self.whole_parts:
            part.accept_step()


def has_levels(likelihood: Likelihood) -> bool:
    """Whether values are levels, of which there is a likeliest one; else they are numbers or counts."""
    return isinstance(likelihood, Bernoulli) or hasattr(likelihood, "levels")


def probabilities(likelihood: Likelihood, whole: Independent[Distribution]) -> Tensor | None:
    """Return P(level), (..., columns, levels), of what has levels; None for numbers and counts."""
    if not has_levels(likelihood):
        return None
    found: Tensor = whole.base_dist.probs  # type: ignore[attr-defined]
    return torch.stack([1 - found, found], -1) if isinstance(likelihood, Bernoulli) else found
