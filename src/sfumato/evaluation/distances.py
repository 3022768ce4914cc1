r"""How far two sets of feature rows are apart. x_1 ... x_n are real, y_1 ... y_m generated, in d features.

* Frechet distance of the two Gaussians with the sets' means and covariances (divisors n - 1 and m - 1),

      |mean_x - mean_y|^2 + tr(S_x + S_y) - 2 tr((S_x^1/2 S_y S_x^1/2)^1/2).

  The last trace is the sum of the singular values of S_x^1/2 S_y^1/2, both roots by eigenvalues: no root is taken of a
  product, whose rounding a root would magnify. Biased upwards by about d / n; singular where n <= d.
* Kernel distance, the unbiased estimate of MMD^2 with k(a, b) = (a . b / d + 1)^3, over all pairs; with the Inception
  network it is the KID. Its mean is 0 under equality: single values may be negative.
* Precision: the share of the y within the k nearest neighbours' distance of some x. Recall: the same with x and y
  exchanged; k = 3. Density: how many of these balls of the x hold a y, on average, divided by k. Coverage: the share of
  the x whose ball holds some y; k = 5. For equal distributions density has the mean 1 and coverage nearly 1 - 2^-k.
* Two-sample test: the accuracy of a classifier that was trained on half of both sets and is asked about the other.

References: GANs Trained by a Two Time-Scale Update Rule, Heusel et al., 2017, https://arxiv.org/abs/1706.08500;
Demystifying MMD GANs, Binkowski et al., 2018, https://arxiv.org/abs/1801.01401; Improved Precision and Recall Metric,
Kynkaanniemi et al., 2019, https://arxiv.org/abs/1904.06991; Reliable Fidelity and Diversity Metrics, Naeem et al.,
2020, https://arxiv.org/abs/2002.09797; Revisiting Classifier Two-Sample Tests, Lopez-Paz and Oquab, 2017,
https://arxiv.org/abs/1610.06545.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.evaluation.estimate import Estimate, mean_estimate

GROUPS = 10
NEAREST_PRECISION = 3
NEAREST_COVERAGE = 5
HIDDEN = 20
EPOCHS = 100
BATCH = 250
BLOCK_NUMBERS = 16_000_000
STREAM = 0x66696465  # "fide": keeps these random numbers apart from others with the same seed

Rows = Float64[Tensor, "n d"]
OtherRows = Float64[Tensor, "m d"]


@dataclass(frozen=True)
class TwoSample:
    """What a classifier makes of real against generated.

    Args:
        accuracy: on the examples that it was not trained on, half of them real: 1/2 is chance.
        p_value: the probability of this accuracy or more if both sets came from one distribution, from
            N(1/2, 1 / (4 n)) as in the paper.
    """

    accuracy: Estimate
    p_value: float


def frechet_distance(real: Rows, generated: OtherRows) -> Estimate:
    """Return the Frechet distance of the two sets' Gaussians, with a delete-a-group jackknife error (10 groups).

    Args:
        real: feature rows.
        generated: feature rows.

    Raises:
        UserError: fewer than 2 rows in a set.
    """
    _check(real, generated, 2)
    sets = [_Moments(real), _Moments(generated)]

    def value(kept: Tensor) -> float:
        return frechet_of_gaussians(*sets[0].of(kept), *sets[1].of(kept))

    return jackknife(value, len(real), len(generated), "squared features")


def frechet_of_gaussians(
    mean_x: Float64[Tensor, " d"],
    covariance_x: Float64[Tensor, "d d"],
    mean_y: Float64[Tensor, " d"],
    covariance_y: Float64[Tensor, "d d"],
) -> float:
    """Return the Frechet distance (squared 2-Wasserstein distance) of two Gaussians.

    >>> one = torch.eye(2).double()
    >>> round(frechet_of_gaussians(torch.zeros(2).double(), one, torch.ones(2).double(), 4 * one), 9)
    4.0
    """
    cross = torch.linalg.svdvals(_root(covariance_x) @ _root(covariance_y)).sum()
    distance = (mean_x - mean_y).square().sum() + covariance_x.trace() + covariance_y.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(real: Rows, generated: OtherRows) -> Estimate:
    """Return the unbiased MMD^2 under (a . b / d + 1)^3, with a delete-a-group jackknife error (10 groups).

    Args:
        real: feature rows.
        generated: feature rows.

    Raises:
        UserError: fewer than 2 rows in a set.
    """
    _check(real, generated, 2)
    n, m = (_group_sizes(len(rows)) for rows in (real, generated))
    xx, yy, xy = _kernel_sums(real, real), _kernel_sums(generated, generated), _kernel_sums(real, generated)

    def value(kept: Tensor) -> float:
        n_kept, m_kept = float(n[kept].sum()), float(m[kept].sum())
        within_x, within_y, between = (float(sums[kept][:, kept].sum()) for sums in (xx, yy, xy))
        return within_x / (n_kept * (n_kept - 1)) + within_y / (m_kept * (m_kept - 1)) - 2 * between / (n_kept * m_kept)

    return jackknife(value, len(real), len(generated), "squared MMD")


def neighbour_scores(
    real: Rows,
    generated: OtherRows,
    *,
    nearest_precision: int = NEAREST_PRECISION,
    nearest_coverage: int = NEAREST_COVERAGE,
) -> dict[str, Estimate]:
    """Return ``precision``, ``recall``, ``density`` and ``coverage``.

    The standard errors are over the rows that are counted, the balls held fixed.

    Args:
        real: feature rows.
        generated: feature rows.
        nearest_precision: k of precision and recall.
        nearest_coverage: k of density and coverage.

    Raises:
        UserError: not more than k rows in a set.
    """
    deepest = max(nearest_precision, nearest_coverage)
    _check(real, generated, deepest + 1)
    radii = _radii(real, deepest)
    narrow, wide = radii[:, nearest_precision - 1], radii[:, nearest_coverage - 1]
    generated_radii = _radii(generated, deepest)[:, nearest_precision - 1]
    precise, density = [], []
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    size = max(1, BLOCK_NUMBERS // len(real))
    for rows, own in zip(torch.split(generated, size), torch.split(generated_radii, size), strict=True):
        distance = _distances(rows, real)
        precise.append((distance <= narrow).any(1))
        within = distance <= wide
        density.append(within.sum(1) / nearest_coverage)
        covered |= within.any(0)
        recalled |= (distance <= own.unsqueeze(1)).any(0)
    return {
        "precision": mean_estimate(torch.cat(precise), "fraction"),
        "recall": mean_estimate(recalled, "fraction"),
        "density": mean_estimate(torch.cat(density), "ratio"),
        "coverage": mean_estimate(covered, "fraction"),
    }


def two_sample_test(real: Rows, generated: OtherRows, *, seed: int = 0) -> TwoSample:
    """Return how well a classifier tells generated from real: one hidden layer of 20 units, 100 epochs of Adam.

    Args:
        real: feature rows.
        generated: feature rows; of the larger set as many as of the smaller are used.
        seed: which rows, which half, weights and batches.

    Raises:
        UserError: fewer than 4 rows in a set.
    """
    _check(real, generated, 4)
    size = min(len(real), len(generated))
    half = size // 2
    with fixed_noise(seed_for(STREAM, seed)), torch.enable_grad():
        halves: list[list[Tensor]] = [[], []]
        for rows in (real, generated):
            mixed = rows[torch.randperm(len(rows))[:size]]
            halves[0].append(mixed[:half])
            halves[1].append(mixed[half:])
        train, test = (torch.cat(parts) for parts in halves)
        spread = train.std(0)
        train, test = (
            ((rows - train.mean(0)) / torch.where(spread > 0, spread, 1.0)).float() for rows in (train, test)
        )
        labels, truth = (torch.arange(len(rows)) >= len(rows) // 2 for rows in (train, test))
        network = nn.Sequential(nn.Linear(train.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
        optimizer = torch.optim.Adam(network.parameters())
        for _ in range(EPOCHS):
            for chosen in torch.split(torch.randperm(len(train)), BATCH):
                loss = F.binary_cross_entropy_with_logits(network(train[chosen]).squeeze(-1), labels[chosen].float())
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        right = (network(test).squeeze(-1) > 0) == truth
    accuracy = mean_estimate(right, "fraction")
    return TwoSample(accuracy, 0.5 * math.erfc((accuracy.value - 0.5) * math.sqrt(2 * accuracy.n)))


def jackknife(value: Callable[[Tensor], float], n: int, m: int, unit: str) -> Estimate:
    """Return ``value`` of everything with its delete-a-group jackknife standard error.

    Row i of either set is in group i modulo 10; sqrt((G - 1) / G sum_j (v_j - mean)^2), v_j without group j.

    Args:
        value: the statistic of the groups of a mask, (groups,).
        n: rows in the first set.
        m: rows in the second.
        unit: of the statistic.

    Returns:
        the estimate, its n that of the smaller set; the error is NaN where a set has fewer than 2 rows a group.
    """
    everything = torch.ones(GROUPS, dtype=torch.bool)
    smaller = min(n, m)
    error = math.nan
    if smaller >= 2 * GROUPS:
        left = torch.tensor([value(torch.arange(GROUPS) != group) for group in range(GROUPS)]).double()
        error = math.sqrt((GROUPS - 1) / GROUPS * float((left - left.mean()).square().sum()))
    return Estimate(value(everything), error, smaller, unit)


class _Moments:
    """Sums of a set about its mean, group by group."""

    def __init__(self, rows: Tensor) -> None:
        self.centre = rows.mean(0)
        centred = rows - self.centre
        self.sizes = _group_sizes(len(rows))
        self.sums = torch.stack([centred[group::GROUPS].sum(0) for group in range(GROUPS)])
        self.squares = torch.stack([centred[group::GROUPS].T @ centred[group::GROUPS] for group in range(GROUPS)])

    def of(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of the groups ``kept``."""
        n, total = self.sizes[kept].sum(), self.sums[kept].sum(0)
        covariance = (self.squares[kept].sum(0) - torch.outer(total, total) / n) / (n - 1)
        return self.centre + total / n, covariance


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """Return the sums of k over the pairs of every two groups, (10, 10); of a set with itself without the diagonal."""
    sums = torch.zeros(GROUPS, GROUPS, dtype=torch.float64)
    x_groups, y_groups = (torch.eye(GROUPS).double()[torch.arange(len(rows)) % GROUPS] for rows in (x, y))
    size = max(1, BLOCK_NUMBERS // len(y))
    for rows, groups in zip(torch.split(x, size), torch.split(x_groups, size), strict=True):
        sums += groups.T @ ((rows @ y.T / x.shape[1] + 1).pow(3) @ y_groups)
    if x is y:
        own = (x.square().sum(1) / x.shape[1] + 1).pow(3)
        sums -= (x_groups.T @ own).diag()
    return sums


def _group_sizes(n: int) -> Tensor:
    return torch.tensor([len(range(group, n, GROUPS)) for group in range(GROUPS)], dtype=torch.float64)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences: the shorter way by products would not find that two equal rows are 0 apart.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(rows: Tensor, deepest: int) -> Tensor:
    """Return the distance of every row to its 1st ... ``deepest``-th neighbour, itself not counted, (n, deepest)."""
    parts = torch.split(rows, max(1, BLOCK_NUMBERS // len(rows)))
    return torch.cat([_distances(part, rows).topk(deepest + 1, largest=False).values for part in parts])[:, 1:]


def _check(real: Tensor, generated: Tensor, least: int) -> None:
    if min(len(real), len(generated)) < least:
        raise UserError(
            f"this figure needs at least {least} real and {least} generated examples; got {len(real)} and "
            f"{len(generated)}. Take more."
        )
