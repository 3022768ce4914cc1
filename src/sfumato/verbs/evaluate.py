"""``sfumato evaluate`` and ``sfumato report``: measure a run again, and draw it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Count, Size, checked
from sfumato.data.content import SPLITS
from sfumato.io.run import RunFolder
from sfumato.verbs.listeners import Reporter
from sfumato.verbs.opening import Opened, open_run
from sfumato.verbs.state import RunState, read_state
from sfumato.verbs.train import EVALUATION_SAMPLES, measure


def evaluate(
    path: str | Path,
    *,
    samples: int = EVALUATION_SAMPLES,
    split: str = "test",
    seed: int = 0,
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run on one split; on the test split of a finished one, ``evaluation.json`` and the report are renewed.

    Args:
        path: the folder of the run.
        samples: K of the bound on log p(x), used exactly.
        split: train, validation or test.
        seed: of all noise.
        tell: called as tell(part, done, of) as the work goes on.

    Returns:
        the numbers with standard errors, as plain json.
    """
    samples, seed = checked(samples, Size, "--samples"), checked(seed, Count, "--seed")
    if split not in SPLITS:
        raise UserError(f"--split should be train, validation or test; got '{split}'. {did_you_mean(split, SPLITS)}")
    opened = open_run(path)
    folder = _folder(opened)
    state = read_state(folder)
    if state.finished:
        with folder.lock():
            result = measure(opened.model, opened.dataset, samples=samples, split=split, seed=seed, tell=tell)
            if split == "test":
                result["verdict"] = (state.evaluation or {}).get("verdict", [])
                folder.write_evaluation(result)
                _draw(opened, folder, read_state(folder))
        return result
    return measure(opened.model, opened.dataset, samples=samples, split=split, seed=seed, tell=tell)


def report(path: str | Path) -> Path:
    """Write ``report.html`` of a run again, from what lies in its folder, and return its path."""
    opened = open_run(path)
    folder = _folder(opened)
    with folder.lock():
        _draw(opened, folder, read_state(folder))
    return folder.report


def _folder(opened: Opened) -> RunFolder:
    assert opened.folder is not None
    return opened.folder


def _draw(opened: Opened, folder: RunFolder, state: RunState) -> None:
    reporter = Reporter(folder, opened.model.preprocessing, opened.prepared, state.steps, lambda sentence: None)
    sentences = (state.evaluation or {}).get("verdict") or ()
    word = "finished" if state.finished else "stopped"
    reporter.write(opened.model, word, state.step, state.evaluation, tuple(map(str, sentences)))
