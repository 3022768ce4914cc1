"""The blocks that a person reads: the plan before a training, the verdict after it, tables of facts and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sfumato.cli.printing import console, next_block, percent, print_columns
from sfumato.data import Decision
from sfumato.evaluation import Estimate
from sfumato.io.run import RunFolder
from sfumato.io.store import shown
from sfumato.recipes import Run
from sfumato.training.runtime import open_runtime
from sfumato.verbs.inspect import Inspected
from sfumato.verbs.opening import open_run
from sfumato.verbs.train import TrainedRun
from sfumato.verbs.verdict import BASELINES

VALUES = (
    ("evidence_bound", "log p(x), at least"),
    ("evidence_bound_raw", "log p(data), at least"),
    ("evidence_bound_given_label", "log p(x | class), at least"),
    ("bits_per_dim", "bits per dimension"),
    ("elbo", "ELBO"),
    ("elbo_given_label", "ELBO, given the class"),
    ("reconstruction", "reconstruction"),
    ("kl", "KL"),
    ("kl_mean", "  L_mu"),
    ("kl_variance", "  L_sigma"),
    ("mean_sigma", "mean sigma"),
    ("reconstruction_rmse", "reconstruction error"),
)
ACCURACIES = (
    ("bayes_accuracy", "Bayes classification", "p(class | x) by Bayes' rule"),
    ("generation_accuracy", "class asked = class made", "judged by a small classifier"),
    ("judge_accuracy", "  the judge itself", "on real examples of this split"),
)
SHORT = ("evidence_bound", "evidence_bound_raw", "bits_per_dim", "reconstruction_rmse", "kl")


def print_plan(error: Console, run: Run, path: Path) -> None:
    """Print what a training is about to do."""
    dataset = run.dataset
    counts = " · ".join(f"{len(rows):,} {name}" for name, rows in dataset.splits.items())
    classes = f" · {dataset.num_classes} classes" if dataset.num_classes else ""
    left_out = f" · {len(dataset.left_out):,} left out (see run.json)" if dataset.left_out else ""
    where = open_runtime(run.config.precision).describe()
    lines = [
        ("run", f"{path.resolve()}   (seed {run.config.seed}, {where})"),
        ("data", counts + classes + left_out),
    ]
    for name, text in lines:
        error.print(f"{name:<10}{text}", soft_wrap=True)
    print_columns(error, decision_rows("decided", run.decisions), keep=2, dim=4)
    error.print(f"{'watch':<10}{(path / 'report.html').resolve().as_uri()}", soft_wrap=True)
    error.print()


def decision_rows(title: str, decisions: Sequence[Decision]) -> list[tuple[str, ...]]:
    """Return a row for each decision: what, value, why, how to choose otherwise."""
    rows: list[tuple[str, ...]] = []
    for number, decision in enumerate(decisions):
        value = decision.value if isinstance(decision.value, str) else f"{decision.value:,}"
        rows.append((title if number == 0 else "", decision.name, value, decision.because, decision.change_with))
    return rows


def print_verdict(trained: TrainedRun) -> None:
    """Print the numbers that matter, the verdict and what to do next."""
    error = console(stderr=True)
    evaluation = trained.evaluation or {}
    error.print()
    error.print(f"evaluated on {evaluation.get('n', 0):,} test examples")
    print_columns(error, evaluation_rows(evaluation, short=True), indent=2, dim=2)
    error.print()
    for sentence in trained.verdict:
        error.print(sentence, soft_wrap=True)
    error.print()
    error.print(f"report   {RunFolder(trained.path).report.resolve().as_uri()}", soft_wrap=True)
    error.print(next_commands(trained.path), soft_wrap=True)


def next_commands(path: Path) -> str:
    """Return commands that go on from a finished run."""
    opened, run = open_run(path), shown(path)
    ending = "png" if opened.is_images else "csv" if len(opened.model.preprocessing.shape) == 1 else "npz"
    sample = ["sample", run, "-n", "64", "-o", f"{path.name}-samples.{ending}"]
    commands = [sample, ["reconstruct", run, "-o", f"{path.name}-reconstructions.{ending}"]]
    if opened.model.model.num_classes and opened.model.class_names:
        commands.insert(1, ["sample", run, "--class", opened.model.class_names[0], "-o", f"{path.name}-class.{ending}"])
    commands.append(["evaluate", run, "--samples", "1000"])
    return next_block(*commands)


def evaluation_rows(evaluation: Mapping[str, Any], short: bool = False) -> list[tuple[str, str, str]]:
    """Return (name, value ± standard error and unit, note) of every number, or of the few for the end of a training."""
    values = evaluation.get("values", {})
    rows = []
    for key, name in VALUES:
        if key in values and (not short or key in SHORT):
            rows.append((name, _estimate(values[key]), _note(key, values[key], evaluation)))
    units = evaluation.get("active_units")
    if units:
        rows.append(
            ("active dimensions", f"{units['value']} of {units['of']}", "variance of the posterior mean over 0.01")
        )
    for key, name, note in ACCURACIES:
        if evaluation.get(key):
            rows.append((name, percent(evaluation[key]["overall"]), note))
    return rows


def details(evaluation: Mapping[str, Any]) -> list[str]:
    """Return lines for what does not fit a table: KL per dimension, and why numbers are missing."""
    lines = []
    kl = (evaluation.get("per_dimension") or {}).get("kl")
    if kl and all(value is not None for value in kl):
        lines += [
            "KL per dimension, nats, largest first:",
            "  " + " ".join(f"{value:.2f}" for value in sorted(kl, reverse=True)),
        ]
    reasons: dict[str, list[str]] = {}
    for name, why in (evaluation.get("absent") or {}).items():
        reasons.setdefault(why, []).append(name.replace("_", " "))
    return lines + [f"not measured: {', '.join(names)} ({why})" for why, names in reasons.items()]


def fact_rows(found: Inspected) -> list[tuple[str, str]]:
    """Return (name, text) of what is in the data."""
    facts, dataset = found.facts, found.dataset
    what = {"images": "images", "table": "rows", "array": "examples"}[facts.layout]
    size = "x".join(map(str, facts.shape))
    if facts.layout == "images":
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}.get(facts.shape[0], f"{facts.shape[0]} channels")
        size = f"{facts.shape[1]}x{facts.shape[2]} {colour}"
    elif facts.layout == "table":
        size = f"{len(dataset.columns)} columns: {_some(dataset.columns)}"
    span = f"{facts.low:g} to {facts.high:g}" + (f", {facts.distinct:,} different" if facts.kind != "real" else "")
    rows = [
        (what, f"{len(dataset):,}   ({' · '.join(f'{count:,} {name}' for name, count in facts.splits.items())})"),
        ("size" if facts.layout != "table" else "columns", size),
        ("values", f"{facts.kind}, {span}; {facts.extremes:.0%} exactly the lowest or highest   ({facts.dtype})"),
    ]
    if facts.classes:
        balance = facts.balance or 1
        note = f"   unbalanced {balance:.0f}:1" if balance >= 1.5 else "   balanced"
        names = [f"{name} {count:,}" for name, count in facts.classes.items()]
        unknown = f" · {facts.unlabelled:,} without" if facts.unlabelled else ""
        rows.append(("classes", f"{len(facts.classes)}: {_some(names, 12)}{unknown}{note}"))
    if facts.left_out:
        rows.append(("left out", " · ".join(f"{count:,} {why}" for why, count in found.left_out.items())))
    crossing = f", {facts.crossing:,} in more than one split" if facts.crossing else ", none in more than one split"
    rows.append(("duplicates", f"{facts.duplicates:,} exact{crossing}" if facts.duplicates else "none"))
    rows.append(
        ("constant", f"{facts.constant:,} of {facts.dimensions:,} dimensions" if facts.constant else "no dimension")
    )
    return rows


def _some(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(words[:most]) + (f", and {len(words) - most} more" if len(words) > most else "")


def _estimate(entry: Mapping[str, Any]) -> str:
    if entry.get("value") is None:
        return "not finite"
    error = entry.get("standard_error")
    return str(Estimate(entry["value"], float("nan") if error is None else error, entry["n"], entry["unit"]))


def _note(key: str, entry: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    if key == "evidence_bound":
        words = [f"K = {entry['samples']:,}"] if "samples" in entry else []
        for name, baseline in (evaluation.get("baselines") or {}).items():
            if baseline and baseline.get("value") is not None:
                words.append(f"{BASELINES.get(name, name)}: {baseline['value']:,.1f}")
        return "; ".join(words)
    return {"reconstruction": "-log p(x | z)", "kl": "L_mu + L_sigma", "mean_sigma": "1 is the prior's"}.get(key, "")
