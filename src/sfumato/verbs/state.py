"""How far a run is, read from its folder, and what to say when one is in the way."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core.errors import SfumatoError, UserError
from sfumato.io.run import RunFolder
from sfumato.io.store import shown


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Args:
        finished: whether it was trained to its end and evaluated.
        step: the steps done.
        steps: the steps planned.
        when: the time of the last change, seconds since 1970.
        evaluation: the numbers on the test split, once finished.
    """

    finished: bool
    step: int
    steps: int
    when: float
    evaluation: dict[str, Any] | None

    @property
    def ago(self) -> str:
        """How long ago the last change was, in words."""
        seconds = max(0.0, time.time() - self.when)
        for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
            if seconds >= size:
                return f"{seconds / size:.0f} {unit} ago"
        return "just now"


def read_state(folder: RunFolder) -> RunState:
    """Return how far the run is.

    Raises:
        UserError: there is no run in this folder. DamagedError: a file of it is missing or cut.
    """
    decided = folder.read_run()
    lines = folder.metrics.read()
    evaluation = folder.read_evaluation()
    step = max([0, *folder.open_checkpoints().steps(), *(int(line.get("step", 0)) for line in lines)])
    files = [path for path in (folder.run, folder.metrics.path, folder.evaluation) if path.exists()]
    return RunState(
        finished=evaluation is not None and folder.model.is_dir(),
        step=step,
        steps=int(decided["training"]["steps"]),
        when=max(path.stat().st_mtime for path in files),
        evaluation=evaluation,
    )


def kl_term(objective: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the specification of the ELBO whose KL term an objective has: its own, or that of a term of a sum.

    None where there is none, or where something else takes its place: an ELBO at beta 0 beside other terms, or one
    without its reconstruction.

    >>> kl_term({"class": "Sum", "terms": [{"class": "MMD"}, {"class": "ELBO", "beta": 2.0}], "weights": [1, 1]})
    {'class': 'ELBO', 'beta': 2.0}
    """
    if objective["class"] == "ELBO":
        return objective
    terms = objective["terms"] if objective["class"] == "Sum" else ()
    bounds = (term for term in terms if term["class"] == "ELBO" and term.get("reconstruction", 1.0))
    return next((term for term in bounds if term.get("beta", 1.0)), None)


def goes_on(folder: RunFolder) -> bool:
    """Whether a training goes on with a run that is there: one that this launch began, whose processes are back.

    Raises:
        UserError: another run is there; see :func:`refuse_existing`.
    """
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and folder.run.exists():
        import psutil

        if folder.run.stat().st_mtime >= psutil.Process(os.getppid()).create_time():
            return True
    refuse_existing(folder)
    return False


def refuse_existing(folder: RunFolder) -> None:
    """Raise UserError when something is there already, and say what to do with it; an empty folder is taken."""
    path = folder.path
    if not os.path.lexists(path) or (path.is_dir() and not os.listdir(path)):
        return
    name, other = shown(path), shown(free_name(path))
    try:
        state = read_state(folder)
    except (SfumatoError, KeyError, TypeError, ValueError):
        raise UserError(f"{name} exists and is not a whole run. Choose another folder: --out {other}.") from None
    if not state.finished:
        raise UserError(
            f"{name} exists (unfinished, step {state.step:,} of {state.steps:,}, {state.ago}). "
            f"Go on with --resume {name}, or choose --out {other}."
        )
    raise UserError(f"{name} exists (finished {state.ago}{_headline(state)}). Choose another folder: --out {other}.")


def free_name(path: Path) -> Path:
    """Return the first of path-2, path-3, ... that does not exist."""
    number = 2
    while os.path.lexists(path.with_name(f"{path.name}-{number}")):
        number += 1
    return path.with_name(f"{path.name}-{number}")


def _headline(state: RunState) -> str:
    values = (state.evaluation or {}).get("values") or {}
    for name, words in (("bits_per_dim", ""), ("evidence_bound", "log p(x) at least "), ("elbo", "ELBO ")):
        found = values.get(name) or {}
        if isinstance(found.get("value"), int | float):
            return f", {words}{found['value']:.2f} {found.get('unit', '')}"
    return ""
