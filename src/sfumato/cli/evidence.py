"""The block of ``sfumato evaluate --evidence``: log p(x) from below, and where possible from above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.cli.printing import percent
from sfumato.evaluation.estimate import Estimate

ROWS = (
    ("annealed_bound", "log p(x), at least", "annealed importance sampling"),
    ("importance_bound_same_examples", "  L_{samples:,} there", "the bound above, on the same examples"),
    ("annealed_minus_importance", "  more than L_{samples:,}", "how loose that bound is, at least"),
)
MADE = (
    ("simulated_lower_bound", "log p(x), at least", "forward chains"),
    ("simulated_upper_bound", "log p(x), at most", "backward chains, from the z that made x"),
    ("simulated_gap", "  gap", "more is not lost by annealing, on average"),
)


def evidence_blocks(evidence: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return (title, rows) for importance sampling, annealing and the sandwich; a row is (name, estimate, note)."""
    samples, annealed = evidence["samples"], evidence.get("annealed")
    blocks = []
    if evidence["curve"]:
        rows = [(f"log p(x), L_{entry['samples']:,}", estimate_text(entry), "") for entry in evidence["curve"]]
        rows[-1] = (rows[-1][0], rows[-1][1], "at least, from all draws")
        size = evidence["effective_sample_size"]
        rows.append(("effective sample size", estimate_text(size), f"of {samples:,} draws; near 1 the bound is loose"))
        blocks.append((f"evidence: {samples:,} draws for each of {evidence['n']:,} examples", rows))
    if annealed:
        how = annealed["settings"]
        ladder = f"{how['temperatures']:,} temperatures, {how['chains']:,} chains from the {how['start']}"
        rows = _rows(ROWS, annealed, samples)
        rows.append(("accepted steps", percent(annealed["annealed_acceptance"]), "tuned to 65 % before they count"))
        blocks.append((f"annealing: {annealed['annealed_bound']['n']:,} of the examples, {ladder}", rows))
        if annealed["simulated_gap"]:
            count = annealed["simulated_gap"]["n"]
            blocks.append((f"sandwich: {count:,} examples made by the model", _rows(MADE, annealed, samples)))
    return blocks


def _rows(rows: tuple[tuple[str, str, str], ...], found: Mapping[str, Any], samples: int) -> list[tuple[str, str, str]]:
    return [(name.format(samples=samples), estimate_text(found[key]), note) for key, name, note in rows if found[key]]


def estimate_text(entry: Mapping[str, Any]) -> str:
    """Return value ± standard error and unit."""
    if entry["value"] is None:
        return "not finite"
    error = entry["standard_error"]
    return str(Estimate(entry["value"], float("nan") if error is None else error, entry["n"], entry["unit"]))
