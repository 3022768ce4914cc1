r"""Simple models of counts, and of tables whose columns are of different kinds, from sums over the training rows.

Counts: the negative binomial of the mean m and the variance v of each value, r = m^2 / (v - m), a Poisson where v is
not above m. Levels: the histogram with one added to each count, (n_k + 1) / (n + L). Real columns: a Gaussian. Missing
cells are left out of the sums, and of the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional as F

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.likelihoods import Bernoulli, Mixed, NegativeBinomial

FLOOR = 1e-6


def independent_counts(mean: Tensor, variance: Tensor) -> Callable[[Tensor], Tensor]:
    """Return log P(x), x (batch, dims), of independent counts with these moments, nats of each value."""
    mean = mean.clamp(min=FLOOR)
    r = mean.square() / (variance - mean).clamp(min=FLOOR * mean.square())
    return distributions.NegativeBinomial(mean.log(), r.log()).log_prob


def levels_of_part(part: Likelihood) -> int:
    """Return how many levels the columns of a part have, 0 for numbers and counts."""
    return 2 if isinstance(part, Bernoulli) else int(getattr(part, "levels", 0))


def column_sums(likelihood: Mixed) -> Callable[[Tensor], Tensor]:
    """Return what is added up over the rows x, (batch, columns): how many cells are there, x, x^2, levels, in a row."""

    def sums(x: Tensor) -> Tensor:
        there = ~x.isnan()
        filled = torch.where(there, x, 0.0)
        found = [there.sum(0), filled.sum(0), filled.square().sum(0)]
        for _, place, levels in _columns(likelihood):
            if levels:
                rows = F.one_hot(filled[:, place].long(), levels).to(x.dtype) * there[:, place, None]
                found.append(rows.sum(0))
        return torch.cat([part.to(torch.float64) for part in found])

    return sums


def independent_columns(likelihood: Mixed, sums: Float64[Tensor, " sums"]) -> Callable[[Tensor], Tensor]:
    """Return log p(x), x (batch, columns), of independent columns, nats, from what :func:`column_sums` added up."""
    size = likelihood.shape[0]
    there, total, squares = sums[: 3 * size].reshape(3, size)
    mean = total / there.clamp(min=1)
    variance = (squares / there.clamp(min=1) - mean.square()).clamp(min=FLOOR)
    rest = sums[3 * size :]
    scores: list[tuple[int, Callable[[Tensor], Tensor]]] = []
    for part, place, levels in _columns(likelihood):
        if levels:
            shares = ((rest[:levels] + 1) / (there[place] + levels)).log()
            rest = rest[levels:]
            scores.append((place, lambda cells, shares=shares: shares[cells.long()]))  # type: ignore[misc]
        elif isinstance(part, NegativeBinomial):
            scores.append((place, independent_counts(mean[place], variance[place])))
        else:
            normal = torch.distributions.Normal(mean[place], variance[place].sqrt(), validate_args=False)
            scores.append((place, normal.log_prob))

    def log_density(x: Tensor) -> Tensor:
        missing = x.isnan()
        filled = torch.where(missing, 0.0, x).double()
        found = torch.stack([score(filled[:, place]).masked_fill(missing[:, place], 0.0) for place, score in scores])
        return found.sum(0)

    return log_density


def _columns(likelihood: Mixed) -> list[tuple[Likelihood, int, int]]:
    """Return (part, column, levels) of every column, in the order of the parts."""
    places = iter(likelihood.places)
    return [(part, next(places), levels_of_part(part)) for part in likelihood.whole_parts for _ in range(part.shape[0])]
