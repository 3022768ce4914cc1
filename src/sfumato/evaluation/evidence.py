r"""What is known of log p(x) on one split, in nats: from below by two roads, and from above where that is possible.

    L_K          = log 1/K sum_k W_k,  z_k from q(z | x),  W_k = p(x, z_k) / q(z_k | x)            <= log p(x)
    annealed     = log 1/M sum_m w_m over annealed chains                                          <= log p(x)
    sandwich     on examples that the model made: annealed from below and, backwards, from above

with E[...] understood in front of all three. Where encoder or decoder see labels, W_k = sum_y p(y) p(x, z_k | y) /
q(z_k | x, y), every class with its own z_k. The effective sample size (sum_k W_k)^2 / sum_k W_k^2 says how many of the
K draws the bound hangs on: near 1 it is loose, and annealing says by how much.

The curve over K uses one set of K draws: L_k is the mean over its K // k groups of k draws. Random numbers follow from
the seed and the data, never from how much is decoded together.

Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519; for the rest see
:mod:`sfumato.evaluation.annealed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.numerics import logmeanexp, seed_for
from sfumato.core.processes import ALONE, Processes
from sfumato.core.spec import Count, Size, checked
from sfumato.data import Dataset, Preprocessing
from sfumato.evaluation.annealed import Annealing, annealed_chains, sandwich
from sfumato.evaluation.bounds import add_log, every_class, log_class_weights, weighted_draws
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import EXAMPLES, Tell, batch_lengths, batches, merged
from sfumato.models import Model

CURVE = (1, 10, 100, 1_000, 5_000)
SAMPLES = 5_000
STREAM = 0x65766964656E6365  # "evidence": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class ImportanceCurve:
    """L_k of a batch for a few k, from one set of draws.

    Args:
        bounds: k -> L_k of each example, nats; the last is L_K, from all draws.
        effective: the effective sample size of the K weights of each example, from 1 to K.
    """

    bounds: Mapping[int, Float64[Tensor, " batch"]]
    effective: Float64[Tensor, " batch"]


@dataclass(frozen=True)
class AnnealedEvidence:
    """What annealing found.

    Args:
        settings: how the chains were annealed.
        together: how many examples' chains moved together; the random numbers follow from it.
        lower: the annealed bound on log p(x), nats.
        acceptance: of the steps of the chains, a fraction; the step sizes aim at 0.65.
        importance: L_K of the same examples, nats; None where q has no density.
        excess: lower minus importance, example by example: how loose L_K is at least, nats.
        simulated_lower: the annealed bound for examples that the model made, nats.
        simulated_upper: the bound from above for them, nats.
        gap: upper minus lower, example by example, nats: no more than this is lost by annealing, in expectation.
    """

    settings: Annealing
    together: int
    lower: Estimate
    acceptance: Estimate
    importance: Estimate | None = None
    excess: Estimate | None = None
    simulated_lower: Estimate | None = None
    simulated_upper: Estimate | None = None
    gap: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        parts = {
            "annealed_bound": self.lower,
            "importance_bound_same_examples": self.importance,
            "annealed_minus_importance": self.excess,
            "annealed_acceptance": self.acceptance,
            "simulated_lower_bound": self.simulated_lower,
            "simulated_upper_bound": self.simulated_upper,
            "simulated_gap": self.gap,
        }
        found = {name: None if part is None else part.to_dict() for name, part in parts.items()}
        return {"settings": asdict(self.settings), "examples_together": self.together, **found}


@dataclass(frozen=True)
class Evidence:
    """Bounds on log p(x), what they were measured on, and why the rest was not.

    Args:
        split: "train", "validation" or "test".
        n: the examples in it; L_K uses every one of them.
        seed: of all noise.
        data: the name of the data.
        fingerprint: SHA-256 of the data and their splits.
        samples: K.
        curve: k -> the mean of L_k over examples, nats; the last is L_K. Empty where q has no density.
        effective: the mean of the effective sample size, in draws.
        annealed: what annealing found, where it was asked for.
        absent: name -> why it was not measured.
    """

    split: str
    n: int
    seed: int
    data: str
    fingerprint: str
    samples: int
    curve: Mapping[int, Estimate]
    effective: Estimate | None = None
    annealed: AnnealedEvidence | None = None
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def bound(self) -> Estimate | None:
        """L_K, nats."""
        return self.curve.get(self.samples)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json; a value of None is a mean that was not finite."""
        bound, effective = self.bound, self.effective
        return {
            "split": self.split,
            "n": self.n,
            "seed": self.seed,
            "data": {"name": self.data, "fingerprint": self.fingerprint},
            "samples": self.samples,
            "importance_bound": None if bound is None else bound.to_dict() | {"samples": self.samples},
            "effective_sample_size": None if effective is None else effective.to_dict() | {"of": self.samples},
            "curve": [{"samples": k, **found.to_dict()} for k, found in self.curve.items()],
            "annealed": None if self.annealed is None else self.annealed.to_dict(),
            "absent": dict(self.absent),
        }


def find_evidence(
    model: Model,
    preprocessing: Preprocessing,
    dataset: Dataset,
    *,
    split: str = "test",
    samples: int = SAMPLES,
    annealing: Annealing | None = None,
    annealed: int = 100,
    simulated: int = 100,
    together: int = EXAMPLES,
    seed: int = 0,
    tell: Tell | None = None,
    processes: Processes = ALONE,
) -> Evidence:
    """Measure log p(x) on one split, in float32 or better.

    Several processes, each with the same model and data, share the work, and all of them get the numbers of one.

    Args:
        model: in any mode, which it has again afterwards.
        preprocessing: raw data to the model's input; moved to the model's device.
        dataset: as it was loaded.
        split: "train", "validation" or "test".
        samples: K, used exactly; with the same seed L_K is the ``evidence_bound`` of
            :func:`~sfumato.evaluation.evaluation.evaluate`.
        annealing: how to anneal; from the prior where q has no density.
        annealed: how many examples of the split are annealed, evenly spaced over it; 0: none, nor any simulated.
        simulated: how many examples the model makes for the sandwich.
        together: how many examples' chains move together.
        seed: of all noise; the same seed gives the same numbers on the same machine.
        tell: called as tell(part, done, of) as the work goes on.
        processes: that share the work.

    Raises:
        UserError: the split is empty, a number is out of range, or the model has neither a density q(z | x) nor parts
            that can be annealed.
    """
    samples, annealing = checked(samples, Size, "samples"), annealing or Annealing()
    annealed, simulated = checked(annealed, Count, "annealed"), checked(simulated, Count, "simulated")
    together = checked(together, Size, "together")
    examples = preprocessing.prepare(dataset).split(split)
    n = len(examples)
    count = min(annealed, n)
    chosen = torch.arange(count) * n // max(1, count)
    columns: dict[str, list[Tensor]] = {}
    absent: dict[str, str] = {}
    lengths = batch_lengths(examples)
    ends = torch.tensor(lengths).cumsum(0)
    part = f"importance bound, K = {samples:,}"
    with measuring(model) as device:
        preprocessing.to(device)

        def measure() -> None:
            own = ends[processes.rank :: processes.count].tolist()
            mine = batches(examples, preprocessing, device, seed, tell, part, processes)
            for batch, end in zip(mine, own, strict=True):
                rows = chosen[(chosen >= end - len(batch.x)) & (chosen < end)] - (end - len(batch.x))
                kept.setdefault("x", []).append(batch.x[rows.to(device)].cpu())
                if not has_density(model.posterior(batch.x)):
                    point = f"{type(model.posterior).__name__} is a point mass, without a density q(z | x)"
                    absent.update(dict.fromkeys(("importance_bound", "effective_sample_size"), point))
                    continue
                found = importance_curve(model, batch.x, samples=samples, seed=batch.seed)
                columns.setdefault("effective", []).append(found.effective.cpu())
                for k, bound in found.bounds.items():
                    columns.setdefault(str(k), []).append(bound.cpu())

        kept: dict[str, list[Tensor]] = {}
        processes.all_or_none(measure)
        bounds = merged(columns, lengths, processes)
        effective = bounds.pop("effective", None)
        absent = processes.agree(absent)
        if not bounds:
            annealing = replace(annealing, start="prior")
        result = None
        if count:
            counts = torch.bincount(torch.bucketize(chosen, ends, right=True), minlength=len(lengths)).tolist()
            x = merged(kept, counts, processes)["x"]
            bound = bounds[str(samples)][chosen] if bounds else None
            try:
                result = _anneal(model, x, bound, annealing, simulated, together, seed, tell, processes)
            except UserError as error:  # it follows from the model, so every process is told
                if not bounds:
                    raise
                absent["annealed"] = str(error)
        else:
            absent["annealed"] = "not asked for: it needs a number of examples"
    return Evidence(
        split=split,
        n=n,
        seed=seed,
        data=dataset.name,
        fingerprint=dataset.fingerprint,
        samples=samples,
        curve={int(k): mean_estimate(values, "nats") for k, values in bounds.items()},
        effective=None if effective is None else mean_estimate(effective, "draws"),
        annealed=result,
        absent=absent,
    )


def importance_curve(
    model: Model, x: Tensor, *, samples: int, seed: int = 0, block: int | None = None
) -> ImportanceCurve:
    """Return L_k of unlabelled ``x`` for k = 1, 10, 100, 1000, 5000 below K, and for K, from K draws of each example.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        samples: K, used exactly.
        seed: of the noise.
        block: as in :func:`~sfumato.evaluation.bounds.importance_bound`; it changes no draw.

    Raises:
        UserError: the posterior has no density, or K is less than 1.
    """
    groups = [_Groups(k) for k in (*[k for k in CURVE if k < samples], samples)]
    squares: Tensor | None = None
    with measuring(model):
        for weights in log_weights(model, x, samples=samples, seed=seed, block=block):
            squares = add_log(squares, 2 * weights)
            for group in groups:
                group.add(weights)
    assert squares is not None
    bounds = {group.size: group.mean for group in groups}
    return ImportanceCurve(bounds, (2 * (bounds[samples] + math.log(samples)) - squares).exp())


def log_weights(
    model: Model, x: Tensor, *, samples: int, seed: int, block: int | None = None
) -> Iterator[Float64[Tensor, "draws batch"]]:
    """Yield log W_k of unlabelled ``x``, nats, some draws at a time; each W_k is an unbiased estimate of p(x).

    Args:
        model: in the state of :func:`~sfumato.evaluation.measuring.measuring`, which the caller keeps up meanwhile.
        x: (batch, *data), preprocessed.
        samples: K, for each class where encoder or decoder see labels.
        seed: of the noise.
        block: rows that are decoded together.
    """
    labels: list[Tensor | None] = [None]
    if model.labels_reach_networks:
        labels = [*every_class(model, x)]
    draws = [weighted_draws(model, x, y, samples=samples, seed=seed, block=block) for y in labels]
    for parts in zip(*draws, strict=True):
        found = []
        for terms in parts:
            assert terms.log_posterior is not None
            found.append((terms.log_likelihood + terms.log_prior - terms.log_posterior).double())
        if model.labels_reach_networks:
            yield torch.logsumexp(torch.stack(found, -1) + log_class_weights(model).double(), -1)
        else:
            yield found[0]


class _Groups:
    """The mean of L_k over groups of k draws, as the draws come in."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = self.groups = 0
        self.open: Tensor | None = None
        self.total: Tensor | float = 0.0

    def add(self, weights: Float64[Tensor, "draws batch"]) -> None:
        """Take some draws; those of a group that stays open do not count."""
        while len(weights):
            room = self.size - self.filled
            piece, weights = weights[:room], weights[room:]
            self.open = add_log(self.open, piece)
            self.filled += len(piece)
            if self.filled == self.size:
                self.total = self.total + self.open - math.log(self.size)
                self.groups += 1
                self.filled, self.open = 0, None

    @property
    def mean(self) -> Float64[Tensor, " batch"]:
        """L_k of each example, nats."""
        return torch.as_tensor(self.total) / self.groups


def _anneal(
    model: Model,
    x: Tensor,
    importance: Tensor | None,
    settings: Annealing,
    simulated: int,
    together: int,
    seed: int,
    tell: Tell | None,
    processes: Processes,
) -> AnnealedEvidence:
    """Anneal ``x``, and make ``simulated`` examples for the sandwich, some at a time."""
    device = next(model.parameters()).device
    rungs = settings.rungs * (model.num_classes if model.decoder.sees_label else 1)
    scale = f"{settings.temperatures:,} temperatures, {settings.chains} chains"
    pieces = list(torch.split(x, together))
    sizes = [min(together, simulated - start) for start in range(0, simulated, together)]
    mine = range(processes.rank, len(pieces) + len(sizes), processes.count)
    real, made = [k for k in mine if k < len(pieces)], [k - len(pieces) for k in mine if k >= len(pieces)]

    def anneal() -> list[Tensor]:
        pairs = []
        tick = _told(tell, f"annealing, {scale}", rungs * len(real))
        for number in real:
            start = pieces[number].to(device)
            chains = annealed_chains(model, start, settings, seed=seed_for(STREAM, seed, 0, number), tick=tick)
            pairs.append(torch.stack([logmeanexp(chains.log_weights), chains.acceptance], 1).cpu())
        tick = _told(tell, f"sandwich, {scale}", (rungs + settings.temperatures) * len(made))
        for number in made:
            own = seed_for(STREAM, seed, 1, number)
            both = sandwich(model, sizes[number], settings, seed=own, tick=tick)
            pairs.append(torch.stack([both.lower, both.upper], 1).cpu())
        return pairs

    pairs = processes.all_or_none(anneal)
    found = merged({"pair": pairs} if pairs else {}, [*map(len, pieces), *sizes], processes)["pair"]
    lower, acceptance = found[: len(x)].unbind(1)
    same: dict[str, Tensor] = {}
    if importance is not None:
        same = {"importance": importance, "excess": lower - importance}
    if sizes:
        low, high = found[len(x) :].unbind(1)
        same |= {"simulated_lower": low, "simulated_upper": high, "gap": high - low}
    estimates = {name: mean_estimate(values, "nats") for name, values in same.items()}
    steps = mean_estimate(acceptance, "fraction")
    return AnnealedEvidence(settings, together, mean_estimate(lower, "nats"), steps, **estimates)


def _told(tell: Tell | None, part: str, of: int) -> Callable[[], None] | None:
    """Return what counts temperatures up to ``of``."""
    if tell is None:
        return None
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        tell(part, done, of)

    return tick
