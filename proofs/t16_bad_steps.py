"""T16: NaN, Inf and huge numbers in input, loss, gradient, weight, moment, average, metric: what each costs."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from process_helpers import together
from training_helpers import BATCH, At, poisoned, resumed, trainer

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core.errors import Diverged
from sfumato.training import Trainer
from sfumato.training.guard import Guard
from sfumato.training.state import TrainingState

AIM, SHORT = 300, 0
VALUES = {"NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}
TIMES = (1, 2, 3, 0)  # 0: for ever
PLACES = ("loss", "gradient", "weight", "moment", "average", "metric", "input", "outlier", "one of two processes")


def run(budget: Budget, seed: int) -> Result:
    """Go through places, values and times in an order that the seed decides, again and again with other steps."""
    dice, result = random.Random(seed), Result()
    cells: list[tuple[str, str, int]] = []
    with workspace() as place:
        while budget.open(result.cases):
            if not cells:
                cells = list(itertools.product(PLACES, VALUES, TIMES))
                dice.shuffle(cells)
            where, value, times = cells.pop()
            with (
                result.case(f"{value} in {where}, {times or 'for ever'}"),
                pytest.MonkeyPatch.context() as patch,
            ):
                _PROOFS[where](result, place / "run", VALUES[value], times, dice.randint(3, 40), patch)
            shutil.rmtree(place / "run", ignore_errors=True)
    return result


def _judge(run: Any, times: int, fired: int, bad: int | None = None) -> None:
    """Fit; one and two bad steps cost themselves, three in a row a return, without end the training."""
    try:
        outcome = run.fit()
    except Diverged as error:
        assert times == 0, f"it gave up: {error}"
        assert error.exit_code == 3
        _clean(run, False)
        return
    assert times, "it did not give up"
    expected = (times if bad is None else bad, int(times >= 3))
    assert (outcome.skipped, outcome.recoveries) == expected, f"{outcome.skipped} skipped, {outcome.recoveries} returns"
    assert outcome.finished
    _clean(run, True)


def _clean(run: Any, whole: bool) -> None:
    """Nothing that is not finite is kept as good."""
    for step in run.checkpoints.steps():
        tensors = run.checkpoints.load(step).tensors
        assert all(bool(torch.isfinite(value).all()) for named in tensors.values() for value in named.values()), (
            f"the checkpoint of step {step} is not finite"
        )
    if whole:
        assert resumed(run.folder.path).state.step == 60


def _steps(first: int, times: int) -> range:
    return range(first, first + times) if times else range(first, 10**6)


def _loss(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    with poisoned(patch, _steps(first, times), value, recoveries=0 if times else None) as hits:
        _judge(trainer(folder), times, len(hits))
    result.fired += bool(hits)


def _gradient(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    run, right = trainer(folder), Trainer._differentiate
    hits: list[int] = []

    def differentiate(self: Any, indices: Any, step: int, share: float) -> Any:
        bad = step in _steps(first, times) and (not times or not self.state.guard.recoveries)
        hook = next(self.model.parameters()).register_hook(lambda gradient: gradient * value) if bad else None
        hits.extend([step] * bad)
        found = right(self, indices, step, share)
        if hook is not None:
            hook.remove()
        return found

    patch.setattr(Trainer, "_differentiate", differentiate)
    _judge(run, times, len(hits))
    result.fired += bool(hits)


def _inside(change: Callable[[Any, float], None]) -> Callable[..., None]:
    """A number of the state itself goes wrong after a step: the training goes back, and ends."""

    def proof(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
        times = min(times or 2, 2)
        fired: list[int] = []
        run = trainer(folder)

        class Breaks(At):  # type: ignore[misc]
            def on_step(self, step: int) -> None:
                if step == first and len(fired) < times:
                    fired.append(step)
                    change(run.state, value)

        run.listener = Breaks(-1, None)
        outcome = run.fit()
        result.fired += bool(fired)
        assert outcome.finished
        assert 1 <= outcome.recoveries <= times, f"{outcome.recoveries} returns"
        _clean(run, True)

    return proof


@torch.no_grad()
def _weight(state: Any, value: float) -> None:
    next(state.model.parameters()).view(-1)[0] = value


@torch.no_grad()
def _average(state: Any, value: float) -> None:
    next(state.averaged.parameters()).view(-1)[0] = value


@torch.no_grad()
def _moment(state: Any, value: float) -> None:
    next(iter(state.optimizer.state.values()))["exp_avg"].view(-1)[0] = value


def _metric(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    right = Trainer._validate
    hits: list[int] = []

    def validate(self: Any) -> dict[str, float]:
        values = dict(right(self))
        if not times or len(hits) < times:
            hits.append(self.state.step)
            values["final_loss"] = value
        return values

    patch.setattr(Trainer, "_validate", validate)
    run = trainer(folder)
    outcome = run.fit()
    result.fired += bool(hits)
    assert outcome.finished
    assert outcome.best_step not in hits, "a metric that is not finite won"
    assert (outcome.best_step is None) == (times == 0), "a metric that is not finite blocks the best"


def _input(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    """Samples that are not finite: every step that has one of them is skipped, and no other."""
    count = times or 2
    run = trainer(folder, kind="optimal")
    rows = torch.arange(count) * 50
    run.train.x[rows] = value
    bad = [step for step in range(60) if bool(torch.isin(run.order(step), rows).any())]
    in_a_row = any(all(step + more in bad for more in range(3)) for step in bad)
    if in_a_row:  # three in a row are T16's other cells
        return
    outcome = run.fit()
    result.fired += bool(bad)
    assert (outcome.skipped, outcome.recoveries) == (len(bad), 0), f"{outcome.skipped} skipped of {len(bad)} bad"


def _outlier(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    """A finite loss of 1e12 times its size, once the window is known: skipped, or believed when it stays."""
    with poisoned(patch, _steps(45, times), 1e12, rows=BATCH) as hits:
        outcome = trainer(folder, clip_norm=20.0).fit()
    result.fired += bool(hits)
    assert (outcome.skipped, outcome.recoveries) == (min(times or 2, 2), 0), f"{outcome.skipped} skipped"


def _two(result: Result, folder: Path, value: float, times: int, first: int, patch: pytest.MonkeyPatch) -> None:
    """The gradient of one process alone: both skip the same steps, and neither waits for the other."""
    times = times or 3

    def work(rank: int) -> list[Any]:
        with pytest.MonkeyPatch.context() as inner:
            own = _steps(first, times) if rank == 1 else range(0)
            with poisoned(inner, own, value, recoveries=0) as hits:
                done = trainer(folder)
                outcome = done.fit()
        return [outcome.skipped, outcome.recoveries, len(hits), done.state.is_finite()]

    one, other = together(2, work)
    result.fired += bool(other[2])
    assert one[:2] == other[:2] == [times, int(times >= 3)], (one, other)
    assert one[3] and other[3]


_PROOFS: dict[str, Callable[..., None]] = {
    "loss": _loss,
    "gradient": _gradient,
    "weight": _inside(_weight),
    "moment": _inside(_moment),
    "average": _inside(_average),
    "metric": _metric,
    "input": _input,
    "outlier": _outlier,
    "one of two processes": _two,
}


def believes(patch: pytest.MonkeyPatch) -> None:
    """Take every step."""
    patch.setattr(Guard, "judge", lambda self, loss, norm: "accept")


def looks_at_nothing(patch: pytest.MonkeyPatch) -> None:
    """Save whatever there is."""
    patch.setattr(TrainingState, "is_finite", lambda self: True)


def nan_wins(patch: pytest.MonkeyPatch) -> None:
    """Let any metric be the best."""
    right = TrainingState.note_evaluation

    def note(self: TrainingState, loss: float, patience: int) -> bool:
        return right(self, loss if math.isfinite(loss) else -1e9, patience)

    patch.setattr(TrainingState, "note_evaluation", note)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {
        "a guard that believes every step": believes,
        "checkpoints of infinite weights": looks_at_nothing,
        "a NaN that wins": nan_wins,
    }
