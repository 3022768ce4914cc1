"""Numbers as a person reads them: a name, as many digits as are known, the unit, and what it means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.evaluation.estimate import Estimate


@dataclass(frozen=True)
class Label:
    """How a quantity is presented.

    Args:
        name: what people call it.
        meaning: one sentence.
        unit: where the number does not bring its own.
        better: "up", "down", or "".
    """

    name: str
    meaning: str = ""
    unit: str = "nats"
    better: str = ""


LABELS = {
    "elbo": Label("ELBO", "lower bound on log p(x)", better="up"),
    "loss": Label("loss", "what is minimised, at the current beta", better="down"),
    "reconstruction": Label("reconstruction", "−log p(x | z), what the decoder gets wrong", better="down"),
    "kl": Label("KL", "what q(z | x) costs over the prior: L_mu + L_sigma"),
    "kl_mean": Label("L_mu", "the part of the KL from the means"),
    "kl_variance": Label("L_sigma", "the part of the KL from the variances"),
    "sigma": Label("mean sigma", "noise of the posterior: 1 is the prior's, 0 is none", unit="units of z"),
    "mean_sigma": Label("mean sigma", "noise of the posterior: 1 is the prior's, 0 is none", unit="units of z"),
    "iwae": Label("IWAE bound", "tighter lower bound on log p(x), from K draws", better="up"),
    "importance_bound": Label("IWAE bound", "tighter lower bound, from K draws", better="up"),
    "evidence_bound": Label("evidence bound", "lower bound on log p(x) without its label, from K draws", better="up"),
    "bits_per_dim": Label("bits per dimension", "−log P(x) for each value of an example", "bits/dim", "down"),
    "active_units": Label("active dimensions", "variance of the posterior mean over 0.01", "dimensions"),
    "bayes_accuracy": Label("Bayes accuracy", "the class that explains x best is its own", "fraction", "up"),
    "generation_accuracy": Label("class asked = class made", "judged by a small classifier", "fraction", "up"),
    "judge_accuracy": Label("accuracy of the judge", "the small classifier, on real test data", "fraction", "up"),
    "skipped": Label("skipped steps", "steps that went wrong and changed nothing", "steps", "down"),
}
CURVES = ("elbo", "reconstruction", "kl", "kl_mean", "kl_variance", "sigma", "active_units")
NOT_CURVES = {"step", "split", "loss", "mean_sigma", "skipped"}


def label(name: str) -> Label:
    """Return how to present ``name``; an unknown name stands for itself."""
    return LABELS.get(name, Label(name.replace("_", " "), unit=""))


def text(value: Any, digits: int = 4) -> str:
    """Return a number with thousands marked and ``digits`` significant ones; anything that is no finite number as a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value) if isinstance(value, bool | str) else "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    places = max(0, min(6, digits - 1 - math.floor(math.log10(abs(value))))) if value else 0
    big = abs(value) >= 1e9 or 0 < abs(value) < 1e-6
    return (f"{value:.{digits - 1}e}" if big else f"{value:,.{places}f}").replace("-", "−")


def estimate_text(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return value and standard error of an estimate with the digits that the error leaves: ("−84.21", "0.35")."""
    value, error = (math.nan if entry.get(key) is None else float(entry[key]) for key in ("value", "standard_error"))
    if not math.isfinite(value):
        return "–", ""
    if not error > 0:
        return text(entry["value"]), "0" if error == 0 else ""
    shown, _, error_shown = str(Estimate(value, error, 0, "")).strip().partition(" ± ")
    return shown.replace("-", "−"), error_shown


def estimates(evaluation: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield (path of keys, entry) of every estimate, anything with a value and a unit, at any depth."""
    for key, entry in evaluation.items():
        if not isinstance(entry, Mapping):
            continue
        if "value" in entry and "unit" in entry:
            yield (*path, str(key)), entry
        else:
            yield from estimates(entry, (*path, str(key)))


def rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every estimate: name, value, error, unit, n, K, meaning, better."""
    result = []
    for path, entry in estimates(evaluation):
        described = label(path[-1])
        value, error = estimate_text(entry)
        inside = " · ".join(part.replace("_", " ") for part in path[:-1])
        result.append(
            {
                "key": path[-1],
                "name": f"{inside} · {described.name}" if inside else described.name,
                "value": value,
                "error": error,
                "unit": str(entry["unit"]),
                "n": text(entry.get("n")),
                "samples": text(entry["samples"]) if entry.get("samples") is not None else "",
                "meaning": described.meaning,
                "better": described.better,
            }
        )
    return result


def facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, unit) of every plain number or word on the top level: split, K, active dimensions."""
    result = []
    for key, value in evaluation.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            described = label(str(key))
            result.append((described.name, text(value) if not isinstance(value, str) else value, described.unit if key in LABELS else ""))
    return result


def matrix(evaluation: Mapping[str, Any], key: str) -> list[list[float]] | None:
    """Return the square list of lists whose key contains ``key``, searched at any depth."""
    for name, value in evaluation.items():
        if isinstance(value, Mapping):
            found = matrix(value, key)
            if found is not None:
                return found
        elif key in str(name) and isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(isinstance(row, Sequence) and len(row) == len(value) for row in value):
                return [[float(cell or 0) for cell in row] for row in value]
    return None


def per_dimension(source: Mapping[str, Any] | None) -> list[float] | None:
    """Return the KL of each latent dimension, nats, wherever ``source`` keeps it."""
    for name, value in (source or {}).items():
        if name in ("kl_per_dimension", "kl_by_dimension") or (name == "kl" and isinstance(value, list)):
            if isinstance(value, list) and value and all(isinstance(item, int | float | None) for item in value):
                return [float(item or 0.0) for item in value]
        if isinstance(value, Mapping):
            found = per_dimension(value)
            if found is not None:
                return found
    return None
