"""Numbers as a person reads them: a name, as many digits as are known, the unit, and what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    "elbo_given_label": Label("ELBO, given the label", "lower bound on log p(x | y)", better="up"),
    "evidence_bound": Label("evidence bound", "tighter lower bound on log p(x), from K draws", better="up"),
    "evidence_bound_given_label": Label(
        "evidence bound, given the label", "lower bound on log p(x | y), from K draws", better="up"
    ),
    "evidence_bound_raw": Label("evidence bound, raw data", "the same before preprocessing", better="up"),
    "bits_per_dim": Label("bits per dimension", "the evidence bound, for each value of an example", "bits/dim", "down"),
    "loss": Label("loss", "what is minimised, at the current beta", better="down"),
    "reconstruction": Label("reconstruction", "−log p(x | z), what the decoder gets wrong", better="down"),
    "reconstruction_rmse": Label("reconstruction error", "root mean square, in the units of the data", better="down"),
    "kl": Label("KL", "what q(z | x) costs over the prior: L_mu + L_sigma"),
    "kl_mean": Label("L_mu", "the part of the KL from the means"),
    "kl_variance": Label("L_sigma", "the part of the KL from the variances"),
    "sigma": Label("mean sigma", "noise of the posterior: 1 is the prior's, 0 is none", unit="units of z"),
    "mean_sigma": Label("mean sigma", "noise of the posterior: 1 is the prior's, 0 is none", unit="units of z"),
    "active_units": Label("active dimensions", "variance of the posterior mean over 0.01", "dimensions"),
    "bayes_accuracy": Label("Bayes accuracy", "the class that explains x best is its own", "%", "up"),
    "generation_accuracy": Label("class asked = class made", "judged by a small classifier", "%", "up"),
    "judge_accuracy": Label("accuracy of the judge", "the small classifier, on real examples", "%", "up"),
    "independent": Label("baseline: independent values", "log p(x) of a model without any dependence", better="up"),
    "ppca": Label("baseline: probabilistic PCA", "log p(x) with as many latent dimensions", better="up"),
    "dims": Label("values of an example", unit=""),
}
CLASS_PARTS = ("bayes_accuracy", "generation_accuracy", "judge_accuracy")
TABLES = {
    "bayes_accuracy": "True class, and class by Bayes' rule",
    "generation_accuracy": "Class asked, and class made",
}
CURVES = ("elbo", "reconstruction", "kl", "kl_mean", "kl_variance", "sigma", "active_units")
NOT_CURVES = {"step", "split", "loss", "mean_sigma", "skipped"}
_MOST_CLASSES = 30


def label(name: str) -> Label:
    """Return how to present ``name``; an unknown name stands for itself."""
    if name.startswith("kl_level_"):
        return Label(f"KL of level {name.removeprefix('kl_level_')}", "the part of one level of z; 1 is the top")
    return LABELS.get(name, Label(name.replace("_", " "), unit=""))


def text(value: Any, digits: int | str = 4) -> str:
    """Return a number with thousands marked; a dash for anything that is no finite number.

    Args:
        value: the number.
        digits: how many significant ones; or the text of its error, which has as many decimals.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(digits, str):
        return f"{value:,.{len(digits.partition('.')[2])}f}".replace("-", "−")
    places = max(0, min(6, digits - 1 - math.floor(math.log10(abs(value))))) if value else 0
    big = abs(value) >= 1e9 or 0 < abs(value) < 1e-6
    return (f"{value:.{digits - 1}e}" if big else f"{value:,.{places}f}").replace("-", "−")


def estimate_text(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return value, standard error and unit, with the digits that the error leaves: ("−84.21", "0.35", "nats").

    Fractions become per cent.
    """
    value, error = (math.nan if entry.get(key) is None else float(entry[key]) for key in ("value", "standard_error"))
    unit = str(entry.get("unit", ""))
    if unit == "fraction":
        value, error, unit = 100 * value, 100 * error, "%"
    if not math.isfinite(value):
        return "–", "", unit
    if not error > 0:
        return text(value), "0" if error == 0 else "", unit
    shown, _, error_shown = str(Estimate(value, error, 0, "")).strip().partition(" ± ")
    return text(float(shown), error_shown), error_shown, unit


def rows(evaluation: Mapping[str, Any], group: str = "") -> list[dict[str, Any]]:
    """Return a row for every estimate, anything with a value, at any depth of dictionaries.

    Args:
        evaluation: ``Evaluation.to_dict()``, or a part of it.
        group: the key of the part.

    Returns:
        key, name, value, error, unit, n, samples (K), meaning, better; all but the key ready to be shown.
    """
    result: list[dict[str, Any]] = []
    for name, entry in evaluation.items():
        if not isinstance(entry, Mapping):
            continue
        if "value" not in entry:
            result += rows(entry, str(name))
            continue
        key = group if name == "overall" else str(name)
        described = label(key)
        value, error, unit = estimate_text(entry)
        result.append(
            {
                "key": key,
                "name": described.name,
                "value": f"{text(entry['value'])} of {text(entry['of'])}" if "of" in entry else value,
                "error": error,
                "unit": unit or described.unit,
                "n": "" if entry.get("n") is None else text(entry["n"]),
                "samples": "" if entry.get("samples") is None else text(entry["samples"]),
                "meaning": described.meaning,
                "better": described.better,
            }
        )
    order = list(LABELS)
    return sorted(result, key=lambda row: order.index(row["key"]) if row["key"] in LABELS else len(order))


def facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value with its unit) of every plain number or word: split, n, seed."""
    values = evaluation.get("values") or {}
    result = []
    for key, value in evaluation.items():
        if (
            key == "format_version"
            or key in values
            or isinstance(value, bool)
            or not isinstance(value, str | int | float)
        ):
            continue
        described = label(str(key))
        shown = value if isinstance(value, str) else text(value)
        result.append((described.name, f"{shown} {described.unit if key in LABELS else ''}".strip()))
    return result


def absent(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, why) of what was not measured."""
    return [(label(str(name)).name, str(why)) for name, why in (evaluation.get("absent") or {}).items()]


def by_class(evaluation: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what was measured for each class.

    Returns:
        ``titles`` and ``rows``: (class name, (value, error, unit) for each title). ``tables``: title, names and rows
        of how often a class was taken for another, as fractions of the row.
    """
    parts = {key: evaluation[key] for key in CLASS_PARTS if isinstance(evaluation.get(key), Mapping)}
    named = {key: [estimate_text(entry) for entry in part.get("per_class") or ()] for key, part in parts.items()}
    named = {key: column for key, column in named.items() if column}
    count = min(map(len, named.values()), default=0)
    tables = []
    for key, part in parts.items():
        counts = part.get("confusion")
        if counts and 1 < len(counts) <= _MOST_CLASSES and key in TABLES:
            shares = [[cell / (sum(row) or 1.0) for cell in row] for row in counts]
            labels = [class_name(names, number) for number in range(len(counts))]
            tables.append({"title": TABLES[key], "names": labels, "rows": list(zip(labels, shares, strict=True))})
    return {
        "titles": [label(key).name for key in named],
        "rows": [(class_name(names, number), [column[number] for column in named.values()]) for number in range(count)],
        "tables": tables,
    }


def class_name(names: Sequence[str], number: int) -> str:
    """Return the name of a class, its number where there is none, "unknown" for -1."""
    if number < 0:
        return "unknown"
    return names[number] if number < len(names) else str(number)


def per_dimension(evaluation: Mapping[str, Any] | None) -> list[float] | None:
    """Return the KL of each latent dimension, nats."""
    kl = ((evaluation or {}).get("per_dimension") or {}).get("kl")
    return [float(value or 0.0) for value in kl] if kl else None
