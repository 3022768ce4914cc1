r"""Everything that ``sfumato evaluate --evidence`` measures beyond the usual numbers, each part by its own module.

    bounds                on log p(x): importance sampling for growing K, annealing, the sandwich
    gap                   log p(x) - ELBO, split into approximation and amortisation
    aggregate             where the rate goes: information, total correlation, distance from the prior
    rate_distortion       rate and distortion, as the usual evaluation measured them
    calibration           whether the spread of p(x | z) is that of the data
    predictive_checks     mean, variance and sparsity of generated against real data
    fidelity              distances between generated and real data in a declared extractor
    disentanglement       four scores, where the data have known factors

A part that this model or these data cannot have is named with the reason; the others are measured all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sfumato.core.errors import UserError
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Dataset, DSprites, Preprocessing
from sfumato.evaluation.aggregate import find_aggregate
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.checks import calibration, predictive_checks, rate_distortion
from sfumato.evaluation.evaluation import Evaluation
from sfumato.evaluation.evidence import SAMPLES, find_evidence
from sfumato.evaluation.factor_scores import disentanglement
from sfumato.evaluation.features import Extractor, judge_features
from sfumato.evaluation.fidelity import fidelity
from sfumato.evaluation.gap import find_gap
from sfumato.evaluation.passes import Tell
from sfumato.models import Model

PARTS = (
    "bounds",
    "gap",
    "aggregate",
    "rate_distortion",
    "calibration",
    "predictive_checks",
    "fidelity",
    "disentanglement",
)


def measure_thoroughly(
    model: Model,
    preprocessing: Preprocessing,
    dataset: Dataset,
    evaluation: Evaluation,
    *,
    samples: int = SAMPLES,
    annealing: Annealing | None = None,
    annealed: int = 50,
    extractor: Extractor | None = None,
    tell: Tell | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Return part -> what was measured, and "absent": part -> why it was not, all as plain json.

    Args:
        model: in any mode, which it has again afterwards.
        preprocessing: raw data to the model's input; moved to the model's device.
        dataset: as it was loaded. q(z) is made of the training split.
        evaluation: the usual numbers of this model on these data. Everything else is measured on its split with its
            seed; rate and distortion are its own, and so is the judge, where it has one.
        samples: K of the importance bound, used exactly.
        annealing: how to anneal.
        annealed: how many examples are annealed, how many are made for the sandwich, and how many are refined.
        extractor: of the features for the fidelity; by default the judge's; without one, trained on the training split.
        tell: called as tell(part, done, of) as the work goes on.
        processes: each with the same model and data. They share the bounds, and take turns at the other parts.
    """
    split = evaluation.split
    if extractor is None and evaluation.classifier is not None:
        extractor = judge_features(evaluation.classifier)
    prepared = preprocessing.prepare(dataset)
    examples = prepared.split(split)
    common: dict[str, Any] = {"seed": evaluation.seed, "tell": tell}
    count = min(annealed, len(examples))

    def bounds() -> Any:
        how: dict[str, Any] = {"samples": samples, "annealing": annealing, "annealed": count, "simulated": count}
        return find_evidence(model, preprocessing, dataset, split=split, processes=processes, **how, **common)

    def gap() -> Any:
        if not count:
            raise UserError("not asked for: it needs a number of examples")
        return find_gap(model, examples, preprocessing, n=count, **common)

    def factors() -> Any:
        if not dataset.name.startswith("dsprites"):
            raise UserError("the data have no known factors: only the built-in dsprites have")
        return disentanglement(model, preprocessing, DSprites(), **common)

    parts: dict[str, Callable[[], Any]] = {
        "bounds": bounds,
        "gap": gap,
        "aggregate": lambda: find_aggregate(model, prepared.split("train"), preprocessing, **common),
        "rate_distortion": lambda: rate_distortion(evaluation),
        "calibration": lambda: calibration(model, examples, preprocessing, **common),
        "predictive_checks": lambda: predictive_checks(model, examples, preprocessing, **common),
        "fidelity": lambda: fidelity(model, preprocessing, dataset, split=split, extractor=extractor, **common),
        "disentanglement": factors,
    }
    found = {name: _found(parts[name]) for name in PARTS[:1]}
    mine = {name: _found(parts[name]) for name in PARTS[1:][processes.rank :: processes.count]}
    for number, name in enumerate(PARTS[1:]):
        source = number % processes.count
        own = json.dumps(mine[name]).encode() if processes.several and name in mine else None
        found[name] = json.loads(processes.share(own, source)) if processes.several else mine[name]
    result = {name: part["found"] for name, part in found.items() if "found" in part}
    return {**result, "absent": {name: part["absent"] for name, part in found.items() if "absent" in part}}


def _found(measure: Callable[[], Any]) -> dict[str, Any]:
    """Return what was found, or why there is nothing."""
    try:
        return {"found": measure().to_dict()}
    except UserError as error:
        return {"absent": str(error)}
