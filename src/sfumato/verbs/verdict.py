"""The closing verdict: how good, what limits, whether longer would help. Plain sentences from measured numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.training import Outcome

RECENT = 5
WORTH = 0.002
BASELINES = {"independent": "each dimension alone", "ppca": "probabilistic PCA"}


def verdict(evaluation: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], outcome: Outcome) -> list[str]:
    """Return up to four sentences.

    Args:
        evaluation: ``Evaluation.to_dict()`` on the test split.
        metrics: the lines of ``metrics.jsonl``.
        outcome: how the training ended.
    """
    sentences = [*_against_baseline(evaluation), *_latents(evaluation), *_trend(metrics, outcome)]
    if outcome.skipped or outcome.recoveries:
        sentences.append(
            f"Watch: {outcome.skipped} steps went wrong and were skipped, {outcome.recoveries} recoveries were needed."
        )
    return sentences


def _against_baseline(evaluation: Mapping[str, Any]) -> list[str]:
    """Compare log p(x) with the best baseline, in units of the standard error of both."""
    bound = (evaluation.get("values") or {}).get("evidence_bound")
    baselines = {name: entry for name, entry in (evaluation.get("baselines") or {}).items() if _is_number(entry)}
    if bound is None or not _is_number(bound) or not baselines:
        return []
    name, best = max(baselines.items(), key=lambda item: item[1]["value"])
    gain = bound["value"] - best["value"]
    error = (bound["standard_error"] ** 2 + best["standard_error"] ** 2) ** 0.5
    words = BASELINES.get(name, name)
    if gain > 3 * error:
        return [f"Good: {gain:,.1f} nats an example better than {words}."]
    if gain > 0:
        return [f"Fair: {gain:,.1f} nats an example better than {words}, within three standard errors."]
    return [f"Poor: {-gain:,.1f} nats an example worse than {words}; do not use this model as it is."]


def _is_number(entry: Any) -> bool:
    return bool(entry) and entry.get("value") is not None and entry.get("standard_error") is not None


def _latents(evaluation: Mapping[str, Any]) -> list[str]:
    units = evaluation.get("active_units") or {}
    active, dims = units.get("value"), units.get("of")
    if active is None or not dims:
        return []
    if active == 0:
        return ["Limit: the posterior has collapsed, no latent dimension is used. Try a smaller --beta."]
    if active == dims:
        return [f"Limit: all {dims} latent dimensions are used; a larger --latent-dim may help."]
    return [f"Latents: {active} of {dims} dimensions are used; {dims - active} are idle and do no harm."]


def _trend(metrics: Sequence[Mapping[str, Any]], outcome: Outcome) -> list[str]:
    """Say whether the validation ELBO was still rising, from the last evaluations."""
    lines = [line for line in metrics if line.get("split") == "validation" and line.get("elbo") is not None]
    if outcome.stopped_early:
        return [f"Stopped early: no better validation loss since step {outcome.best_step:,}; longer would not help."]
    if len(lines) < 2 * RECENT:
        return []
    first, last = lines[-RECENT], lines[-1]
    gain = (last["elbo"] - first["elbo"]) / max(1, last["step"] - first["step"]) * 1000
    if gain * (last["step"] - first["step"]) / 1000 > WORTH * abs(last["elbo"]):
        return [f"Longer: the ELBO still rose {gain:,.2f} nats in 1,000 steps; more time should help."]
    return ["Longer: the ELBO had levelled off at the end of the learning-rate schedule."]
