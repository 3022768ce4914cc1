r"""Disentanglement: does each factor that the data were made from have a latent dimension of its own?

Codes c are posterior means, (n, d); factors v are whole numbers, (n, k). Settings are those of disentanglement_lib.

* MIG, mutual information gap: mean over factors of (I(c_best; v) - I(c_second; v)) / H(v), codes in 20 equal bins.
* DCI: how much code i matters to boosted trees that predict factor j is R_ij. Disentanglement is the mean over codes,
  weighted by sum_j R_ij, of 1 - H_k(R_i. / sum_j R_ij); completeness the same over the columns, entropy to base d;
  informativeness the share of factors that the trees predict right on other examples.
* FactorVAE score: of 64 examples with one factor fixed, which code varies least, relative to its variance over all
  data? The majority vote from that code to the factor, on other votes.
* SAP, separated attribute predictability: mean over factors of the gap between the two codes from which, alone, a
  linear support vector machine (C = 0.01, classes balanced) predicts it best.

All are 1 for a perfect representation, but SAP, whose second code is right by chance. Where disentanglement_lib draws
examples anew for each score, here all scores share them.

References: Isolating Sources of Disentanglement, Chen et al., 2018, https://arxiv.org/abs/1802.04942; A Framework for
the Quantitative Evaluation of Disentangled Representations, Eastwood and Williams, 2018,
https://openreview.net/forum?id=By-7dz-AZ; Disentangling by Factorising, Kim and Mnih, 2018,
https://arxiv.org/abs/1802.05983; Variational Inference of Disentangled Latent Concepts, Kumar et al., 2018,
https://arxiv.org/abs/1711.00848; Challenging Common Assumptions, Locatello et al., 2019,
https://arxiv.org/abs/1811.12359 (disentanglement_lib).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.numerics import seed_for
from sfumato.evaluation.distances import jackknife
from sfumato.evaluation.estimate import Estimate, mean_estimate

BINS = 20
EXAMPLES = 10_000
TEST_EXAMPLES = 5_000
VOTES = 10_000
TEST_VOTES = 5_000
VOTE_EXAMPLES = 64
DEAD = 0.05
VOTES_TOGETHER = 500
STREAM = 0x646973656E74  # "disent": keeps these random numbers apart from others with the same seed

Codes = Float[Tensor, "n d"]
Factors = Int64[Tensor, "n k"]
Trees = Literal["boosted", "forest"]


@dataclass(frozen=True)
class MeanOverFactors:
    """A mean over factors.

    Args:
        mean: over factors, with its standard error over examples.
        per_factor: the score of each.
    """

    mean: Estimate
    per_factor: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return self.mean.to_dict() | {"per_factor": list(self.per_factor)}


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness, informativeness.

    Args:
        disentanglement: 1 where every code serves one factor.
        completeness: 1 where every factor is served by one code.
        informativeness: the share of factors predicted right, on other examples than the trees were trained on.
        informativeness_train: the same on these.
        importance: R, a row each code, a column each factor.
        trees: "boosted" or "forest".
    """

    disentanglement: float
    completeness: float
    informativeness: Estimate
    informativeness_train: float
    importance: tuple[tuple[float, ...], ...]
    trees: Trees

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {
            "disentanglement": self.disentanglement,
            "completeness": self.completeness,
            "informativeness": self.informativeness.to_dict(),
            "informativeness_train": self.informativeness_train,
            "importance": [list(row) for row in self.importance],
            "trees": self.trees,
        }


@dataclass(frozen=True)
class FactorVAEScore:
    """The majority vote's accuracy.

    Args:
        score: on the votes it was not made from; its standard error over votes.
        train: on those it was made from.
        active: codes with a standard deviation of at least 0.05 over the data; the others have no vote.
    """

    score: Estimate
    train: float
    active: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return self.score.to_dict() | {"train": self.train, "active": self.active}


def mig(codes: Codes, factors: Factors, *, bins: int = BINS) -> MeanOverFactors:
    """Return the mutual information gap; its standard error by the delete-a-group jackknife (10 groups).

    Args:
        codes: at least 2 columns.
        factors: every one with at least 2 values.
        bins: of equal width between the smallest and the largest value of a code.

    >>> bits = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    >>> mig(bits.double(), bits).mean.value
    1.0
    """
    _check(codes, factors)

    def gaps(rows: Tensor) -> Tensor:
        levels, classes = binned(codes[rows], bins), factors[rows]
        known = torch.stack([mutual_information(levels, column) for column in classes.T])
        top = known.topk(2, dim=1).values
        entropy = torch.stack([mutual_information(column.unsqueeze(1), column) for column in classes.T])
        return (top[:, 0] - top[:, 1]) / entropy.squeeze(1)

    everything = torch.arange(len(codes))

    def value(kept: Tensor) -> float:
        return float(gaps(everything[kept[everything % len(kept)]]).mean())

    return MeanOverFactors(jackknife(value, len(codes), len(codes), "fraction"), tuple(gaps(everything).tolist()))


def binned(codes: Codes, bins: int) -> Int64[Tensor, "n d"]:
    """Return the number of the bin of every value, bins of equal width in each column's range.

    Args:
        codes: (n, d).
        bins: how many in each column.
    """
    columns = []
    for column in codes.double().T:
        low, high = float(column.min()), float(column.max())
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)[1:-1]
        columns.append(torch.bucketize(column.contiguous(), edges, right=True) if high > low else column.long() * 0)
    return torch.stack(columns, 1)


def mutual_information(levels: Int64[Tensor, "n d"], classes: Int64[Tensor, " n"]) -> Float64[Tensor, " d"]:
    """Return I(column; classes) of every column of ``levels``, nats, of the frequencies as they are.

    Args:
        levels: whole numbers from 0.
        classes: whole numbers from 0.
    """
    width = int(classes.max()) + 1
    result = []
    for column in levels.T:
        counts = torch.bincount(column * width + classes, minlength=(int(column.max()) + 1) * width)
        joint = counts.reshape(-1, width).double() / len(classes)
        product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        seen = joint > 0
        result.append((joint[seen] * (joint[seen] / product[seen]).log()).sum())
    return torch.stack(result)


def dci(
    codes: Codes,
    factors: Factors,
    test_codes: Float[Tensor, "m d"],
    test_factors: Int64[Tensor, "m k"],
    *,
    trees: Trees = "boosted",
    seed: int = 0,
) -> DCI:
    """Return disentanglement, completeness and informativeness.

    Args:
        codes: at least 2 columns.
        factors: at least 2, every one with at least 2 values.
        test_codes: of other examples.
        test_factors: of other examples.
        trees: "boosted", scikit-learn's GradientBoostingClassifier as it comes, as in disentanglement_lib: 100 trees
            for every value of a factor, one after the other. "forest", its RandomForestClassifier with all codes open
            to every split, of the kind that the paper used: 100 trees for a factor, whatever its values.
        seed: of the trees.
    """
    _check(codes, factors)
    if factors.shape[1] < 2:
        raise UserError("DCI compares factors: it needs at least 2; got 1. Give more columns.")
    ensemble = _sklearn("ensemble")
    importance, right, right_train = [], [], []
    x, test_x = codes.double().numpy(), test_codes.double().numpy()
    for column, test_column in zip(factors.T, test_factors.T, strict=True):
        if trees == "boosted":
            model = ensemble.GradientBoostingClassifier(random_state=seed % 2**32)
        else:  # every split sees every code: trees that may not choose give credit to codes that know nothing
            model = ensemble.RandomForestClassifier(max_features=None, random_state=seed % 2**32)
        model.fit(x, column.numpy())
        importance.append(torch.from_numpy(model.feature_importances_).abs())
        right.append(torch.from_numpy(model.predict(test_x)) == test_column)
        right_train.append(torch.from_numpy(model.predict(x)) == column)
    matrix = torch.stack(importance, 1)
    return DCI(
        disentanglement=concentration(matrix),
        completeness=concentration(matrix.T),
        informativeness=mean_estimate(torch.stack(right).double().mean(0), "fraction"),
        informativeness_train=float(torch.stack(right_train).double().mean()),
        importance=tuple(tuple(row) for row in matrix.tolist()),
        trees=trees,
    )


def concentration(importance: Float64[Tensor, "rows columns"]) -> float:
    """Return the mean over rows, weighted by their sums, of 1 - H(row / its sum) to the base of the columns' number.

    Args:
        importance: not negative; all 0 gives 0.
    """
    shares = importance + 1e-11  # as in disentanglement_lib: a row of zeros is an even one
    shares = shares / shares.sum(1, keepdim=True)
    per_row = 1 + (shares * shares.log()).sum(1) / math.log(importance.shape[1])
    weights = importance.sum(1) if importance.sum() > 0 else torch.ones(len(importance)).double()
    return float((per_row * weights).sum() / weights.sum())


def factor_vae_score(
    represent: Callable[[Tensor], Tensor],
    sizes: tuple[int, ...],
    *,
    votes: int = VOTES,
    test_votes: int = TEST_VOTES,
    vote_examples: int = VOTE_EXAMPLES,
    examples: int = EXAMPLES,
    seed: int = 0,
    tell: Callable[[str, int, int], None] | None = None,
) -> FactorVAEScore:
    """Return the FactorVAE score of data whose factors can be set.

    Args:
        represent: factor classes, int64 (n, k), to codes (n, d).
        sizes: how many values every factor has; each at least 2, all combinations exist.
        votes: from which the majority is taken.
        test_votes: on which it is scored.
        vote_examples: examples behind a vote.
        examples: from which the variance of each code over all data is taken.
        seed: of the draws.
        tell: called as tell("votes", done, of) as the work goes on.
    """
    if not sizes or min(sizes) < 2:
        raise UserError(f"every factor needs at least 2 values; got {sizes}. Leave out those that do not vary.")
    generator = torch.Generator().manual_seed(seed_for(STREAM, seed, 1))
    spread = represent(draw_factors(sizes, examples, generator)).double().std(0)
    active = spread >= DEAD
    if not bool(active.any()):
        return FactorVAEScore(Estimate(0.0, 0.0, test_votes, "fraction"), 0.0, 0)
    fixed, least = [], []
    total = votes + test_votes
    for start in range(0, total, VOTES_TOGETHER):
        count = min(VOTES_TOGETHER, total - start)
        which = torch.randint(len(sizes), (count,), generator=generator)
        factors = draw_factors(sizes, count * vote_examples, generator).reshape(count, vote_examples, len(sizes))
        rows = torch.arange(count)
        factors[rows, :, which] = factors[rows, :1, which]
        codes = represent(factors.flatten(0, 1)).double()[:, active].reshape(count, vote_examples, -1)
        fixed.append(which)
        least.append((codes.var(1) / spread[active].square()).argmin(1))
        if tell is not None:
            tell("votes", start + count, total)
    factor, code = torch.cat(fixed), torch.cat(least)
    ballots = torch.bincount(code[:votes] * len(sizes) + factor[:votes], minlength=int(active.sum()) * len(sizes))
    majority = ballots.reshape(-1, len(sizes)).argmax(1)
    right = (majority[code] == factor).double()
    return FactorVAEScore(mean_estimate(right[votes:], "fraction"), float(right[:votes].mean()), int(active.sum()))


def draw_factors(sizes: tuple[int, ...], count: int, generator: torch.Generator) -> Factors:
    """Return ``count`` rows of independent, uniform factor classes, int64 (count, k).

    Args:
        sizes: how many values every factor has.
        count: how many rows.
        generator: of the draws.
    """
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in sizes], 1)


def sap(
    codes: Codes, factors: Factors, test_codes: Float[Tensor, "m d"], test_factors: Int64[Tensor, "m k"]
) -> MeanOverFactors:
    """Return the SAP score; its standard error is over test examples, the machines and the two best codes held fixed.

    Args:
        codes: at least 2 columns.
        factors: every one with at least 2 values.
        test_codes: of other examples.
        test_factors: of other examples.
    """
    _check(codes, factors)
    machines = _sklearn("svm")
    gaps = []
    for column, test_column in zip(factors.T, test_factors.T, strict=True):
        right = []
        for code, test_code in zip(codes.double().T, test_codes.double().T, strict=True):
            machine = machines.LinearSVC(C=0.01, class_weight="balanced", dual=False)
            machine.fit(code.unsqueeze(1).numpy(), column.numpy())
            right.append(torch.from_numpy(machine.predict(test_code.unsqueeze(1).numpy())) == test_column)
        table = torch.stack(right).double()
        first, second = table.mean(1).topk(2).indices.tolist()
        gaps.append(table[first] - table[second])
    by_factor = torch.stack(gaps)
    return MeanOverFactors(mean_estimate(by_factor.mean(0), "fraction"), tuple(by_factor.mean(1).tolist()))


def _check(codes: Tensor, factors: Tensor) -> None:
    if codes.shape[1] < 2:
        raise UserError(
            "disentanglement compares codes: it needs at least 2 latent dimensions; got 1. Train with more."
        )
    if not bool(codes.isfinite().all()):
        raise UserError("disentanglement needs finite codes; got NaN or infinite ones. Train again.")
    for number, column in enumerate(factors.T):
        if int(column.min()) < 0 or int(column.min()) == int(column.max()):
            raise UserError(
                f"factor {number} should have at least 2 classes, from 0; got {int(column.min())} to "
                f"{int(column.max())}. Leave out factors that do not vary."
            )


def _sklearn(part: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ImportError:
        raise UserError(
            "DCI and SAP need scikit-learn, which is not installed. Run: pip install 'sfumato[metrics]'."
        ) from None
