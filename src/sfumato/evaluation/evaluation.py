r"""Everything about a model on one split: values with standard errors, units, and what they were measured on.

The names are law. ``elbo`` bounds log p(x); a conditional model that is told the label gives ``elbo_given_label``, a
bound on log p(x | y), which is another number. ``evidence_bound`` is always the importance bound on log p(x). What is
called a bound or an elbo is to be maximised; ``reconstruction`` (-E_q log p(x | z)) and ``kl`` are costs.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Dataset, Preprocessing
from sfumato.evaluation.baselines import score_baselines
from sfumato.evaluation.bounds import class_bounds, elbo_terms, importance_bound, log_class_weights, pays_to_compile
from sfumato.evaluation.classes import Accuracy, accuracy
from sfumato.evaluation.classifier import Judge, generation_accuracy, judge_accuracy, shared_judge
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.latents import Latents, find_latents
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Batch, Tell, batch_lengths, batches, merged
from sfumato.evaluation.units import bits_per_dim, raw_log_density
from sfumato.likelihoods import Bernoulli, Masked, Mixed
from sfumato.models import Model

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured, on what, and why the rest was not.

    Args:
        split: "train", "validation" or "test".
        n: the examples in it; every one of them counts once.
        dims: the values of one example.
        seed: of all noise.
        data: the name of the data.
        fingerprint: SHA-256 of the data and their splits.
        values: name -> mean over the examples. In nats: ``elbo`` or ``elbo_given_label``, ``reconstruction``, ``kl``
            and its parts ``kl_mean`` (L_mu) and ``kl_variance`` (L_sigma), ``evidence_bound``,
            ``evidence_bound_given_label``, ``evidence_bound_raw`` (continuous data, before preprocessing).
            ``bits_per_dim`` of the evidence bound; ``reconstruction_rmse`` in the units of the data; ``mean_sigma`` in
            units of z.
        draws: name -> exactly how many z were drawn for each example (and class).
        absent: name -> why it was not measured.
        latents: the posteriors.
        bayes: classification by Bayes' rule.
        generation: how often the judge gives the class that was asked for.
        judge: the judge's own accuracy on the split.
        baselines: name -> mean log p(x) of a simple model, nats.
        classifier: the judge itself, where there was one.
    """

    split: str
    n: int
    dims: int
    seed: int
    data: str
    fingerprint: str
    values: Mapping[str, Estimate]
    draws: Mapping[str, int]
    absent: Mapping[str, str]
    latents: Latents
    bayes: Accuracy | None = None
    generation: Accuracy | None = None
    judge: Accuracy | None = None
    baselines: Mapping[str, Estimate] = field(default_factory=dict)
    classifier: Judge | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json. A value of None is a mean that was not finite."""
        values = {name: estimate.to_dict() for name, estimate in self.values.items()}
        for name, count in self.draws.items():
            values[name]["samples"] = count
        parts = {"bayes_accuracy": self.bayes, "generation_accuracy": self.generation, "judge_accuracy": self.judge}
        return {
            "format_version": FORMAT_VERSION,
            "split": self.split,
            "n": self.n,
            "dims": self.dims,
            "seed": self.seed,
            "data": {"name": self.data, "fingerprint": self.fingerprint},
            "values": values,
            "active_units": {"value": self.latents.active_units, "of": self.latents.mean.shape[1]},
            "per_dimension": self.latents.to_dict(),
            "per_level": self.latents.by_level(),
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
            "baselines": {name: estimate.to_dict() for name, estimate in self.baselines.items()},
            "absent": dict(self.absent),
            "versions": {
                "sfumato": version("sfumato"),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }


def evaluate(
    model: Model,
    preprocessing: Preprocessing,
    dataset: Dataset,
    *,
    split: str = "test",
    samples: int | None = 100,
    seed: int = 0,
    elbo_samples: int = 1,
    judge: Judge | bool = False,
    per_class: int = 1_000,
    baselines: bool = False,
    tell: Tell | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Measure ``model`` on one split, in float32 or better.

    Several processes, each with the same model and data, share the work, and all of them get the numbers of one.

    Args:
        model: in any mode, which it has again afterwards.
        preprocessing: raw data to the model's input; moved to the model's device.
        dataset: as it was loaded.
        split: "train", "validation" or "test".
        samples: K of the evidence bound and of Bayes classification, used exactly; None leaves both out.
        seed: of all noise; the same seed gives the same numbers on the same machine.
        elbo_samples: draws for the ELBO's reconstruction term.
        judge: measure generation by class: True trains a judge on the training split, or give one.
        per_class: examples to generate of each class for the judge.
        baselines: fit simple models on the training split and score them.
        tell: called as tell(part, done, of) as the work goes on.
        processes: that share the work.

    Raises:
        UserError: the split is empty, or the model's classes are not those of the data.
    """
    if model.num_classes and dataset.num_classes not in (0, model.num_classes):
        raise UserError(
            f"the model has {model.num_classes} classes and {dataset.name} has {dataset.num_classes}. "
            "Evaluate it on data with the classes that it was trained on."
        )
    prepared = preprocessing.prepare(dataset)
    examples = prepared.split(split)
    labelled = bool(model.num_classes) and examples.y is not None and bool((examples.y >= 0).all())
    measured = _Measured(model, preprocessing, labelled, samples, elbo_samples)
    measured.compiled = pays_to_compile(model, len(examples) * (samples or 0))
    with measuring(model) as device:
        preprocessing.to(device)

        def measure() -> None:
            for batch in batches(examples, preprocessing, device, seed, tell, "bounds", processes):
                measured.add(batch)

        processes.all_or_none(measure)
        measured.merge(batch_lengths(examples), processes)
        looking: dict[str, Any] = {"seed": seed, "tell": tell, "processes": processes}
        latents = find_latents(model, examples, preprocessing, labels=labelled, **looking)
        simple = {}
        if baselines:
            shape = (model.likelihood, model.latent_dim, prepared.split("train"), examples, preprocessing)
            simple = score_baselines(*shape, seed=seed, device=device, processes=processes)
    generation = judged = classifier = None
    if judge and model.num_classes:
        classifier = judge if isinstance(judge, Judge) else None
        if classifier is None:
            classifier = shared_judge(prepared, preprocessing, device=device, **looking)
        judged = judge_accuracy(classifier, examples, preprocessing, seed=seed, processes=processes)
        generation = generation_accuracy(model, classifier, per_class=per_class, seed=seed, processes=processes)
    return Evaluation(
        split=split,
        n=len(examples),
        dims=math.prod(dataset.shape),
        seed=seed,
        data=dataset.name,
        fingerprint=dataset.fingerprint,
        values=measured.values(),
        draws=measured.draws(),
        absent=measured.absent(asked_judge=bool(judge), kl_by_dimension=latents.kl is not None),
        latents=latents,
        bayes=measured.bayes(),
        generation=generation,
        judge=judged,
        baselines=simple,
        classifier=classifier,
    )


class _Measured:
    """The numbers of each example, collected batch by batch."""

    def __init__(
        self, model: Model, preprocessing: Preprocessing, labelled: bool, samples: int | None, elbo_samples: int
    ) -> None:
        self.model, self.preprocessing, self.labelled = model, preprocessing, labelled
        self.samples, self.elbo_samples = samples, elbo_samples
        self.blind = bool(model.num_classes) and model.labels_reach_networks and not labelled
        self.density = True
        self.compiled = False
        self.columns: dict[str, list[Tensor]] = {}
        self.classes: dict[str, list[Tensor]] = {}

    def add(self, batch: Batch) -> None:
        """Measure one batch."""
        x, y, raw, seed = batch
        if isinstance(self.model.likelihood, Bernoulli) and bool(((x != 0) & (x != 1)).any()):
            raise UserError(
                "the Bernoulli likelihood has probabilities of 0 and 1 only, and these data hold values between: the "
                "result would not be nats. Evaluate with the preprocessing of the training, for instance Binarise."
            )
        label = y if self.labelled else None
        self.density = self.model.likelihood.has_density and has_density(self.model.posterior(x, label))
        if not self.blind:
            found = elbo_terms(self.model, x, label, samples=self.elbo_samples, seed=seed)
            for name, value in found.items():
                if self.model.likelihood.has_density or name not in ("elbo", "reconstruction"):
                    self._put({"elbo": self.elbo_name, "sigma": "mean_sigma"}.get(name, name), value)
            if not isinstance(self.model.likelihood, Mixed):
                copy = self.preprocessing.inverse(self.model.reconstruct(x, label))
                error = (copy.double() - raw.double()).square().flatten(1)
                self._put(
                    "squared_error", error.nanmean(1) if isinstance(self.model.likelihood, Masked) else error.mean(1)
                )
        if self.samples is None or not self.density:
            return
        if not self.model.likelihood.discrete:
            self._put("log_abs_det", self.preprocessing.log_abs_dets(raw))
        if not self.model.num_classes:
            bound = importance_bound(self.model, x, samples=self.samples, seed=seed, compiled=self.compiled)
            self._put("evidence_bound", bound)
            return
        bounds = class_bounds(self.model, x, samples=self.samples, seed=seed)
        joint = bounds + log_class_weights(self.model).double()
        self._put("evidence_bound", joint.logsumexp(-1))
        if y is not None:
            self.classes.setdefault("truth", []).append(y.cpu())
            self.classes.setdefault("predicted", []).append(joint.argmax(-1).cpu())
            if self.labelled:
                self._put("evidence_bound_given_label", bounds.gather(-1, y.unsqueeze(-1)).squeeze(-1))

    def merge(self, lengths: Sequence[int], processes: Processes) -> None:
        """Take over what the other processes measured; ``lengths`` are those of all batches."""
        for columns in (self.columns, self.classes):
            columns.update({name: [values] for name, values in merged(columns, lengths, processes).items()})
        self.density = processes.agree(self.density)

    def values(self) -> dict[str, Estimate]:
        """Return the means over examples."""
        columns = {name: torch.cat(parts) for name, parts in self.columns.items()}
        error, volume = columns.pop("squared_error", None), columns.pop("log_abs_det", None)
        result = {
            name: mean_estimate(values, "units of z" if name == "mean_sigma" else "nats")
            for name, values in columns.items()
        }
        if error is not None:
            result["reconstruction_rmse"] = root(mean_estimate(error, "data units squared"), "data units")
        evidence = result.get("evidence_bound")
        if evidence is not None:
            discrete = self.model.likelihood.discrete
            bits = bits_per_dim(evidence, math.prod(self.model.likelihood.shape), discrete=discrete)
            if bits is not None:
                result["bits_per_dim"] = bits
            else:
                assert volume is not None
                result["evidence_bound_raw"] = mean_estimate(raw_log_density(columns["evidence_bound"], volume), "nats")
        return result

    def draws(self) -> dict[str, int]:
        """Return how many z each value took."""
        result = {name: self.elbo_samples for name in (self.elbo_name, "reconstruction") if name in self.columns}
        if "evidence_bound" in self.columns and self.samples is not None:
            names = ["evidence_bound", "bits_per_dim" if self.model.likelihood.discrete else "evidence_bound_raw"]
            names += ["evidence_bound_given_label"] if self.labelled else []
            result |= dict.fromkeys(names, self.samples)
        return result

    def bayes(self) -> Accuracy | None:
        """Return the accuracy of Bayes classification, where it was asked for and there are labels."""
        found = {name: torch.cat(parts) for name, parts in self.classes.items()}
        if not found or bool((found["truth"] < 0).all()):
            return None
        return accuracy(found["truth"], found["predicted"], self.model.num_classes)

    def absent(self, *, asked_judge: bool, kl_by_dimension: bool) -> dict[str, str]:
        """Return why what is missing is missing."""
        reasons: dict[str, str] = {}
        classes, discrete = bool(self.model.num_classes), self.model.likelihood.discrete
        bounds = ["evidence_bound", "bits_per_dim" if discrete else "evidence_bound_raw"]
        bounds += ["bayes_accuracy", "evidence_bound_given_label"] if classes else []
        if not discrete:
            reasons["bits_per_dim"] = "the data are continuous: a density has no bits"
        if not classes:
            reasons |= dict.fromkeys(("bayes_accuracy", "generation_accuracy"), "the model has no classes")
        elif not asked_judge:
            reasons["generation_accuracy"] = "not asked for: it needs a judge"
        if classes and not self.labelled:
            missing = "some examples have no label"
            reasons |= dict.fromkeys(("elbo_given_label", "evidence_bound_given_label"), missing)
            if self.bayes() is None:
                reasons["bayes_accuracy"] = missing
            if self.blind:
                costs = ("reconstruction", "kl", "kl_mean", "kl_variance", "reconstruction_rmse")
                reasons |= dict.fromkeys(("elbo", *costs), f"{missing}, and the networks look at labels")
        if isinstance(self.model.likelihood, Mixed):
            reasons["reconstruction_rmse"] = "every column has a unit of its own"
        if not self.model.likelihood.has_density:
            score = f"{type(self.model.likelihood).__name__} is a score in the place of a density p(x | z)"
            reasons |= dict.fromkeys((self.elbo_name, "reconstruction", *bounds), score)
        elif not self.density:
            point = f"{type(self.model.posterior).__name__} is a point mass, without a density q(z | x)"
            reasons |= dict.fromkeys((self.elbo_name, "kl", "kl_mean", "kl_variance", "mean_sigma", *bounds), point)
        elif self.samples is None:
            reasons |= dict.fromkeys(bounds, "not asked for: it needs a number of samples K")
        if not kl_by_dimension:
            reasons["kl_per_dimension"] = reasons.get("kl", "KL to this prior has no closed form by dimension")
            reasons.setdefault("kl_mean", reasons["kl_per_dimension"])
            reasons.setdefault("kl_variance", reasons["kl_per_dimension"])
        return reasons

    @property
    def elbo_name(self) -> str:
        """What the ELBO bounds: log p(x | y) once the model is told the label."""
        return "elbo_given_label" if self.labelled else "elbo"

    def _put(self, name: str, values: Tensor) -> None:
        self.columns.setdefault(name, []).append(values.double().cpu())


def root(square: Estimate, unit: str) -> Estimate:
    """Return the square root of an estimate, its standard error by the delta method."""
    value = math.sqrt(square.value) if square.value >= 0 else math.nan
    return Estimate(value, square.standard_error / (2 * value) if value else 0.0, square.n, unit)
