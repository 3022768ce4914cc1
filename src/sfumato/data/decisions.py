"""From facts to a likelihood and its preprocessing, each with its reason and how to choose otherwise.

A likelihood must be one: masses for discrete values, densities for real ones. Cross-entropy of grey values is neither,
so a Bernoulli likelihood takes values that are 0 or 1, or binarised ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Count, checked
from sfumato.data.by_column import Columns
from sfumato.data.columns import kinds_text
from sfumato.data.content import SPLITS
from sfumato.data.dataset import Dataset
from sfumato.data.inspection import FEW_LEVELS, Inspection
from sfumato.data.preprocessing import (
    Binarise,
    Counts,
    Identity,
    Integers,
    Levels,
    Preprocessing,
    Standardise,
    Unit,
)

LIKELIHOODS = (
    "bernoulli",
    "gaussian",
    "logistic",
    "categorical",
    "poisson",
    "negative-binomial",
    "zero-inflated-negative-binomial",
    "continuous-bernoulli",
    "laplace",
    "student-t",
    "ordinal",
    "mixture-of-logistics",
    "mixed",
)
COUNTS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial")
REAL = ("gaussian", "laplace", "student-t")
BINARISE = ("none", "fixed", "dynamic")
_MOST_LEVELS = {"logistic": 65_536, "mixture-of-logistics": 65_536, "categorical": 256, "ordinal": 256}
_ARTICLES = {
    "logistic": "a discretised logistic",
    "mixture-of-logistics": "a mixture of logistics",
    "categorical": "a categorical",
    "ordinal": "an ordinal",
}
_SHOWN_COLUMNS = 40
_NEARLY_BINARY = 0.8


@dataclass(frozen=True)
class Decision:
    """One thing that was decided.

    Args:
        name: "likelihood", "binarise", "levels", "variance", "preprocessing", "split" or "reading".
        value: what was chosen.
        because: the reason, a fact about the data.
        change_with: the option that chooses otherwise.
        source: "auto", or "user" where it was asked for.
    """

    name: str
    value: Any
    because: str
    change_with: str
    source: Literal["auto", "user"]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for json."""
        return asdict(self)


def decide(inspection: Inspection, likelihood: str | None = None, binarise: str | None = None) -> list[Decision]:
    """Choose what was not asked for, and check what was.

    Args:
        inspection: the facts.
        likelihood: one of ``LIKELIHOODS``; None to choose.
        binarise: none, fixed or dynamic; None to choose (which is none).

    Returns:
        the decisions, in the order in which they follow from each other.

    Raises:
        UserError: an unknown name, or a likelihood that the values do not fit.
    """
    for option, word, choices in (("likelihood", likelihood, LIKELIHOODS), ("binarise", binarise, BINARISE)):
        if word is not None and word not in choices:
            raise UserError(f"--{option} should be one of its names; got '{word}'. {did_you_mean(word, choices)}")
    mode = binarise or "none"
    if inspection.columns:
        return _of_columns(inspection, likelihood, mode)
    if likelihood == "mixed":
        raise UserError(
            f"--likelihood mixed is for tables, whose columns are then read one by one; {inspection.source} was not "
            "read so. Give a .csv, a .parquet or a frame."
        )
    if mode != "none":
        _check_binarise(inspection, likelihood, mode)
    name, because, otherwise = _likelihood(inspection, mode)
    if likelihood is not None:
        _check_likelihood(inspection, likelihood, mode)
        name, because = likelihood, _note(inspection, likelihood)
    asked: Literal["auto", "user"] = "user" if likelihood else "auto"
    decisions = [Decision("likelihood", name, because, otherwise, asked)]
    if name == "bernoulli" and (binarise or inspection.kind == "binary"):
        why = "asked for" if binarise else "the values are 0 and 1 already"
        decisions.append(Decision("binarise", mode, why, "--binarise dynamic", "user" if binarise else "auto"))
    if name in _MOST_LEVELS:
        levels = inspection.levels
        decisions.append(Decision("levels", levels, f"{inspection.kind} values", "--likelihood gaussian", "auto"))
    if name == "gaussian":
        why = "the mean squared error settles the ratio of reconstruction and KL"
        decisions.append(Decision("variance", "optimal", why, "--config FILE", "auto"))
    decisions.append(
        Decision(
            "preprocessing",
            _preprocessing(inspection, name, mode),
            f"what the {name} likelihood needs",
            "--likelihood NAME",
            "auto",
        )
    )
    if name in COUNTS:
        what = "the encoder sees log(1 + count), the likelihood the counts"
        decisions.append(Decision("encoder input", "log(1 + x)", what, "--config FILE", "auto"))
        total = "what z says; of another total the counts are other counts"
        decisions.append(Decision("library", "decoded", total, "--config FILE", "auto"))
    decisions.append(_split(inspection))
    if inspection.streamed:
        source: Literal["auto", "user"] = "user" if inspection.streamed == "asked for" else "auto"
        decisions.append(Decision("reading", "streamed", inspection.streamed, "--no-stream", source))
    return decisions


def decided(decisions: Sequence[Decision], name: str, default: Any = None) -> Any:
    """Return the value of the decision ``name``, or ``default``."""
    return next((decision.value for decision in decisions if decision.name == name), default)


def build_preprocessing(
    inspection: Inspection, decisions: Sequence[Decision], dataset: Dataset, seed: int = 0
) -> Preprocessing:
    """Return the preprocessing that was decided, fitted to the training split and checked against every split.

    Args:
        inspection: the facts.
        decisions: what :func:`decide` returned.
        dataset: the data, not prepared.
        seed: of a fixed binarisation.

    Raises:
        UserError: a split holds values that the training split rules out.
    """
    likelihood, mode = decided(decisions, "likelihood"), decided(decisions, "binarise", "none")
    seed = checked(seed, Count, "--seed")
    shape, top = dataset.shape, inspection.top
    result: Preprocessing
    if likelihood == "mixed":
        result = Columns(inspection.columns).fit(dataset.array("train"))
    elif likelihood in REAL:
        result = Standardise(shape).fit(dataset.array("train"))
    elif likelihood in COUNTS:
        result = Counts(shape, (dataset.origin or {}).get("layer") or "")
    elif likelihood == "continuous-bernoulli":
        result = Unit(shape, 1.0 if inspection.kind == "real" else top)
    elif mode != "none":
        result = Binarise(shape, mode, seed, 1.0 if inspection.kind == "real" else top)
    elif likelihood == "bernoulli":
        result = Identity(shape) if top == 1 else Levels(shape, 2, top)
    else:
        member = Levels if likelihood in ("logistic", "mixture-of-logistics") else Integers
        result = member(shape, decided(decisions, "levels"), top)
    for name in SPLITS:
        result.check(dataset.array(name), f"the {name} split of {inspection.source}")
    return result


def _of_columns(facts: Inspection, likelihood: str | None, mode: str) -> list[Decision]:
    """Return the decisions about a table that was read column by column."""
    if likelihood not in (None, "mixed") or mode != "none":
        asked = f"--binarise {mode}" if mode != "none" else f"--likelihood {likelihood}"
        raise UserError(
            f"{asked} needs numbers of one kind in all cells; {facts.source} was read column by column. Leave one out."
        )
    kinds = kinds_text(facts.columns)
    empty = f", {facts.empty:,} cells are missing and do not count" if facts.empty else ""
    found = [Decision("likelihood", "mixed", f"{kinds}{empty}", "--likelihood gaussian", "user")]
    for column, because in zip(facts.columns[:_SHOWN_COLUMNS], facts.guesses, strict=False):
        found.append(Decision(f"column {column.name}", column.kind, because, "its type in a .parquet", "auto"))
    what = "real columns to mean 0 and deviation 1, counts as they are, levels to 0, 1, ..."
    found.append(Decision("preprocessing", what, "what the likelihood of each column needs", "--config FILE", "auto"))
    return [*found, _split(facts)]


def _likelihood(facts: Inspection, mode: str) -> tuple[str, str, str]:
    """Return the likelihood that the facts ask for, why, and the option for another."""
    what = {"images": "images", "table": "columns", "array": "values"}[facts.layout]
    if mode != "none":
        return "bernoulli", "binarised values are 0 and 1", "--binarise none"
    if facts.kind == "binary":
        return "bernoulli", f"all training values are 0 or {facts.top:g}", "--likelihood logistic"
    if facts.kind == "8-bit":
        share = f", {facts.extremes:.0%} of the values exactly {facts.low:g} or {facts.high:g}"
        other = "--binarise dynamic" if facts.extremes >= _NEARLY_BINARY else "--likelihood gaussian"
        colour = "colour " if facts.layout == "images" and facts.shape[0] >= 3 else ""
        grey = "grey " if facts.layout == "images" and facts.shape[0] == 1 else ""
        return "logistic", f"8-bit {colour}{grey}{what}{share}", other
    if facts.kind == "counts" and facts.top < FEW_LEVELS:
        return (
            "categorical",
            f"whole numbers from 0 to {facts.top:g}, few enough for one mass each",
            "--likelihood logistic",
        )
    if facts.kind == "counts" and facts.layout != "images":
        return "negative-binomial", f"counts from 0 to {facts.top:,.0f}", "--likelihood poisson"
    if facts.kind == "counts":
        other = "--likelihood logistic" if facts.top < _MOST_LEVELS["logistic"] else "--config FILE"
        return "gaussian", f"counts up to {facts.top:,.0f}, treated as real numbers", other
    other = "--binarise dynamic" if _is_grey(facts) else "--config FILE"
    return "gaussian", f"real values from {facts.low:.3g} to {facts.high:.3g}", other


def _check_binarise(facts: Inspection, likelihood: str | None, mode: str) -> None:
    if likelihood not in (None, "bernoulli"):
        raise UserError(
            f"binarised values need a Bernoulli likelihood; got --likelihood {likelihood}. Leave out one of the two."
        )
    if not _is_grey(facts):
        raise UserError(
            f"--binarise {mode} needs grey values 0 ... 255, or in [0, 1]; {facts.source} holds {_range(facts)}. "
            "Rescale the array, or leave it out."
        )


def _is_grey(facts: Inspection) -> bool:
    """Whether the values can be read as probabilities of white."""
    return facts.kind in ("binary", "8-bit") or (facts.kind == "real" and facts.low >= 0 and facts.high <= 1)


def _check_likelihood(facts: Inspection, likelihood: str, mode: str) -> None:
    if likelihood == "bernoulli" and facts.kind != "binary" and mode == "none":
        if facts.high > 1 or facts.low < 0:
            other = "logistic" if facts.kind == "8-bit" else _likelihood(facts, "none")[0]
            grey = ", --binarise dynamic" if facts.kind == "8-bit" else ""
            raise UserError(
                f"a Bernoulli likelihood needs values in [0, 1]; {facts.source} holds {_range(facts)}. "
                f"Use --likelihood {other}{grey}, or rescale the array."
            )
        other = "logistic" if facts.kind == "8-bit" else "gaussian"
        raise UserError(
            f"a Bernoulli likelihood needs values that are 0 or 1; {facts.source} holds grey values between them, "
            f"whose cross-entropy is not a likelihood. Use --binarise dynamic, or --likelihood {other}."
        )
    if likelihood in _MOST_LEVELS and (facts.levels is None or facts.levels > _MOST_LEVELS[likelihood]):
        got = f"{'real values' if facts.levels is None else 'whole numbers'} from {_range(facts)}"
        raise UserError(
            f"{_ARTICLES[likelihood]} likelihood needs whole numbers from 0 to at most "
            f"{_MOST_LEVELS[likelihood] - 1:,}; {facts.source} holds {got}. Use --likelihood gaussian."
        )
    if likelihood in COUNTS and (facts.levels is None or not facts.whole):
        raise UserError(
            f"a {likelihood} likelihood needs counts, whole numbers from 0; {facts.source} holds numbers from "
            f"{_range(facts)} that are not. Use --likelihood gaussian, or the raw counts (of an AnnData: its layer)."
        )
    if likelihood == "continuous-bernoulli" and not _is_grey(facts):
        raise UserError(
            f"a continuous Bernoulli likelihood needs grey values 0 ... 255, or in [0, 1]; {facts.source} holds "
            f"{_range(facts)}. Use --likelihood gaussian, or rescale the array."
        )


def _note(facts: Inspection, likelihood: str) -> str:
    if likelihood in (*REAL, "continuous-bernoulli") and facts.kind != "real":
        return f"asked for; it treats {facts.kind} values as real, so there are no bits per dimension"
    return "asked for"


def _preprocessing(facts: Inspection, likelihood: str, mode: str) -> str:
    if mode != "none":
        return f"{mode} binarisation: P(1) = value / {1 if facts.kind == 'real' else facts.top:g}"
    if likelihood in REAL:
        columns = "each column" if len(facts.shape) == 1 else "all values"
        return f"{columns} to mean 0 and deviation 1"
    if likelihood in COUNTS:
        return "none"
    if likelihood in ("categorical", "ordinal"):
        return "none" if facts.levels == facts.top + 1 else f"values times {(facts.levels or 2) - 1} / {facts.top:g}"
    return "none" if facts.top == 1 else f"values / {facts.top:g}"


def _split(facts: Inspection) -> Decision:
    value = " · ".join(f"{facts.splits[name]:,} {name}" for name in SPLITS)
    how = "by class, " if facts.classes else ""
    twins = "duplicates not looked for" if facts.streamed else "duplicates together"
    because = "as the data came; what was missing is cut from train" if facts.given_splits else f"{how}{twins}"
    asked = facts.split not in ((), (0.8, 0.1, 0.1))
    return Decision("split", value, because, "--split 0.7,0.15,0.15", "user" if asked else "auto")


def _range(facts: Inspection) -> str:
    return f"{facts.low:g} to {facts.high:g}"
