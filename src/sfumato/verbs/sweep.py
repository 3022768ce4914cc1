"""``sfumato sweep``: one run for each beta and size of z, their rate and distortion, and the size that they speak for.

All numbers are those of the validation split: a choice is made from them, and the test split of every run stays what no
choice has seen. A sweep that is called again with the same words goes on with what is missing; more values of beta or
of the size extend it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core import strict_json
from sfumato.core.errors import Diverged, UserError
from sfumato.core.spec import NonNegative, Size, checked
from sfumato.data import Dataset, load_dataset
from sfumato.evaluation import Estimate, evaluate
from sfumato.io import store
from sfumato.io.run import RunFolder, finite
from sfumato.io.store import DamagedError, explained, shown
from sfumato.models import PackagedModel
from sfumato.recipes.papers import PAPERS
from sfumato.report.rate_distortion import sweep_picture
from sfumato.training import Listener, Trainer
from sfumato.verbs import inspect as _inspect
from sfumato.verbs import python
from sfumato.verbs.config import read_config, seed_of
from sfumato.verbs.opening import open_run
from sfumato.verbs.several import End, most_at_once, train_several
from sfumato.verbs.state import free_name, kl_term, read_state
from sfumato.verbs.train import EVALUATION_SAMPLES, Talk, TrainedRun, resuming, versions

FORMAT_VERSION = 1
SPLIT = "validation"
BETAS = (0.5, 1.0, 2.0, 4.0)
MOST = 200
READING = ("size", "label", "split", "skip_bad")
LENGTHS = ("steps", "epochs", "time")


@dataclass(frozen=True, order=True)
class Setting:
    """What is varied.

    Args:
        latent_dim: the size of z; None: what is decided from the data.
        beta: the weight of the KL term.
    """

    latent_dim: int | None
    beta: float | None

    @property
    def name(self) -> str:
        """The folder of its run."""
        parts = {"beta": self.beta, "latent": self.latent_dim}
        return "_".join(f"{name}-{value:g}" for name, value in parts.items() if value is not None)

    @property
    def words(self) -> dict[str, Any]:
        """The arguments of ``train``."""
        given = {"beta": self.beta, "latent_dim": self.latent_dim}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Point:
    """What one run gave, on the validation split.

    Args:
        run: the name of its folder.
        beta: the weight of the KL term.
        latent_dim: the size of z.
        rate: E KL(q(z | x) || p(z)), nats.
        distortion: -E log p(x | z), nats.
        elbo: -(rate + distortion), nats: at beta = 1, whatever the training's beta.
        evidence: the importance bound on log p(x), nats; None where there is none.
        active_units: dimensions whose posterior mean varies by more than 0.01.
        steps: optimizer steps that were planned.
        given_label: whether rate, distortion and ELBO are those of a model that is told the label.
    """

    run: str
    beta: float
    latent_dim: int
    rate: Estimate
    distortion: Estimate
    elbo: Estimate
    evidence: Estimate | None
    active_units: int
    steps: int
    given_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain json."""
        return {
            "run": self.run,
            "beta": self.beta,
            "latent_dim": self.latent_dim,
            "rate": self.rate.to_dict(),
            "distortion": self.distortion.to_dict(),
            "elbo": self.elbo.to_dict(),
            "evidence_bound": None if self.evidence is None else self.evidence.to_dict(),
            "active_units": {"value": self.active_units, "of": self.latent_dim},
            "steps": self.steps,
            "given_label": self.given_label,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Point:
        """Return the point that :meth:`to_dict` wrote."""
        return cls(
            run=tree["run"],
            beta=tree["beta"],
            latent_dim=tree["latent_dim"],
            rate=_estimate(tree["rate"]),
            distortion=_estimate(tree["distortion"]),
            elbo=_estimate(tree["elbo"]),
            evidence=None if tree["evidence_bound"] is None else _estimate(tree["evidence_bound"]),
            active_units=tree["active_units"]["value"],
            steps=tree["steps"],
            given_label=tree["given_label"],
        )


@dataclass(frozen=True)
class Suggestion:
    """A size of z, and what it is based on.

    Args:
        latent_dim: the size; None where the sweep says nothing about it.
        beta: the runs of this beta were looked at.
        because: the reason, in one or two sentences with numbers.
    """

    latent_dim: int | None
    beta: float
    because: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain json."""
        return {"latent_dim": self.latent_dim, "beta": self.beta, "because": self.because}


@dataclass(frozen=True)
class Sweep:
    """What a sweep left behind, in ``sweep.json`` and ``sweep.png`` of its folder.

    Args:
        path: the folder; every run is a folder in it.
        points: the runs that are finished, by size of z and beta.
        failed: run -> why it has no point.
        missing: the runs that are still to be trained.
        suggestion: a size of z, or None while nothing is finished.
        samples: K of the evidence bound.
        signal: of an interruption, or None.
    """

    path: Path
    points: tuple[Point, ...]
    failed: Mapping[str, str]
    missing: tuple[str, ...]
    suggestion: Suggestion | None
    samples: int
    signal: int | None = None

    def __repr__(self) -> str:
        return f"Sweep({self.path}: {len(self.points)} runs finished, {len(self.missing)} missing)"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {
            "path": str(self.path),
            "split": SPLIT,
            "samples": self.samples,
            "points": [point.to_dict() for point in self.points],
            "failed": dict(self.failed),
            "missing": list(self.missing),
            "suggestion": None if self.suggestion is None else self.suggestion.to_dict(),
        }


def sweep(
    data: Any,
    *,
    beta: Sequence[float] | float | None = None,
    latent_dim: Sequence[int] | int | None = None,
    out: str | Path | None = None,
    samples: int = EVALUATION_SAMPLES,
    on_setting: Callable[[Setting, int, int], Listener] | None = None,
    **options: Any,
) -> Sweep:
    """Train one run for each setting, measure all of them on the validation split, suggest a size of z.

    Args:
        data: what :func:`sfumato.train` takes.
        beta: weights of the KL term, by default 0.5, 1, 2, 4, or where sizes are given 1 alone, or what the paper says.
        latent_dim: sizes of z; None: the one that is decided from the data.
        out: the folder, by default ``runs/<name of the data>-sweep``.
        samples: K of the evidence bound.
        on_setting: called as on_setting(setting, number, of) before each run that is trained; what it returns listens.
        options: any other argument of :func:`sfumato.train`, the same for all runs. Where the length is a time, or is
            not given, the first run measures how many steps that are, and the others take as many.

    Returns:
        the sweep; an interrupted one is missing runs.

    Raises:
        UserError: fewer than two settings, data or options that cannot be used, or a folder that is no sweep, or one of
            other data or options.
    """
    settings = grid(beta, latent_dim, options.get("recipe"))
    samples = checked(samples, Size, "--samples")
    lengths = [name for name in LENGTHS if options.get(name) is not None]
    if len(lengths) > 1:
        raise UserError(f"--{lengths[0]} and --{lengths[1]} both say how long to train. Give one of them.")
    source = data.dataset if isinstance(data, _inspect.Inspected) else data
    tree = {} if options.get("config") is None else read_config(options["config"])
    seed = seed_of(tree) if options.get("seed") is None else options["seed"]
    if not isinstance(source, Dataset):
        reading = {name: options[name] for name in READING if options.get(name) is not None}
        source = load_dataset(source, seed=seed, **reading)
    path = Path(out) if out is not None else Path("runs") / f"{source.name}-sweep"
    given = {name: value for name, value in options.items() if value is not None and name not in ("config", "seed")}
    book = _Book(path, source, {**given, "config": tree, "seed": seed}, samples)
    with ExitStack() as stack:
        if book.open():
            stack.enter_context(RunFolder(path).lock())
            book.write(settings)

        def begun(*_: Any) -> None:
            if not book.begun:
                stack.enter_context(RunFolder(path).lock())
                book.write(settings)

        def hear(setting: Setting) -> Listener:
            return on_setting(setting, settings.index(setting) + 1, len(settings)) if on_setting else Listener()

        missing = book.missing(settings)
        for setting in list(missing):
            folder = RunFolder(path / setting.name)
            if folder.run.is_file() and read_state(folder).finished:
                missing.remove(setting)
                book.add(setting, open_run(folder.path).model)
                book.write(settings)
        while missing:
            group = _Group(path, source, missing)
            with ExitStack() as held:
                while group.wants_more():
                    held.callback(group.begin(book.steps(tree, lengths), options, hear, begun).close)
                ended = group.train()
            for setting, end in ended.items():
                missing.remove(setting)
                if isinstance(end, TrainedRun):
                    book.add(setting, end.model)
                elif isinstance(end, Diverged):
                    book.failed[setting.name] = str(end)
                book.write(settings)
            signals = [end for end in ended.values() if isinstance(end, int)]
            if signals:
                return book.result(settings, signals[0])
    return book.result(settings)


def grid(
    beta: Sequence[float] | float | None, latent_dim: Sequence[int] | int | None, recipe: str | None = None
) -> list[Setting]:
    """Return every pair of a beta and a size, the smallest first; where sizes alone are given, a paper keeps its beta.

    Raises:
        UserError: a number that cannot be, or fewer than two settings.

    >>> [setting.name for setting in grid((1, 0.5), (2, 4))]
    ['beta-0.5_latent-2', 'beta-1_latent-2', 'beta-0.5_latent-4', 'beta-1_latent-4']
    """
    sizes = [checked(size, Size, "--latent-dim") for size in _listed(latent_dim)]
    betas = [checked(value, NonNegative, "--beta") for value in _listed(beta)]
    paper = PAPERS.get(recipe or "")
    usual = [None] if paper and (sizes or paper.beta is None) else [1.0] if sizes else list(BETAS)
    pairs = itertools.product(sorted(set(sizes)) or [None], sorted(set(betas)) or usual)
    settings = [Setting(size, value) for size, value in pairs]
    if not 2 <= len(settings) <= MOST:
        raise UserError(
            f"a sweep needs 2 to {MOST} settings; got {len(settings)}. Give several values: --beta 0.5,1,2 or "
            "--latent-dim 2,4,8."
        )
    return settings


def suggest(points: Sequence[Point]) -> Suggestion | None:
    """Return the smallest size of z whose evidence is within one standard error of the best; None without points.

    Looked at are the runs with beta = 1, the one at which the objective is the ELBO, or else those of the beta of the
    run with the best ELBO. Where only one size was tried, the active dimensions are what there is to go by. Reference:
    the one-standard-error rule of Classification and Regression Trees, Breiman et al., 1984.
    """
    if not points:
        return None
    best_beta = max(points, key=lambda point: point.elbo.value).beta
    beta = 1.0 if any(point.beta == 1 for point in points) else best_beta
    rows = sorted((point for point in points if point.beta == beta), key=lambda point: point.latent_dim)
    largest = rows[-1]
    used = f"{largest.active_units} of {largest.latent_dim} dimensions are active"
    if largest.active_units == 0:
        return Suggestion(None, beta, f"At beta {beta:g} {used}: the posterior has collapsed. Try a smaller --beta.")
    known = [(point, point.evidence) for point in rows if point.evidence is not None]
    if len(known) < 2:
        if largest.active_units < largest.latent_dim:
            because = f"At beta {beta:g} {used}; no other size was tried."
            return Suggestion(largest.active_units, beta, because)
        because = f"At beta {beta:g} {used}: a larger size may help. No other was tried."
        return Suggestion(largest.latent_dim, beta, because)
    best, top = max(known, key=lambda pair: pair[1].value)
    floor = top.value - (top.standard_error if top.standard_error > 0 else 0.0)
    chosen, bound = next((point, value) for point, value in known if value.value >= floor)
    reason = (
        f"the best of the sizes at beta {beta:g}"
        if chosen is best
        else f"within one standard error of the best at beta {beta:g} (size {best.latent_dim}: {top})"
    )
    basis = f"on {bound.n:,} {SPLIT} examples after {chosen.steps:,} steps"
    active = f"{chosen.active_units} of {chosen.latent_dim} dimensions active"
    because = f"log p(x) is at least {bound} {basis}, {reason}; {active}"
    if chosen is not largest:
        return Suggestion(chosen.latent_dim, beta, f"{because}. At size {largest.latent_dim}, {used}.")
    more = "; it is the largest that was tried, and a larger one may help" if best is largest else ""
    return Suggestion(chosen.latent_dim, beta, f"{because}{more}.")


class _Book:
    """``sweep.json``: what was asked for, and what has been measured so far."""

    def __init__(self, path: Path, dataset: Dataset, options: dict[str, Any], samples: int) -> None:
        self.path, self.dataset, self.samples = path, dataset, samples
        self.file, self.picture = path / "sweep.json", path / "sweep.png"
        self.options: dict[str, Any] = json.loads(json.dumps(finite(options), default=str))
        self.points: dict[str, Point] = {}
        self.failed: dict[str, str] = {}
        self.begun = False

    def open(self) -> bool:
        """Read what is there; False: nothing is.

        Raises:
            UserError: something else is in the folder, or a sweep of other data or options.
        """
        if not os.path.lexists(self.path) or (self.path.is_dir() and not os.listdir(self.path)):
            return False
        other = f"Choose another folder: --out {shown(free_name(self.path))}."
        if not self.file.is_file():
            raise UserError(f"{shown(self.path)} exists and is not a sweep. {other}")
        with explained(self.file, "read"):
            tree = strict_json.parse(self.file.read_bytes(), shown(self.file))
        try:
            if tree["data"]["fingerprint"] != self.dataset.fingerprint:
                raise UserError(f"{shown(self.path)} is a sweep of other data. {other}")
            for name in sorted(tree["options"].keys() | self.options.keys()):
                before, now = tree["options"].get(name), self.options.get(name)
                if before != now:
                    raise UserError(
                        f"{shown(self.path)} is a sweep with --{name.replace('_', '-')} {before}; got {now}. "
                        f"Give the same, or choose another folder: --out {shown(free_name(self.path))}."
                    )
            if tree["samples"] == self.samples:
                self.points = {point["run"]: Point.from_dict(point) for point in tree["points"]}
            self.failed = dict(tree["failed"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{shown(self.file)} is not the file of a sweep ({error}). {other}") from None
        return True

    def steps(self, tree: Mapping[str, Any], lengths: Sequence[str]) -> dict[str, Any]:
        """Return the number of steps that an earlier run measured, where the length was given as a time or not."""
        if "training" in tree or lengths in (["steps"], ["epochs"]):
            return {}
        for folder in self._folders():
            if folder.run.is_file():
                return {"steps": int(folder.read_run()["training"]["steps"])}
        return {}

    def add(self, setting: Setting, packaged: PackagedModel) -> None:
        """Measure a finished run on the validation split."""
        found = evaluate(packaged.model, packaged.preprocessing, self.dataset, split=SPLIT, samples=self.samples)
        decided = RunFolder(self.path / setting.name).read_run()
        label = "elbo_given_label" in found.values
        name = "elbo_given_label" if label else "elbo"
        if name not in found.values:
            self.failed[setting.name] = found.absent.get(name, "it has no ELBO")
            return
        self.points[setting.name] = Point(
            run=setting.name,
            beta=float(
                (kl_term(decided["objective"]) or {}).get("beta", 1.0) if setting.beta is None else setting.beta
            ),
            latent_dim=packaged.model.latent_dim,
            rate=found.values["kl"],
            distortion=found.values["reconstruction"],
            elbo=found.values[name],
            evidence=found.values.get("evidence_bound"),
            active_units=found.latents.active_units,
            steps=int(decided["training"]["steps"]),
            given_label=label,
        )

    def result(self, settings: Sequence[Setting], signal: int | None = None) -> Sweep:
        """Return what is known: all that was ever measured in this folder, and what is missing of ``settings``."""
        points = tuple(sorted(self.points.values(), key=lambda point: (point.latent_dim, point.beta)))
        missing = tuple(setting.name for setting in self.missing(settings))
        return Sweep(self.path, points, dict(self.failed), missing, suggest(points), self.samples, signal)

    def missing(self, settings: Sequence[Setting]) -> list[Setting]:
        """Return those that have no point yet, and did not fail."""
        return [setting for setting in settings if setting.name not in self.points.keys() | self.failed.keys()]

    def write(self, settings: Sequence[Setting]) -> None:
        """Write ``sweep.json`` and, as soon as there is something to see, ``sweep.png``."""
        self.begun = True
        content = self.result(settings).to_dict()
        del content["path"]
        data = {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint}
        head = {"format_version": FORMAT_VERSION, "data": data, "options": self.options}
        store.write_file(self.file, strict_json.dump(finite({**head, **content, "versions": versions()})))
        if content["points"]:
            store.write_file(self.picture, sweep_picture(content["points"]))

    def _folders(self) -> Iterator[RunFolder]:
        names = sorted(os.listdir(self.path)) if self.path.is_dir() else []
        return (RunFolder(self.path / name) for name in names)


class _Group:
    """Runs of one size of z, which are trained at once where that is faster.

    Args:
        path: the folder of the sweep.
        dataset: what they learn.
        missing: what is to be trained, the next first.
    """

    def __init__(self, path: Path, dataset: Dataset, missing: Sequence[Setting]) -> None:
        self.path, self.dataset = path, dataset
        self.settings = [setting for setting in missing if setting.latent_dim == missing[0].latent_dim]
        self.resumed = [setting for setting in self.settings if RunFolder(path / setting.name).run.is_file()]
        self.settings = self.resumed or self.settings  # those that share their steps began together
        self.begun: list[tuple[Talk, Trainer]] = []

    def wants_more(self) -> bool:
        """Whether there is room for one more run."""
        room = most_at_once(self.begun[0][1]) if self.begun else 1
        return len(self.begun) < min(room, len(self.settings))

    def begin(
        self,
        steps: Mapping[str, Any],
        options: Mapping[str, Any],
        hear: Callable[[Setting], Listener],
        begun: Callable[..., None],
    ) -> Talk:
        """Begin the next run, or take up where it was interrupted."""
        setting = self.settings[len(self.begun)]
        folder, listener = self.path / setting.name, hear(setting)
        if self.resumed:
            talk = resuming(folder, source=self.dataset, listener=listener, at_once=len(self.settings))
        else:
            words = {name: value for name, value in options.items() if not (steps and name in LENGTHS)}
            words |= {**steps, **setting.words}
            talk = python.training(self.dataset, out=folder, on_decided=begun, listener=listener, **words)
        self.begun.append((talk, next(talk)))
        return talk

    def train(self) -> dict[Setting, End]:
        """Train what has begun; return how each run ended."""
        return dict(zip(self.settings, train_several(self.begun), strict=False))


def _listed(values: Sequence[Any] | Any) -> list[Any]:
    if values is None:
        return []
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [values]


def _estimate(tree: Mapping[str, Any]) -> Estimate:
    value, error = (float("nan") if tree[name] is None else tree[name] for name in ("value", "standard_error"))
    return Estimate(value, error, tree["n"], tree["unit"])
