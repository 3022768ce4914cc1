"""``sfumato doctor``: what is wrong with a run, why, and what to do. Reads everything and writes nothing.

A run that is still training is read beside it: its lock is looked at, not taken, and its checkpoints are only opened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.schedules import Schedule
from sfumato.core.spec import from_spec
from sfumato.evaluation.diagnosis import Course, Finding, Measured, Settings, Symptoms, diagnose, measure
from sfumato.evaluation.diagnosis.symptoms import State
from sfumato.io.run import RunFolder
from sfumato.io.store import DamagedError, shown
from sfumato.recipes import fresh_model
from sfumato.recipes.papers import PAPERS, elbo
from sfumato.recipes.plan import RATE
from sfumato.verbs.opening import Opened, is_run, open_run
from sfumato.verbs.state import free_name, kl_term, read_state

LOCKS = Path("/proc/locks")
RECENTLY = 120.0  # seconds without a change after which a run that nobody holds counts as stopped
TRIES = 3  # a training may remove a checkpoint while it is read
EVERY = 10.0
NUMBERS = ("loss", "elbo", "kl", "reconstruction")


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What :func:`doctor` found.

    Args:
        path: the folder of the run.
        symptoms: everything that was measured.
        findings: the worst first.
        commands: for each finding, words of a command that cures it, or none.
        absent: what could not be measured -> why.
    """

    path: Path
    symptoms: Symptoms
    findings: tuple[Finding, ...]
    commands: tuple[tuple[str, ...], ...]
    absent: Mapping[str, str]

    @property
    def healthy(self) -> bool:
        """Whether nothing is worse than a note, and the model could be looked at."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def headline(self) -> str:
        """One line: healthy or not, and the numbers that say how it stands."""
        course, measured = self.symptoms.course, self.symptoms.measured
        steps = f"{course.state}, step {course.step:,} of {self.symptoms.settings.steps:,}"
        parts = [steps]
        if measured is not None and measured.elbo is not None:
            parts.append(f"ELBO {measured.elbo} on {measured.n:,} validation examples")
        if measured is not None and measured.latents is not None:
            latents = measured.latents
            parts.append(f"{latents.active_units} of {latents.mean.shape[1]} latent dimensions active")
        if measured is not None and measured.balance is not None:
            parts.append(f"noise paid with {measured.balance:.2f} of the KL")
        serious = sum(finding.severity != "note" for finding in self.findings)
        word = f"{serious} finding{'s' if serious > 1 else ''}" if serious else "healthy"
        if not serious and measured is None:
            word = "nothing wrong in the metrics"
        return f"{shown(self.path)}: {word} ({' · '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for json."""
        course, measured = self.symptoms.course, self.symptoms.measured
        pairs = zip(self.findings, self.commands, strict=True)
        return {
            "run": str(self.path),
            "state": course.state,
            "step": course.step,
            "healthy": self.healthy,
            "findings": [{**finding.to_dict(), "command": list(command)} for finding, command in pairs],
            "settings": vars(self.symptoms.settings),
            "measured": None if measured is None else measured.to_dict(),
            "absent": dict(self.absent),
        }


def doctor(path: str | Path, *, seed: int = 0) -> Diagnosis:
    """Say what is wrong with a run, whether it is finished, interrupted or still running.

    Args:
        path: the folder of a run.
        seed: of the noise of what is measured.

    Raises:
        UserError: it is not the folder of a run. DamagedError: a file of it is missing or cut.
    """
    for attempt in range(TRIES):
        try:
            return _examine(Path(path).expanduser(), seed)
        except SfumatoError:
            if attempt == TRIES - 1 or not is_run(path):
                raise
            time.sleep(0.2)
    raise AssertionError


def watch(
    path: str | Path, *, seed: int = 0, every: float = EVERY, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Diagnosis]:
    """Yield a diagnosis now and after each evaluation, until the run ends; the last one is of its end.

    Args:
        path: the folder of a run.
        seed: of the noise.
        every: seconds between two looks at the metrics.
        sleep: waits so many seconds.

    Raises:
        UserError: as :func:`doctor`. SfumatoError: the folder went away while it was watched.
    """
    before: tuple[int, State] | None = None
    while True:
        try:
            folder = RunFolder(Path(path).expanduser())
            now = (sum(line.get("split") == "validation" for line in folder.metrics.read()), state_of(folder))
            found = doctor(path, seed=seed) if now != before else None
        except (SfumatoError, OSError):
            if before is None or is_run(path):
                raise
            gone = f"{shown(Path(path))} is gone: it was removed or renamed while it was watched."
            raise SfumatoError(gone) from None
        if found is not None:
            before = (now[0], found.symptoms.course.state)
            yield found
        if before is not None and before[1] != "running":
            return
        sleep(every)


def state_of(folder: RunFolder) -> State:
    """Return whether the run is finished, running, or stopped before its end."""
    state = read_state(folder)
    if state.finished:
        return "finished"
    held = is_held(folder.path / ".lock")
    if held is None:
        held = time.time() - state.when < RECENTLY
    return "running" if held else "stopped"


def is_held(lock: Path) -> bool | None:
    """Return whether a process holds ``lock``, found out without taking it; None where the system does not tell."""
    try:
        found = os.stat(lock)
        lines = LOCKS.read_text().splitlines()
    except FileNotFoundError:
        return None if LOCKS.exists() is False else False
    except OSError:
        return None
    return any(line.split()[-3].rpartition(":")[2] == str(found.st_ino) for line in lines if "FLOCK" in line)


def _examine(path: Path, seed: int) -> Diagnosis:
    folder = RunFolder(path)
    if not is_run(path) and path.name == "model" and is_run(path.parent):
        folder = RunFolder(path.parent)
    decided = folder.read_run()
    absent: dict[str, str] = {}
    opened: Opened | None = None
    measured: Measured | None = None
    if folder.model.exists() or folder.open_checkpoints().steps():
        try:
            opened = open_run(folder.path)
            measured = measure(opened.model.model, opened.model.preprocessing, opened.dataset, seed=seed)
        except DamagedError:
            raise
        except UserError as error:  # the data are gone, or are others now
            absent["data"] = str(error)
    else:
        absent["model"] = "there is none before the first checkpoint"
    symptoms = Symptoms(settings_of(decided), course_of(folder, decided, opened), measured)
    findings = tuple(diagnose(symptoms))
    commands = tuple(command_for(folder, decided, finding.options) for finding in findings)
    return Diagnosis(folder.path, symptoms, findings, commands, absent)


def settings_of(decided: Mapping[str, Any]) -> Settings:
    """Return what ``run.json`` says was decided."""
    model, objective, training = decided["model"], decided["objective"], decided["training"]
    term = kl_term(objective)
    dims = 1
    for size in decided["data"]["shape"]:
        dims *= int(size)
    return Settings(
        objective=objective["class"],
        likelihood=model["likelihood"]["class"],
        variance=model["likelihood"].get("variance"),
        posterior=model["posterior"]["class"] if "posterior" in model else model["class"],
        beta=None if term is None else float(term.get("beta", 1.0)),
        free_bits=float((term or {}).get("free_bits", 0.0)),
        dims=dims,
        latent_dim=fresh_model(model, 0).latent_dim,
        batch_size=int(training["batch_size"]),
        train=int(decided["data"]["counts"]["train"]),
        steps=int(training["steps"]),
        learning_rate=float(training["learning_rate"]),
        pca_95=int(decided.get("inspection", {}).get("pca_95", 0)),
        crossing=int(decided.get("inspection", {}).get("crossing", 0)),
        held_out=sum(int(count) for name, count in decided["data"]["counts"].items() if name != "train"),
    )


def course_of(folder: RunFolder, decided: Mapping[str, Any], opened: Opened | None) -> Course:
    """Return how the training went, from its metrics, its checkpoints and its evaluation."""
    state = read_state(folder)
    term = (kl_term(decided["objective"]) or {}).get("schedule")
    schedule: Schedule | None = None if term is None else from_spec(term, "schedule", "schedule")
    best = opened.step if opened is not None else None
    evaluation = state.evaluation or {}
    baselines = {name: _pair(entry) for name, entry in (evaluation.get("baselines") or {}).items()}
    return replace(
        course_of_lines(folder.metrics.read(), schedule, state.step, best),
        state=state_of(folder),
        recoveries=_recoveries(folder),
        evidence=_pair((evaluation.get("values") or {}).get("evidence_bound")),
        baselines={name: pair for name, pair in baselines.items() if pair is not None},
    )


def course_of_lines(
    lines: Sequence[Mapping[str, Any]], schedule: Schedule | None, step: int, best_step: int | None
) -> Course:
    """Return what the lines of the metrics say.

    Args:
        lines: of ``metrics.jsonl``.
        schedule: of the KL term's weight.
        step: the steps done.
        best_step: the step whose weights are kept.
    """
    validation = [line for line in lines if line.get("split") == "validation"]
    peaks: list[float] = []
    for line in validation[1:]:  # the first is of the fresh model
        row = [float(value or 0) for value in line.get("kl_per_dimension") or []]
        peaks = [max(pair) for pair in zip(peaks, row, strict=True)] if peaks else row
    return Course(
        state="stopped",
        step=step,
        best_step=best_step,
        weight=1.0 if schedule is None else schedule(step),
        best_weight=1.0 if schedule is None or best_step is None else schedule(best_step),
        skipped=max([0, *(int(line.get("skipped") or 0) for line in lines)]),
        broken=sum(any(line.get(name, 0) is None for name in NUMBERS) for line in lines),
        elbo=tuple((line["step"], line["elbo"]) for line in validation if line.get("elbo") is not None),
        peak_kl=tuple(peaks),
    )


def command_for(folder: RunFolder, decided: Mapping[str, Any], options: Sequence[str]) -> tuple[str, ...]:
    """Return the words of ``sfumato train`` that repeat the run with ``options``; none where a file decided it."""
    decisions = {decision["name"]: decision for decision in decided.get("decisions", ())}
    source = (decided["data"].get("origin") or {}).get("source")
    if (
        not options
        or not isinstance(source, str)
        or any(d["change_with"] == "--config FILE" and d["source"] == "user" for d in decisions.values())
    ):
        return ()
    flags: dict[str, str | None] = {}
    for name in ("recipe", "latent", "likelihood", "binarise", "beta"):
        flag = "--latent-dim" if name == "latent" else f"--{name}"
        if decisions.get(name, {}).get("source") == "user":
            value = decisions[name]["value"]
            flags[flag] = f"{value:g}" if isinstance(value, float) else str(value)
    classes = decisions.get("classes", {})
    if classes.get("source") == "user":
        flags["--no-conditional" if classes["value"] == "not used" else "--conditional"] = None
    label = (decided["data"].get("origin") or {}).get("label")
    flags |= {"--label": str(label)} if label else {}
    paper = PAPERS.get(flags.get("--recipe") or "")
    beta = (kl_term(decided["objective"]) or {}).get("beta", 1.0)
    flags |= {"--beta": f"{beta:g}"} if beta != 1 and paper is None else {}  # an older run did not write it down
    if options[0] == "--beta" and paper is not None and paper.objective is not elbo:
        flags.pop("--recipe")  # its beta, if any, weighs something else than the KL
    if decisions.get("steps", {}).get("source") == "user":
        flags["--steps"] = str(decided["training"]["steps"])
    careful = any(decision["change_with"] == "--no-careful" for decision in decisions.values())
    flags |= {"--careful": None} if careful else {}
    if decided["training"]["learning_rate"] != (RATE / 2 if careful else RATE):
        flags["--lr"] = f"{decided['training']['learning_rate']:g}"
    if "batch" in decisions:
        flags["--batch"] = str(decided["training"]["batch_size"])
    if decided.get("seed"):
        flags["--seed"] = str(decided["seed"])
    for flag in [
        flag for flag in flags if flag in ("--conditional", "--no-conditional") and "conditional" in options[0]
    ]:
        flags.pop(flag)
    flags[options[0]] = options[1] if len(options) > 1 else None
    words = [word for flag, value in flags.items() for word in (flag, value) if word is not None]
    return ("train", source, *words, "--out", shown(free_name(folder.path)))


def _recoveries(folder: RunFolder) -> int:
    """Return how often training went back, as the last checkpoint knows."""
    checkpoints = folder.open_checkpoints()
    steps = checkpoints.steps()
    if not steps:
        return 0
    try:
        guard = checkpoints.load(steps[-1]).state["training"]["guard"]
    except (SfumatoError, KeyError, TypeError):
        return 0
    return int(guard.get("recoveries", 0))


def _pair(entry: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if not entry or entry.get("value") is None:
        return None
    return float(entry["value"]), float(entry.get("standard_error") or 0.0)
