"""What ``sfumato evaluate --evidence`` found, as blocks of rows for the command line and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sfumato.evaluation.estimate import Estimate

Row = tuple[str, str, str]
Rows = Sequence[tuple[str, str, str]]

ANNEALED: Rows = (
    ("annealed_bound", "log p(x), at least", "annealed importance sampling"),
    ("importance_bound_same_examples", "  L_{samples:,} there", "the bound above, on the same examples"),
    ("annealed_minus_importance", "  more than L_{samples:,}", "how loose that bound is, at least"),
    ("annealed_acceptance", "accepted steps", "tuned to 65 % before they count"),
)
SANDWICH: Rows = (
    ("simulated_lower_bound", "log p(x), at least", "forward chains"),
    ("simulated_upper_bound", "log p(x), at most", "backward chains, from the z that made x"),
    ("simulated_gap", "  gap", "more is not lost by annealing, on average"),
)
GAP: Rows = (
    ("inference", "log p(x) - ELBO", "what the encoder's Gaussian loses, all together"),
    ("approximation", "  of the family", "no diagonal Gaussian is the true posterior"),
    ("amortisation", "  of the encoder", "the best Gaussian of an example is not the one it gives"),
)
AGGREGATE: Rows = (
    ("rate", "E KL(q(z|x) to p(z))", "the rate, which is the sum of the next two"),
    ("mutual_information", "  I_q(x; z)", "what z tells about which x"),
    ("marginal_kl", "  KL(q(z) to p(z))", "how far all posteriors together are from the prior"),
    ("total_correlation", "    total correlation", "of that: dimensions that depend on one another"),
    ("dimension_wise_kl", "    by dimension", "of that: single dimensions that are not N(0, 1)"),
)
TRADE: Rows = (
    ("rate", "rate", "nats that z costs"),
    ("distortion", "distortion", "-E log p(x | z)"),
)
FIDELITY: Rows = (
    ("frechet_distance", "Frechet distance", "0 is best"),
    ("kernel_distance", "kernel distance (KID)", "squared MMD; 0 is best"),
    ("precision", "precision", "generated among the real"),
    ("recall", "recall", "real among the generated"),
    ("density", "density", "1 for equal distributions"),
    ("coverage", "coverage", "real with a generated neighbour"),
    ("two_sample_accuracy", "two-sample test", "a classifier tells them apart; 1/2: it cannot"),
)
FACTORS: Rows = (
    ("mig", "MIG", "mutual information gap"),
    ("factor_vae", "FactorVAE score", "majority vote"),
    ("sap", "SAP", "separated attribute predictability"),
)
CHECKS: Rows = (
    ("mean", "mean", "of all values"),
    ("variance", "variance", "over examples, mean over values"),
    ("zeros", "zeros", "share of values"),
    ("near_zeros", "near zero", "share of values"),
)
CALIBRATED = {
    "residuals": "mean square of standardised residuals: 1 is calibrated, above it p(x | z) is too sure",
    "transform": "spread of p(x | z)'s own ranks: 1 is calibrated, above it p(x | z) is too sure",
}


class Block(NamedTuple):
    """Rows (name, value, what it means) under a title."""

    title: str
    rows: list[Row]


def blocks(found: Mapping[str, Any]) -> list[Block]:
    """Return everything that was measured, part by part, in the order of a reader's questions.

    Args:
        found: what :func:`~sfumato.evaluation.thorough.measure_thoroughly` returned, as plain json.
    """
    makers: dict[str, Callable[[Mapping[str, Any]], list[Block]]] = {
        "bounds": _bounds,
        "gap": _gap,
        "aggregate": _aggregate,
        "rate_distortion": lambda part: [Block("rate and distortion", _rows(TRADE, part))],
        "calibration": _calibration,
        "predictive_checks": _checks,
        "fidelity": _fidelity,
        "disentanglement": _factors,
    }
    return [block for name, make in makers.items() if found.get(name) for block in make(found[name]) if block.rows]


def missing(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, why) of everything that was not measured."""
    inner = [(found.get(part) or {}).get("absent") or {} for part in ("bounds", "aggregate")]
    return [
        (name.replace("_", " "), why) for absent in (found.get("absent") or {}, *inner) for name, why in absent.items()
    ]


def estimate_text(entry: Mapping[str, Any]) -> str:
    """Return value ± standard error and unit."""
    if entry["value"] is None:
        return "not finite"
    error = entry["standard_error"]
    value = str(Estimate(entry["value"], float("nan") if error is None else error, entry["n"], entry["unit"]))
    return value if error is not None else value.replace(" ± nan", "")


def _rows(names: Rows, part: Mapping[str, Any], **words: Any) -> list[Row]:
    return [(name.format(**words), estimate_text(part[key]), note) for key, name, note in names if part.get(key)]


def _bounds(part: Mapping[str, Any]) -> list[Block]:
    samples, annealed, result = part["samples"], part.get("annealed"), []
    if part["curve"]:
        rows = [(f"log p(x), L_{entry['samples']:,}", estimate_text(entry), "") for entry in part["curve"]]
        rows[-1] = (*rows[-1][:2], "at least, from all draws")
        size = part["effective_sample_size"]
        rows.append(("effective sample size", estimate_text(size), f"of {samples:,} draws; near 1 the bound is loose"))
        result.append(Block(f"evidence: {samples:,} draws for each of {part['n']:,} examples", rows))
    if annealed:
        how = annealed["settings"]
        ladder = f"{how['temperatures']:,} temperatures, {how['chains']:,} chains from the {how['start']}"
        count = annealed["annealed_bound"]["n"]
        title = f"annealing: {count:,} of the examples, {ladder}"
        result.append(Block(title, _rows(ANNEALED, annealed, samples=samples)))
        if annealed["simulated_gap"]:
            made = annealed["simulated_gap"]["n"]
            result.append(Block(f"sandwich: {made:,} examples made by the model", _rows(SANDWICH, annealed)))
    return result


def _gap(part: Mapping[str, Any]) -> list[Block]:
    given = ", given the label" if part["given_label"] else ""
    return [Block(f"what the ELBO loses{given}: {part['inference']['n']:,} examples", _rows(GAP, part))]


def _aggregate(part: Mapping[str, Any]) -> list[Block]:
    rows = _rows(AGGREGATE, part)
    information = part["mutual_information"]
    if information["near_cap"]:
        rows.append(
            ("  at its cap", f"log N = {information['cap']:.2f} nats", "says only that posteriors do not overlap")
        )
    return [Block(f"where the rate goes: q(z) of {part['posteriors']:,} posteriors", rows)]


def _calibration(part: Mapping[str, Any]) -> list[Block]:
    rows: list[Row] = []
    if part["spread"]:
        rows.append(("spread", estimate_text(part["spread"]), CALIBRATED[part["kind"]]))
    for entry in part["coverage"]:
        rows.append((f"{entry['nominal']:.0%} intervals".replace("%", " %"), estimate_text(entry["share"]), "hold"))
    if part["error"] is not None:
        note = "mean distance of predicted from observed frequency"
        rows.append(("calibration error", f"{part['error']:.4f} fraction", note))
    return [Block(f"calibration of p(x | z): {part['n']:,} examples", rows)]


def _checks(part: Mapping[str, Any]) -> list[Block]:
    rows = []
    for key, name, note in CHECKS:
        if part.get(key):
            check = part[key]
            z = "" if check["z"] is None else f"; {check['z']:+.1f} standard errors apart"
            value = f"{estimate_text(check['generated'])}, real {estimate_text(check['real'])}"
            rows.append((name, value, note + z))
    off = part["dimensions_off"]
    rows.append(("values off", f"{off['value']:.1%}".replace("%", " %"), f"by chance {off['by_chance']:.1%}"))
    return [Block(f"predictive checks: {part['generated']:,} generated examples", rows)]


def _fidelity(part: Mapping[str, Any]) -> list[Block]:
    rows = []
    for key, name, note in FIDELITY:
        reference = part["reference"].get(key)
        beside = f"; training data: {estimate_text(reference)}" if reference else ""
        rows.append((name, estimate_text(part["values"][key]), note + beside))
    extractor = part["extractor"]
    what = f"{part['n_generated']:,} generated, {part['n_real']:,} of the {part['split']} split"
    rows.append(("features", f"{extractor['features']:,}", f"{extractor['name']}, sha256 {extractor['sha256'][:12]}"))
    rows += [("note", "", note) for note in part["notes"]]
    return [Block(f"fidelity: {what}", rows)]


def _factors(part: Mapping[str, Any]) -> list[Block]:
    rows = _rows(FACTORS, part)
    dci = part["dci"]
    rows += [
        (f"DCI {name}", f"{dci[name]:.3f}", f"{dci['trees']} trees") for name in ("disentanglement", "completeness")
    ]
    rows.append(("DCI informativeness", estimate_text(dci["informativeness"]), "share of factors predicted right"))
    return [Block(f"disentanglement: {', '.join(part['factors'])}", rows)]
