r"""What a model must beat: the likelihood of simple models, fitted on the training split, exact, on the same x.

* ``independent``: every dimension on its own. Discrete data: the histogram of its L levels with one added to each
  count, (n_k + 1) / (n + L). Continuous data: one Gaussian for each dimension. Counts and the columns of a table: see
  :mod:`sfumato.evaluation.table_baselines`.
* ``ppca``: probabilistic PCA with as many latent dimensions as the model, for continuous data: x is
  N(m, W W^T + s^2 I) at the maximum of the likelihood.

Reference: Probabilistic Principal Component Analysis, Tipping and Bishop, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Examples
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.passes import batch_lengths, batches, merged
from sfumato.evaluation.table_baselines import column_sums, independent_columns, independent_counts
from sfumato.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    Mixed,
    MixtureOfLogistics,
    NegativeBinomial,
    Ordinal,
    Poisson,
    ZeroInflated,
)

LogDensity = Callable[[Tensor], Tensor]
COUNTS = (Poisson, NegativeBinomial, ZeroInflated)

FLOOR = math.exp(-14)
LARGEST_COVARIANCE = 4_096


def score_baselines(
    likelihood: Likelihood,
    latent_dim: int,
    train: Examples,
    test: Examples,
    preprocessing: nn.Module,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    processes: Processes = ALONE,
) -> dict[str, Estimate]:
    """Return name -> mean log p(x) over ``test``, nats, in the same unit as the model's evidence.

    Args:
        likelihood: of the model: says which kind of data these are.
        latent_dim: of the model.
        train: the split to fit on.
        test: the split to score.
        preprocessing: raw data to the model's input.
        seed: of the preprocessing's noise; with the seed of an evaluation, x is the same.
        device: where ``preprocessing`` lies.
        processes: that share the work.

    Returns:
        ``independent``, and for continuous data of at most 4,096 dimensions ``ppca``. Nothing where the likelihood has
        no density, or scores counts given their total: there is nothing to compare it with.
    """
    models: dict[str, LogDensity] = {}
    device = torch.device(device)
    if not likelihood.has_density or getattr(likelihood, "library", "decoded") == "observed":
        return {}
    levels = levels_of(likelihood)
    if isinstance(likelihood, Mixed):
        sums = sum_over(train, preprocessing, seed, device, column_sums(likelihood), processes)
        models["independent"] = independent_columns(likelihood, sums)
    elif isinstance(likelihood, COUNTS):
        each = independent_counts(*moments(train, preprocessing, seed, device, processes, full=False))
        models["independent"] = lambda x: each(x).sum(-1)
    elif levels:
        top = levels - 1 if isinstance(likelihood, Categorical | Ordinal) else 1
        models["independent"] = histogram(train, preprocessing, levels, top, seed, device, processes)
    else:
        dims = math.prod(likelihood.shape)
        mean, spread = moments(train, preprocessing, seed, device, processes, full=dims <= LARGEST_COVARIANCE)
        models["independent"] = independent_gaussian(mean, spread.diagonal() if spread.ndim == 2 else spread)
        if spread.ndim == 2:
            models["ppca"] = probabilistic_pca(mean, spread, latent_dim)
    with torch.no_grad():
        scores: dict[str, list[Tensor]] = {name: [] for name in models}
        for x, _, _, _ in batches(test, preprocessing, device, seed, processes=processes):
            for name, model in models.items():
                scores[name].append(model(x.flatten(1)))
    found = merged({name: pieces for name, pieces in scores.items() if pieces}, batch_lengths(test), processes)
    return {name: mean_estimate(values, "nats") for name, values in found.items()}


def levels_of(likelihood: Likelihood) -> int:
    """Return how many levels a value has, 0 for continuous data, counts and tables.

    Raises:
        UserError: discrete data of a kind that has no baseline.
    """
    if isinstance(likelihood, Bernoulli):
        return 2
    if isinstance(likelihood, Categorical | DiscretizedLogistic | MixtureOfLogistics | Ordinal):
        return likelihood.levels
    if likelihood.discrete and not isinstance(likelihood, (*COUNTS, Mixed)):
        raise UserError(f"there is no baseline for {type(likelihood).__name__}. Evaluate without baselines.")
    return 0


@torch.no_grad()
def histogram(
    train: Examples,
    preprocessing: nn.Module,
    levels: int,
    top: float,
    seed: int,
    device: torch.device,
    processes: Processes = ALONE,
) -> LogDensity:
    """Return log P(x), x (batch, dims), of independent dimensions: a histogram of levels each, one added to each count.

    Args:
        train: the split to fit on.
        preprocessing: raw data to x.
        levels: L; x holds k top / (L - 1) for k = 0 ... L - 1.
        top: the highest level.
        seed: of the preprocessing's noise.
        device: where ``preprocessing`` lies.
        processes: that share the work.
    """
    dims = math.prod(train.shape)
    counts = torch.zeros(dims * levels, dtype=torch.int32, device=device)
    base = torch.arange(dims, device=device) * levels

    def cells(x: Tensor) -> Tensor:
        return base + (x * ((levels - 1) / top)).round().long().clamp(0, levels - 1)

    for x, _, _, _ in batches(train, preprocessing, device, seed, processes=processes):
        places = cells(x.flatten(1)).flatten()
        counts.index_add_(0, places, torch.ones_like(places, dtype=torch.int32))
    counts = summed(counts, processes) + 1
    return lambda x: (counts[cells(x)].double() / (len(train) + levels)).log().sum(-1)


@torch.no_grad()
def moments(
    train: Examples,
    preprocessing: nn.Module,
    seed: int,
    device: torch.device,
    processes: Processes = ALONE,
    *,
    full: bool,
) -> tuple[Tensor, Tensor]:
    """Return the mean, (dims,), and the covariance (dims, dims) if ``full``, else the variances (dims,); divisor n."""
    n = len(train)
    mean = sum_over(train, preprocessing, seed, device, lambda x: x.sum(0), processes) / n

    def squares(x: Tensor) -> Tensor:
        centred = x - mean
        return centred.T @ centred if full else centred.square().sum(0)

    return mean, sum_over(train, preprocessing, seed, device, squares, processes) / n


def sum_over(
    train: Examples,
    preprocessing: nn.Module,
    seed: int,
    device: torch.device,
    part: Callable[[Tensor], Tensor],
    processes: Processes = ALONE,
) -> Tensor:
    """Add ``part`` of every batch, float64 (batch, dims)."""
    total = part(torch.zeros(0, math.prod(train.shape), dtype=torch.float64, device=device))
    for x, _, _, _ in batches(train, preprocessing, device, seed, processes=processes):
        total = total + part(x.flatten(1).double())
    return summed(total, processes)


def summed(values: Tensor, processes: Processes) -> Tensor:
    """Return the sum of the ``values`` of every process."""
    return processes.sum(values.to(processes.device)).to(values.device) if processes.several else values


def independent_gaussian(mean: Float64[Tensor, " dims"], variance: Float64[Tensor, " dims"]) -> LogDensity:
    """Return log p(x) of one Gaussian for each dimension, its variance at least exp(-14), as a likelihood's."""
    floored = variance.clamp(min=FLOOR)
    constant = (2 * math.pi * floored).log().sum()
    return lambda x: -0.5 * (((x.double() - mean).square() / floored).sum(-1) + constant)


def probabilistic_pca(
    mean: Float64[Tensor, " dims"], covariance: Float64[Tensor, "dims dims"], latent_dim: int
) -> LogDensity:
    """Return log p(x) of probabilistic PCA at the maximum of the likelihood.

    W spans the ``latent_dim`` first eigenvectors and s^2 is the mean of the other eigenvalues; with no others it is the
    full Gaussian.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=FLOOR), vectors.flip(1)
    rest = values[latent_dim:]
    spectrum = torch.cat([values[:latent_dim], rest.mean().expand(len(rest))])
    constant = (2 * math.pi * spectrum).log().sum()
    return lambda x: -0.5 * ((((x.double() - mean) @ vectors).square() / spectrum).sum(-1) + constant)
