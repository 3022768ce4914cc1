"""The nouns of an experiment: what is claimed, how it is decided, what was measured, and the verdict.

A claim is three functions. ``measure`` trains and returns plain numbers for one seed; ``conclude`` reads the numbers of
all seeds and nothing else; ``draw`` draws them. The criterion is written before anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sfumato.claims.statistics import Interval
from sfumato.core.errors import UserError

if TYPE_CHECKING:
    from sfumato.claims.bench import Bench

Language = Literal["en", "zh"]
Verdict = Literal["holds", "holds with a condition", "does not hold"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Measurement = Mapping[str, Mapping[str, Any]]


class Words(NamedTuple):
    """The same text in two languages.

    >>> Words("noise", "噪声").of("zh")
    '噪声'
    """

    en: str
    zh: str

    def of(self, language: Language) -> str:
        """Return the text in ``language``."""
        text: str = getattr(self, language)
        return text


@dataclass(frozen=True)
class Setting:
    """How much is spent. Every number of an experiment follows from a setting and a seed.

    Args:
        name: quick or full, or "" for one of your own.
        seeds: trainings of every arm.
        data: labelled images, by name or path.
        latent_dim: of every model.
        width: of the hidden layer of encoder and decoder.
        steps: of a training; arms of a sweep have half as many, trainings that only may break a quarter.
        batch_size: examples a step.
        learning_rate: Adam's, at its peak after a twentieth of the steps; from there half a cosine down to 0.
        test: images of the test split that are measured on.
        evidence: images of the test split whose evidence is estimated.
        samples: K of the importance bound.
        judge_steps: of the judge's training.
    """

    name: str = ""
    seeds: int = 6
    data: str = "fashion-mnist-mini"
    latent_dim: int = 8
    width: int = 200
    steps: int = 750
    batch_size: int = 128
    learning_rate: float = 1e-2
    test: int = 1_000
    evidence: int = 200
    samples: int = 100
    judge_steps: int = 200

    @property
    def sweep_steps(self) -> int:
        """The steps of an arm of a sweep."""
        return max(1, self.steps // 2)

    @property
    def stress_steps(self) -> int:
        """The steps of a training that is done to see whether it breaks."""
        return max(1, self.steps // 4)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, for json."""
        return asdict(self)


QUICK = Setting("quick")
FULL = Setting(
    "full",
    seeds=10,
    latent_dim=16,
    width=400,
    steps=5_000,
    learning_rate=5e-3,
    test=2_000,
    evidence=500,
    samples=500,
    judge_steps=1_080,
)


class Seeds:
    """The measurements of one claim, one for each seed.

    Args:
        rows: what ``measure`` returned: arm -> quantity -> a number, or a list of numbers.

    >>> Seeds([{"vae": {"kl": 1.0}}, {"vae": {"kl": 3.0}}])("vae", "kl")
    array([1., 3.])
    """

    def __init__(self, rows: Sequence[Measurement]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, arm: str, quantity: str) -> NDArray[np.float64]:
        """Return a quantity of an arm, (seeds,) or (seeds, ...); NaN where a seed has no finite number."""
        return np.array([_numbers(row[arm][quantity]) for row in self.rows], dtype=np.float64)

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the order in which they were measured."""
        return list(self.rows[0])


@dataclass(frozen=True)
class Effect:
    """One number that the verdict rests on.

    Args:
        name: what it is.
        interval: its mean over seeds and 95 % confidence interval.
        unit: nats, percent, ...
    """

    name: Words
    interval: Interval
    unit: str


@dataclass(frozen=True)
class Result:
    """What came out.

    Args:
        verdict: by the claim's criterion.
        sentence: the verdict in words, with its numbers.
        effects: the numbers that it rests on.
    """

    verdict: Verdict
    sentence: Words
    effects: tuple[Effect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for json."""
        effects = [
            {"name": {"en": effect.name.en, "zh": effect.name.zh}, **effect.interval.to_dict(), "unit": effect.unit}
            for effect in self.effects
        ]
        return {
            "verdict": self.verdict,
            "sentence": {"en": self.sentence.en, "zh": self.sentence.zh},
            "effects": effects,
        }


@dataclass(frozen=True)
class Claim:
    """A statement of the article, and the experiment that decides about it.

    Args:
        number: 1 to 10.
        name: of its files.
        statements: the article's statements that it is about, "S9" and so on.
        title: a few words.
        statement: the claim, in our own words.
        formula: its mathematics, on one line.
        criterion: what will be called "holds", "holds with a condition" and "does not hold", decided beforehand.
        units: quantity -> unit, of everything that ``measure`` returns.
        measure: one seed's bench to numbers.
        conclude: all seeds' numbers to the result.
        draw: all seeds' numbers into a figure.
    """

    number: int
    name: str
    statements: tuple[str, ...]
    title: Words
    statement: Words
    formula: str
    criterion: Words
    units: Mapping[str, str]
    measure: Callable[[Bench], Measurement]
    conclude: Callable[[Seeds], Result]
    draw: Callable[[Seeds, Figure], None]

    @property
    def file(self) -> str:
        """The stem of its files.

        Two digits first, so that they sort.
        """
        return f"{self.number:02d}-{self.name}"

    def command(self, quick: bool = True) -> str:
        """Return the command that repeats it."""
        return f"sfumato claims {'--quick ' if quick else ''}--only {self.number}"


def decide(holds: bool, condition: bool) -> Verdict:
    """Return the verdict: "holds", else with ``condition`` "holds with a condition", else "does not hold"."""
    return "holds" if holds else "holds with a condition" if condition else "does not hold"


def checked_measurement(claim: Claim, measured: Measurement) -> Measurement:
    """Return ``measured`` when every quantity in it has a unit.

    Raises:
        ValueError: one has not: a number without a unit is none.
    """
    bare = {quantity for values in measured.values() for quantity in values} - set(claim.units)
    if bare:
        raise ValueError(f"claim {claim.number}: no unit for {sorted(bare)}")
    return measured


def plain(value: Any) -> Any:
    """Return numbers and lists of numbers for json, which has no NaN: None in its place."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def find_claims(claims: Mapping[int, Claim], only: Sequence[int] | None) -> list[Claim]:
    """Return the claims numbered ``only``, or all.

    Raises:
        UserError: there is no such claim.
    """
    numbers = list(claims) if only is None else list(dict.fromkeys(only))
    for number in numbers:
        if number not in claims:
            raise UserError(f"--only must name claims from 1 to {max(claims)}; got {number}. For instance: --only 3,5.")
    return [claims[number] for number in numbers]


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else float(value)
