"""The model card: ``README.md`` with metadata for the Hub, made of what was measured and decided, nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from sfumato.evaluation.estimate import Estimate
from sfumato.io.hub import needed
from sfumato.verbs.cite import bibliography
from sfumato.verbs.opening import Opened

METRICS = {
    "bits_per_dim": ("bits_per_dim", "bits per dimension"),
    "evidence_bound": ("log_likelihood_bound", "log p(x), at least"),
    "evidence_bound_given_label": ("log_likelihood_bound_given_label", "log p(x | y), at least"),
    "evidence_bound_raw": ("log_density_bound", "log p(x) in raw units, at least"),
    "elbo": ("elbo", "ELBO"),
    "elbo_given_label": ("elbo_given_label", "ELBO given the label"),
    "reconstruction": ("reconstruction_nats", "-E log p(x | z)"),
    "reconstruction_rmse": ("rmse", "reconstruction error (rmse)"),
    "kl": ("kl", "KL"),
}


def model_card(opened: Opened, name: str, revision: str | None = None) -> str:
    """Return the card of a model.

    Args:
        opened: a run or a model folder; the numbers are those of its ``evaluation.json``, if it has one.
        name: owner/name on the Hub.
        revision: for the example of how to load it.
    """
    needed()
    hub = importlib.import_module("huggingface_hub")
    evaluation = (opened.folder.read_evaluation() if opened.folder else None) or {}
    decided = opened.decided or {}
    data = str(decided.get("data", {}).get("name") or opened.card.get("data") or "data")
    results = [
        hub.EvalResult(
            task_type=task(opened),
            dataset_type=_slug(data),
            dataset_name=data,
            dataset_split=str(evaluation.get("split", "test")),
            metric_type=METRICS[key][0],
            metric_name=f"{METRICS[key][1]}, {entry['unit']} (n = {entry['n']:,})",
            metric_value=entry["value"],
        )
        for key, entry in (evaluation.get("values") or {}).items()
        if key in METRICS and entry.get("value") is not None
    ]
    head = hub.ModelCardData(
        library_name="sfumato",
        pipeline_tag=task(opened),
        tags=["sfumato", "variational-autoencoder", *(["class-conditional"] if opened.model.model.num_classes else [])],
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n# {name.rpartition('/')[2]}",
        _what(opened, data),
        _use(name, revision, opened),
        _numbers(evaluation),
        _settings(decided),
        _data(decided),
        _versions(opened, decided),
        f"## Citation\n\n```bibtex\n{bibliography(opened)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def task(opened: Opened) -> str:
    """Return the Hub's word for what the model does."""
    return "unconditional-image-generation" if opened.is_images else "feature-extraction"


def _what(opened: Opened, data: str) -> str:
    model, shape = opened.model.model, "x".join(map(str, opened.model.preprocessing.shape))
    classes = f", {model.num_classes} classes" if model.num_classes else ""
    weights = sum(parameter.numel() for parameter in opened.model.parameters())
    return (
        f"A variational autoencoder of {text(data)}: examples of shape {shape}{classes}, {model.latent_dim} latent "
        f"dimensions, {weights:,} parameters. p(x given z): {type(model.likelihood).__name__}; p(z): "
        f"{type(model.prior).__name__}; q(z given x): {type(model.posterior).__name__}. json and safetensors, no code."
    )


def _use(name: str, revision: str | None, opened: Opened) -> str:
    where = f"hf://{name}" + (f"@{revision}" if revision else "")
    lines = [
        "import sfumato",
        "",
        f'model = sfumato.load("{where}")' + ("" if revision else "  # pin one with @REVISION"),
        "x = model.sample(16)  # in the units of the data",
        "z = model.encode(x).mean",
        "again = model.reconstruct(x)",
    ]
    if opened.model.model.labels_reach_networks:
        lines[4:] = ["# encode and reconstruct take y as well: the networks see the class"]
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _numbers(evaluation: Mapping[str, Any]) -> str:
    values = {key: entry for key, entry in (evaluation.get("values") or {}).items() if key in METRICS}
    if not values:
        return "## Numbers\n\nNot evaluated."
    rows = []
    for key, entry in values.items():
        drawn = f", K = {entry['samples']:,}" if "samples" in entry else ""
        shown = "not finite" if entry.get("value") is None else str(_estimate(entry))
        rows.append(f"| {METRICS[key][1]}{drawn} | {shown} | {entry['n']:,} |")
    sentences = [str(sentence) for sentence in evaluation.get("verdict") or ()]
    verdict = "\n\n" + " ".join(text(sentence) for sentence in sentences) if sentences else ""
    return (
        f"## Numbers\n\nOn {evaluation['n']:,} examples of the {evaluation['split']} split, ± one standard error.\n\n"
        "| | value | n |\n|---|---|---|\n" + "\n".join(rows) + verdict
    )


def _settings(decided: Mapping[str, Any]) -> str:
    """Return the decisions, those that somebody asked for first."""
    decisions = sorted(decided.get("decisions") or (), key=lambda entry: entry.get("source") != "user")
    if not decisions:
        return ""
    rows = [
        f"| {text(entry['name'])} | {text(entry['value'])} | "
        f"{'asked for' if entry.get('source') == 'user' else 'automatic'} | {text(entry['because'])} |"
        for entry in decisions
    ]
    return "## Settings\n\n| | value | | because |\n|---|---|---|---|\n" + "\n".join(rows)


def _data(decided: Mapping[str, Any]) -> str:
    facts, data = decided.get("inspection") or {}, decided.get("data") or {}
    if not facts:
        return ""
    splits = ", ".join(f"{count:,} {split}" for split, count in (data.get("counts") or {}).items())
    lines = [
        f"* {text(data.get('name'))}: {splits}",
        f"* values: {text(facts.get('kind'))}, from {facts.get('low'):g} to {facts.get('high'):g}",
    ]
    classes = facts.get("classes") or {}
    if classes:
        shown = ", ".join(f"{text(name)} {count:,}" for name, count in list(classes.items())[:20])
        lines.append(f"* {len(classes)} classes: {shown}{' ...' if len(classes) > 20 else ''}")
    if facts.get("duplicates"):
        lines.append(f"* {facts['duplicates']:,} exact duplicates")
    lines.append(f"* left out: {facts.get('left_out', 0):,}; fingerprint `{str(data.get('fingerprint'))[:16]}`")
    return "## Data\n\n" + "\n".join(lines)


def _versions(opened: Opened, decided: Mapping[str, Any]) -> str:
    versions = dict(opened.card.get("versions") or decided.get("versions") or {})
    seed = f"; seed {decided['seed']}" if "seed" in decided else ""
    step = f"; weights of step {opened.step:,}" if opened.step is not None else ""
    return "## Versions\n\n" + ", ".join(f"{text(key)} {text(value)}" for key, value in versions.items()) + seed + step


def text(value: Any) -> str:
    """Return a value as text that cannot be markup: names come from data."""
    words = " ".join(str(value).split())
    for sign in "\\`*_[]<>|#":
        words = words.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return words


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name) or "data"


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    error = entry.get("standard_error")
    return Estimate(entry["value"], float("nan") if error is None else error, entry["n"], entry["unit"])
