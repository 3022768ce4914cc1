r"""Fidelity: how far what a model generates is from the data, in the features of a declared extractor.

The figures are those of :mod:`~sfumato.evaluation.distances`. None of them is called FID or KID: these names belong to
the standard Inception network. Beside every figure stand the numbers of examples, the split, and the extractor with its
hash; and, as ``reference``, the same figure for real examples of the training split in the place of the generated: what
a perfect model would get at these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.numerics import seed_for
from sfumato.data import Dataset, Examples, Preprocessing
from sfumato.evaluation.distances import (
    NEAREST_COVERAGE,
    NEAREST_PRECISION,
    frechet_distance,
    kernel_distance,
    neighbour_scores,
    two_sample_test,
)
from sfumato.evaluation.estimate import Estimate, finite
from sfumato.evaluation.features import STREAM, Extractor, choose, default_extractor
from sfumato.evaluation.measuring import measuring, refuse_gaps
from sfumato.evaluation.passes import EXAMPLES, Tell, batches
from sfumato.likelihoods import Bernoulli
from sfumato.models import Model

FORMAT_VERSION = 1
MOST = 10_000
ERRORS = {
    "frechet_distance": "delete-a-group jackknife, 10 groups",
    "kernel_distance": "delete-a-group jackknife, 10 groups",
    "precision": "over generated examples, balls fixed",
    "recall": "over real examples, balls fixed",
    "density": "over generated examples, balls fixed",
    "coverage": "over real examples, balls fixed",
    "two_sample_accuracy": "over test examples",
}


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How far generated examples are from real ones, and what that was measured with.

    Args:
        split: where the real examples are from: "train", "validation" or "test".
        n_real: how many of them.
        n_generated: how many were generated.
        extractor: the name of the extractor.
        extractor_sha256: of its weights.
        features: d, the numbers in a row.
        draws: whether draws from p(x | z) were judged, or its expected data.
        seed: of everything random.
        data: the name of the data.
        fingerprint: SHA-256 of the data and their splits.
        values: ``frechet_distance`` (squared features, 0 is best), ``kernel_distance`` (squared MMD, 0 is best),
            ``precision``, ``recall``, ``coverage`` (fractions, 1 is best), ``density`` (a ratio, 1 for equal
            distributions), ``two_sample_accuracy`` (a fraction, 1/2 is best).
        p_value: of the two-sample test.
        reference: the same for real examples of the training split in the place of the generated.
        reference_p_value: of its two-sample test; None without a reference.
        n_reference: how many training examples that were; 0 without a reference.
        notes: what to know before one believes a figure.
    """

    split: str
    n_real: int
    n_generated: int
    extractor: str
    extractor_sha256: str
    features: int
    draws: bool
    seed: int
    data: str
    fingerprint: str
    values: Mapping[str, Estimate]
    p_value: float
    reference: Mapping[str, Estimate] = field(default_factory=dict)
    reference_p_value: float | None = None
    n_reference: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json; every figure carries what it was measured on."""
        return {
            "format_version": FORMAT_VERSION,
            "split": self.split,
            "n_real": self.n_real,
            "n_generated": self.n_generated,
            "extractor": {"name": self.extractor, "sha256": self.extractor_sha256, "features": self.features},
            "generated": "draws from p(x | z)" if self.draws else "expected data of p(x | z)",
            "seed": self.seed,
            "data": {"name": self.data, "fingerprint": self.fingerprint},
            "nearest": {"precision_recall": NEAREST_PRECISION, "density_coverage": NEAREST_COVERAGE},
            "values": self._figures(self.values, self.p_value, n_generated=self.n_generated),
            "reference": self._figures(self.reference, self.reference_p_value, n_training=self.n_reference),
            "notes": list(self.notes),
            "versions": {"sfumato": version("sfumato"), "torch": str(torch.__version__)},
        }

    def _figures(self, values: Mapping[str, Estimate], p_value: float | None, **counts: int) -> dict[str, Any]:
        """Return json of figures, each with the numbers, the split and the extractor's hash beside it."""
        beside = {"n_real": self.n_real, **counts, "split": self.split, "extractor": self.extractor}
        beside["extractor_sha256"] = self.extractor_sha256
        figures: dict[str, Any] = {
            name: estimate.to_dict() | beside | {"error_from": ERRORS[name]} for name, estimate in values.items()
        }
        if p_value is not None:
            figures["two_sample_accuracy"]["p_value"] = finite(p_value)
        return figures


def fidelity(
    model: Model,
    preprocessing: Preprocessing,
    dataset: Dataset,
    *,
    split: str = "test",
    n: int = MOST,
    extractor: Extractor | None = None,
    draw: bool | None = None,
    reference: bool = True,
    seed: int = 0,
    tell: Tell | None = None,
) -> Fidelity:
    """Compare as many generated examples as real ones.

    Args:
        model: in any mode, which it has again afterwards. Classes are drawn by their frequencies.
        preprocessing: raw data to the model's input; moved to the model's device.
        dataset: as it was loaded.
        split: "train", "validation" or "test".
        n: how many at most; of a larger split that many are chosen by the seed.
        extractor: by default :func:`~sfumato.evaluation.features.default_extractor`, trained on the training split.
        draw: judge draws from p(x | z) instead of its expected data; by default for binary data only, where the draws
            are like the data (0 and 1) and the expected data are not.
        reference: measure the same for training examples.
        seed: of everything random.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: too few examples for a figure, or an extractor that does not take them.
    """
    if n < 2:
        raise UserError(f"fidelity compares at least 2 examples; got n={n}. Take more.")
    refuse_gaps(model.likelihood, "distances of features")
    prepared = preprocessing.prepare(dataset)
    draw = isinstance(model.likelihood, Bernoulli) if draw is None else draw
    with measuring(model) as device:
        preprocessing.to(device)
        if extractor is None:
            extractor = default_extractor(prepared, preprocessing, seed=seed, device=device, tell=tell)
        real = features_of(choose(prepared.split(split), n, seed), preprocessing, extractor, device, seed, tell)
        generated = generated_features(model, preprocessing, extractor, len(real), draw=draw, seed=seed, tell=tell)
        values, p_value = compare(real, generated, seed=seed)
        notes = warnings_about(real, generated, split, extractor)
        expected: dict[str, Estimate] = {}
        expected_p, n_train = None, 0
        if reference and split != "train":
            some = choose(prepared.split("train"), n, seed)
            train = features_of(some, preprocessing, extractor, device, seed_for(STREAM, seed), tell)
            expected, expected_p = compare(real, train, seed=seed)
            n_train = len(train)
    return Fidelity(
        split=split,
        n_real=len(real),
        n_generated=len(generated),
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        features=real.shape[1],
        draws=draw,
        seed=seed,
        data=dataset.name,
        fingerprint=dataset.fingerprint,
        values=values,
        p_value=p_value,
        reference=expected,
        reference_p_value=expected_p,
        n_reference=n_train,
        notes=notes,
    )


def compare(
    real: Float64[Tensor, "n d"], generated: Float64[Tensor, "m d"], *, seed: int = 0
) -> tuple[dict[str, Estimate], float]:
    """Return all figures of two sets of feature rows by name, and the p-value of the two-sample test.

    Args:
        real: feature rows.
        generated: feature rows.
        seed: of the two-sample test.
    """
    test = two_sample_test(real, generated, seed=seed)
    figures = {
        "frechet_distance": frechet_distance(real, generated),
        "kernel_distance": kernel_distance(real, generated),
        **neighbour_scores(real, generated),
        "two_sample_accuracy": test.accuracy,
    }
    return figures, test.p_value


def features_of(
    examples: Examples,
    preprocessing: Preprocessing,
    extractor: Extractor,
    device: torch.device,
    seed: int,
    tell: Tell | None = None,
) -> Float64[Tensor, "n d"]:
    """Return the features of real examples, a row each.

    Args:
        examples: the split, or some of it.
        preprocessing: raw data to the model's input.
        extractor: the extractor.
        device: where ``preprocessing`` lies.
        seed: of the preprocessing's noise.
        tell: see :func:`~sfumato.evaluation.passes.batches`.
    """
    passes = batches(examples, preprocessing, device, seed, tell, "features")
    return torch.cat([extractor(x, preprocessing) for x, _, _, _ in passes])


def generated_features(
    model: Model,
    preprocessing: Preprocessing,
    extractor: Extractor,
    n: int,
    *,
    draw: bool,
    seed: int = 0,
    tell: Tell | None = None,
) -> Float64[Tensor, "n d"]:
    """Return the features of n generated examples, a row each.

    Args:
        model: in the state of :func:`~sfumato.evaluation.measuring.measuring`.
        preprocessing: gives generated data their own units again, for an extractor that sees these.
        extractor: the extractor.
        n: how many.
        draw: draws from p(x | z) instead of its expected data.
        seed: of the noise.
        tell: called as tell("samples", done, of).
    """
    rows = []
    for part, start in enumerate(range(0, n, EXAMPLES)):
        count = min(EXAMPLES, n - start)
        x = model.sample(count, draw=draw, generator=seed_for(STREAM, seed, part))
        rows.append(extractor(x, preprocessing))
        if tell is not None:
            tell("samples", start + count, n)
    return torch.cat(rows)


def warnings_about(
    real: Float64[Tensor, "n d"], generated: Float64[Tensor, "m d"], split: str, extractor: Extractor
) -> tuple[str, ...]:
    """Return what to know before one believes a figure, a sentence each.

    Args:
        real: feature rows.
        generated: feature rows.
        split: where the real ones are from.
        extractor: whose features they are.
    """
    notes = []
    count, features = min(len(real), len(generated)), real.shape[1]
    if count <= features:
        notes.append(
            f"{count:,} examples are too few for {features:,} features: the covariances are singular and the Frechet "
            "distance is much too high. Compare it at equal numbers only."
        )
    if split == "train":
        notes.append(f"the real examples are those that were trained on; so was perhaps the {extractor.name}.")
    return tuple(notes)
