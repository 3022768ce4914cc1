"""From the decisions about data to a likelihood, and to what the encoder sees of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfumato import likelihoods
from sfumato.core.interfaces import Likelihood, Network
from sfumato.data import Dataset, Decision, Inspection, decided
from sfumato.data.columns import Column
from sfumato.data.content import Array
from sfumato.likelihoods import Mixed, NegativeBinomial, Poisson, ZeroInflated
from sfumato.networks import Embedded, Log1p


def build_likelihood(decisions: list[Decision], dataset: Dataset, facts: Inspection) -> Likelihood:
    """Return the likelihood that was decided."""
    name, levels, shape = decided(decisions, "likelihood"), decided(decisions, "levels", 256), dataset.shape
    if name == "bernoulli":
        return likelihoods.Bernoulli(shape)
    if name == "logistic":
        return likelihoods.DiscretizedLogistic(shape, levels)
    if name == "mixture-of-logistics":
        return likelihoods.MixtureOfLogistics(shape, levels=levels)
    if name == "categorical":
        return likelihoods.Categorical(shape, levels)
    if name == "ordinal":
        return likelihoods.Ordinal(shape, levels)
    if name == "continuous-bernoulli":
        return likelihoods.ContinuousBernoulli(shape)
    if name == "laplace":
        return likelihoods.Laplace(shape)
    if name == "student-t":
        return likelihoods.StudentT(shape)
    if name == "mixed":
        return mixed(facts.columns, dataset.array("train"))
    if name == "gaussian":
        return likelihoods.Gaussian(shape, decided(decisions, "variance", "optimal"))
    means = means_of(dataset.array("train"))
    if name == "poisson":
        return Poisson(shape, means=means)
    counts = NegativeBinomial(shape, means=means)
    return ZeroInflated(counts) if name == "zero-inflated-negative-binomial" else counts


def means_of(counts: Array) -> tuple[float, ...]:
    """Return the mean of every value over training examples, (n, *shape) with NaN where a cell is missing.

    At least half a count in all of them, so that it has a logarithm; to six digits.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    known = (~np.isnan(flat)).sum(0)
    means = np.maximum(np.nansum(flat, 0), 0.5) / np.maximum(known, 1)
    return tuple(float(f"{mean:.6g}") for mean in means)


def mixed(columns: Sequence[Column], train: Array) -> Mixed:
    """Return a likelihood for each column; columns of one kind, and of as many levels, share a part.

    Args:
        columns: of the table.
        train: the training rows, (n, columns), NaN where a cell is missing.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for place, column in enumerate(columns):
        groups.setdefault((column.kind, column.levels), []).append(place)
    parts: list[Likelihood] = []
    for (kind, levels), places in groups.items():
        shape = (len(places),)
        if kind == "real":
            parts.append(likelihoods.Gaussian(shape, "per_dimension"))
        elif kind == "count":
            parts.append(NegativeBinomial(shape, means=means_of(train[:, places])))
        elif kind == "binary":
            parts.append(likelihoods.Bernoulli(shape))
        elif kind == "ordinal":
            parts.append(likelihoods.Ordinal(shape, levels))
        else:
            parts.append(likelihoods.Categorical(shape, levels))
    return Mixed(tuple(parts), tuple(place for places in groups.values() for place in places))


def encoder_input(likelihood: Likelihood) -> Network | None:
    """Return the network that prepares x for an encoder; None where it takes x as it is.

    Counts become their logarithms, rows of a table numbers with marks for what is there; the likelihood keeps x.
    """
    if isinstance(likelihood, Poisson | NegativeBinomial | ZeroInflated):
        return Log1p(likelihood.shape)
    if not isinstance(likelihood, Mixed):
        return None
    counts: list[int] = []
    levels, start = [0] * likelihood.shape[0], 0
    for part in likelihood.whole_parts:
        places = likelihood.places[start : start + part.shape[0]]
        start += part.shape[0]
        if isinstance(part, NegativeBinomial):
            counts.extend(places)
        for place in places:
            levels[place] = 2 if isinstance(part, likelihoods.Bernoulli) else getattr(part, "levels", 0)
    return Embedded(tuple(levels), tuple(sorted(counts)))
