r"""Whether a model says about data what is true of them: rate and distortion, calibration, predictive checks.

* Rate R = E KL(q(z | x) || p(z)) and distortion D = -E log p(x | z), nats; -(R + D) is the ELBO. Reference: Fixing a
  Broken ELBO, Alemi et al., 2018, https://arxiv.org/abs/1711.00464.
* Calibration of p(x | z), z from q(z | x). Were model and q right, every value would be a draw from its p(x_i | z): its
  standardised residual (x - mean) / deviation a standard normal, its probability integral transform
  u = F(x - 1) + v (F(x) - F(x - 1)), v uniform, itself uniform, and what is said to happen in 30 % of cases would
  happen in 30 % of them. References: Predictive Model Assessment for Count Data, Czado et al., 2009 (the transform);
  Verified Uncertainty Calibration, Kumar et al., 2019, https://arxiv.org/abs/1909.10155 (frequencies).
* Predictive checks: statistics T of data generated from p(z) and p(x | z), beside those of real data, with
  z = (T_generated - T_real) / sqrt(SE^2 + SE^2). Reference: Posterior Predictive Assessment of Model Fitness via
  Realized Discrepancies, Gelman et al., 1996.

Values of one example hang together, so every standard error here is over examples, never over values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Examples, Preprocessing
from sfumato.distributions import DiscretizedLogistic
from sfumato.evaluation.estimate import Estimate, finite, mean_estimate
from sfumato.evaluation.evaluation import Evaluation
from sfumato.evaluation.gap import knows_labels
from sfumato.evaluation.measuring import measuring, refuse_gaps
from sfumato.evaluation.passes import EXAMPLES, Tell, batches
from sfumato.models import Model

LEVELS = (0.5, 0.8, 0.95)
BINS = 10
EXACT, NEAR = 1e-6, 0.05
OFF = 3.0
OFF_BY_CHANCE = math.erfc(OFF / math.sqrt(2))
CALIBRATION, GENERATED = 0x63616C, 0x67656E  # "cal", "gen": keep these random numbers apart


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """One point of the rate-distortion curve.

    Args:
        rate: E KL(q(z | x) || p(z)), nats; to p(z | y) where ``given_label``.
        distortion: -E log p(x | z), nats; for densities it may be below 0.
        elbo: -(rate + distortion), nats.
        samples: draws of z for each example.
        given_label: whether the model was told the labels.
    """

    rate: Estimate
    distortion: Estimate
    elbo: Estimate
    samples: int
    given_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        values = {name: getattr(self, name).to_dict() for name in ("rate", "distortion", "elbo")}
        return {**values, "samples": self.samples, "given_label": self.given_label}


class Coverage(NamedTuple):
    """How many values fall into the central interval that should hold the share ``nominal`` of them."""

    nominal: float
    share: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain json."""
        return {"nominal": self.nominal, "share": self.share.to_dict()}


class Bin(NamedTuple):
    """Events whose predicted probability lies in [low, high).

    Args:
        low: a probability.
        high: a probability.
        weight: the share of all events.
        predicted: their mean predicted probability; None for an empty bin.
        excess: how often they happened minus ``predicted``; None for an empty bin.
    """

    low: float
    high: float
    weight: float
    predicted: float | None
    excess: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain json."""
        return {**self._asdict(), "excess": None if self.excess is None else self.excess.to_dict()}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether the decoder is as sure as it should be.

    Args:
        kind: "residuals" (Gaussian), "transform" (ordered levels) or "frequencies" (binary and categorical data).
        spread: for residuals their mean square, for the transform its mean square about 1/2 times 12: 1 is calibrated,
            above 1 the decoder is too sure, below 1 not sure enough. None for frequencies.
        spread_by_dimension: the same for each data value, (D,), in the order of the flattened example.
        coverage: of central intervals; none for frequencies.
        bins: of predicted probabilities; none for the other two.
        error: sum over bins of weight times |excess|, the expected calibration error, a little above 0 by chance alone.
        n: examples.
        samples: draws of z for each.
    """

    kind: str
    spread: Estimate | None
    spread_by_dimension: Float64[Tensor, " D"] | None
    coverage: tuple[Coverage, ...]
    bins: tuple[Bin, ...]
    error: float | None
    n: int
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json; of the spreads by dimension the smallest, the median and the largest."""
        by_dim = self.spread_by_dimension
        return {
            "kind": self.kind,
            "spread": None if self.spread is None else self.spread.to_dict(),
            "spread_by_dimension": None
            if by_dim is None
            else {
                "smallest": finite(float(by_dim.min())),
                "median": finite(float(by_dim.median())),
                "largest": finite(float(by_dim.max())),
            },
            "coverage": [entry.to_dict() for entry in self.coverage],
            "bins": [entry.to_dict() for entry in self.bins],
            "error": self.error,
            "n": self.n,
            "samples": self.samples,
        }


@dataclass(frozen=True, eq=False)
class Check:
    """One statistic of real and of generated data."""

    name: str
    real: Estimate
    generated: Estimate

    @property
    def z(self) -> float:
        """The difference in standard errors: beyond 3 in either direction is no chance; infinite without errors."""
        difference = self.generated.value - self.real.value
        error = math.hypot(self.generated.standard_error, self.real.standard_error)
        return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {"real": self.real.to_dict(), "generated": self.generated.to_dict(), "z": finite(self.z)}


@dataclass(frozen=True, eq=False)
class PredictiveChecks:
    """Generated beside real data.

    Args:
        checks: ``mean`` of all values and ``variance`` over examples, mean over the values of an example, in the units
            of x; ``zeros``, the share of values that are 0 in the units of the raw data, and ``near_zeros``, those
            within a twentieth of the real data's standard deviation of 0.
        dimensions_off: the share of data values whose own mean is off by more than 3 standard errors; by chance 0.3 %.
        generated: how many examples were generated.
    """

    checks: tuple[Check, ...]
    dimensions_off: float
    generated: int

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {
            **{check.name: check.to_dict() for check in self.checks},
            "dimensions_off": {"value": self.dimensions_off, "by_chance": OFF_BY_CHANCE, "unit": "fraction"},
            "generated": self.generated,
        }


def rate_distortion(evaluation: Evaluation) -> RateDistortion:
    """Return rate and distortion from what was measured on a split: its ``kl`` and its ``reconstruction``.

    Args:
        evaluation: of the model, see :func:`~sfumato.evaluation.evaluation.evaluate`.

    Raises:
        UserError: the posterior has no density, or the networks need labels that are not known.
    """
    values = evaluation.values
    if "kl" not in values:
        raise UserError(f"there is no rate: {evaluation.absent['kl']}. Use DiagonalGaussian, and data with labels.")
    labelled = "elbo_given_label" in values
    elbo = values["elbo_given_label" if labelled else "elbo"]
    return RateDistortion(values["kl"], values["reconstruction"], elbo, evaluation.draws["reconstruction"], labelled)


def calibration(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    samples: int = 1,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    tell: Tell | None = None,
) -> Calibration:
    """Measure the calibration of p(x | z) on a split, z from q(z | x).

    Args:
        model: in any mode.
        examples: the split: one that the model was not trained on.
        preprocessing: raw data to the model's input.
        samples: draws of z for each example.
        levels: shares that the central intervals should hold.
        seed: of all noise.
        tell: see :func:`~sfumato.evaluation.passes.batches`.

    Raises:
        UserError: the networks need labels that are not known, or a likelihood that nothing is known about.
    """
    labelled = knows_labels(model, examples)
    collected = _Collected(tuple(levels))
    with measuring(model) as device:
        for x, y, _, own in batches(examples, preprocessing, device, seed, tell, "calibration"):
            label = y if labelled else None
            with fixed_noise(seed_for(CALIBRATION, own), device):
                z = model.encode(x, label).sample((samples,))
                collected.add(model.decode(z, label), x)
    return collected.result(len(examples), samples)


def predictive_checks(
    model: Model,
    examples: Examples,
    preprocessing: Preprocessing,
    *,
    generated: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> PredictiveChecks:
    """Compare generated with real data. Every set is gone through twice, its means first.

    Args:
        model: in any mode; x is drawn from p(x | z), never its mean.
        examples: the split.
        preprocessing: raw data to the model's input.
        generated: how many examples to generate; None: as many as there are real ones.
        seed: of all noise.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: fewer than two examples.
    """
    count = len(examples) if generated is None else generated
    if min(count, len(examples)) < 2:
        raise UserError(
            f"predictive checks need 2 real and 2 generated examples or more; got {len(examples)} and {count}."
        )
    refuse_gaps(model.likelihood, "predictive checks")

    def real() -> Iterator[Tensor]:
        for batch in batches(examples, preprocessing, device, seed, tell, "real data"):
            yield batch.x

    def made() -> Iterator[Tensor]:
        for number, start in enumerate(range(0, count, EXAMPLES)):
            size = min(EXAMPLES, count - start)
            yield model.sample(size, draw=True, generator=seed_for(GENERATED, seed, number))
            if tell is not None:
                tell("generated data", start + size, count)

    with measuring(model) as device:
        sources = {"real": (real, *_moments(real)), "generated": (made, *_moments(made))}
        width = _deviation(real, preprocessing)
        found = {
            name: _statistics(source, centre, preprocessing, width) for name, (source, centre, _) in sources.items()
        }
    (_, mean, variance), (_, other, spread) = sources.values()
    error = (variance / len(examples) + spread / count).sqrt()
    off = (other - mean).abs() > OFF * error
    return PredictiveChecks(
        checks=tuple(Check(name, found["real"][name], found["generated"][name]) for name in found["real"]),
        dimensions_off=float(off.double().mean()),
        generated=count,
    )


class _Collected:
    """What calibration needs of each example, batch by batch."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels, self.kind = levels, ""
        self.squares: list[Tensor] = []
        self.inside: list[Tensor] = []
        self.by_dim: list[Tensor] = []
        self.counts: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.predicted: list[Tensor] = []

    def add(self, observation: Distribution, x: Float[Tensor, "batch ..."]) -> None:
        """Take a batch, its ``observation`` of batch shape (samples, batch)."""
        normal = as_normal(observation)
        base = observation.base_dist if isinstance(observation, Independent) else observation
        if normal is not None:
            self.kind = "residuals"
            residuals = (x - normal.loc).double() / normal.scale
            ranks = torch.special.ndtr(residuals)
            self._add_values(residuals.square(), ranks)
        elif isinstance(observation, DiscretizedLogistic):
            self.kind = "transform"
            ranks = transform(observation, x)
            self._add_values(12 * (ranks - 0.5).square(), ranks)
        elif isinstance(base, torch.distributions.Bernoulli):
            self._add_events(base.probs, x.expand_as(base.probs))
        elif isinstance(base, torch.distributions.Categorical):
            happened = torch.nn.functional.one_hot(x.long(), base.probs.shape[-1])
            self._add_events(base.probs, happened.expand_as(base.probs))
        else:
            raise UserError(
                f"the calibration of {type(base).__name__} is not known here; expected a Gaussian, discretised "
                "logistic, Bernoulli or categorical likelihood. Leave this check out."
            )

    def result(self, n: int, samples: int) -> Calibration:
        """Return what was found."""
        if self.kind == "frequencies":
            bins = self._bins()
            error = sum(entry.weight * abs(entry.excess.value) for entry in bins if entry.excess is not None)
            return Calibration(self.kind, None, None, (), bins, error, n, samples)
        inside = torch.cat(self.inside)
        coverage = tuple(
            Coverage(level, mean_estimate(inside[:, number], "fraction")) for number, level in enumerate(self.levels)
        )
        by_dim = torch.stack(self.by_dim).sum(0) / n
        spread = mean_estimate(torch.cat(self.squares), "ratio")
        return Calibration(self.kind, spread, by_dim, coverage, (), None, n, samples)

    def _add_values(self, squares: Float64[Tensor, "samples batch ..."], ranks: Tensor) -> None:
        squares, distance = squares.mean(0).flatten(1), (ranks - 0.5).abs().flatten(2)
        self.squares.append(squares.mean(1).cpu())
        self.by_dim.append(squares.sum(0).cpu())
        self.inside.append(
            torch.stack([(distance <= level / 2).double().mean((0, 2)).cpu() for level in self.levels], 1)
        )

    def _add_events(self, probability: Tensor, happened: Tensor) -> None:
        """Sort events of predicted ``probability``, (samples, batch, ...), into bins, example by example."""
        self.kind = "frequencies"
        batch = probability.shape[1]
        p, event = (values.double().transpose(0, 1).reshape(batch, -1) for values in (probability, happened))
        place = (p * BINS).long().clamp(max=BINS - 1)
        empty = torch.zeros(batch, BINS, dtype=torch.float64, device=p.device)
        for parts, values in ((self.counts, torch.ones_like(p)), (self.sums, event - p), (self.predicted, p)):
            parts.append(empty.scatter_add(1, place, values).cpu())

    def _bins(self) -> tuple[Bin, ...]:
        counts, sums, predicted = (torch.cat(parts) for parts in (self.counts, self.sums, self.predicted))
        n, total = len(counts), float(counts.sum())
        bins = []
        for number in range(BINS):
            own, low, high = float(counts[:, number].sum()), number / BINS, (number + 1) / BINS
            if not own:
                bins.append(Bin(low, high, 0.0, None, None))
                continue
            excess = float(sums[:, number].sum()) / own
            rest = sums[:, number] - excess * counts[:, number]  # of a ratio of two sums over examples
            error = math.sqrt(float(rest.square().sum()) * n / (n - 1)) / own if n > 1 else math.nan
            estimate = Estimate(excess, error, n, "probability")
            bins.append(Bin(low, high, own / total, float(predicted[:, number].sum()) / own, estimate))
        return tuple(bins)


def transform(observation: DiscretizedLogistic, x: Float[Tensor, "batch ..."]) -> Float64[Tensor, "*shape"]:
    """Return u = F(x - 1) + v (F(x) - F(x - 1)) of every value, v uniform: uniform itself when x is from here.

    Args:
        observation: the masses of the levels.
        x: levels, k / (levels - 1).
    """
    half = 0.5 / (observation.levels - 1)
    inverse, centred = (-observation.log_scale.double()).exp(), x.double() - observation.loc
    upper = torch.where(x > 1 - half, 1.0, ((centred + half) * inverse).sigmoid())
    lower = torch.where(x < half, 0.0, ((centred - half) * inverse).sigmoid())
    return lower + torch.rand_like(upper) * (upper - lower)


def _moments(source: Callable[[], Iterator[Tensor]]) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
    """Return mean and variance of each data value over the examples."""
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for x in source():
        wide = x.double()
        share = len(x) / (count + len(x))
        shift = wide.mean(0) - mean
        squares = squares + (wide - wide.mean(0)).square().sum(0) + shift.square() * count * share
        mean, count = mean + shift * share, count + len(x)
    return mean, squares / (count - 1)


def _deviation(source: Callable[[], Iterator[Tensor]], preprocessing: Preprocessing) -> float:
    """Return the standard deviation of all values together, raw units."""

    def values() -> Iterator[Tensor]:
        for x in source():
            yield preprocessing.inverse(x).double().flatten(1)

    mean, variance = _moments(values)
    return float((variance.mean() + (mean - mean.mean()).square().mean()).sqrt())


def _statistics(
    source: Callable[[], Iterator[Tensor]], centre: Tensor, preprocessing: Preprocessing, width: float
) -> dict[str, Estimate]:
    """Return name -> estimate over the examples of one set, whose mean is ``centre``."""
    columns: dict[str, list[Tensor]] = {"mean": [], "variance": [], "zeros": [], "near_zeros": []}
    for x in source():
        raw = preprocessing.inverse(x).double().abs().flatten(1)
        columns["mean"].append(x.double().flatten(1).mean(1))
        columns["variance"].append((x.double() - centre).square().flatten(1).mean(1))
        columns["zeros"].append((raw <= EXACT * width).double().mean(1))
        columns["near_zeros"].append((raw <= NEAR * width).double().mean(1))
    units = {"mean": "units of x", "variance": "units of x squared"}
    return {name: mean_estimate(torch.cat(parts).cpu(), units.get(name, "fraction")) for name, parts in columns.items()}
