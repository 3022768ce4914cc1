"""``sfumato evaluate`` and ``sfumato report``: measure a run again, and draw it again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Count, Size, checked
from sfumato.data.content import SPLITS
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.evidence import SAMPLES
from sfumato.evaluation.features import onnx_features
from sfumato.evaluation.thorough import measure_thoroughly
from sfumato.io.run import RunFolder
from sfumato.training.runtime import open_processes
from sfumato.verbs.listeners import Reporter
from sfumato.verbs.opening import Opened, open_run
from sfumato.verbs.state import RunState, read_state
from sfumato.verbs.train import EVALUATION_SAMPLES, certified, measure

ANNEALED = 20


def evaluate(
    path: str | Path,
    *,
    samples: int | None = None,
    split: str = "test",
    seed: int = 0,
    evidence: bool = False,
    temperatures: int | None = None,
    chains: int | None = None,
    ais: int | None = None,
    features: str | Path | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a run on one split; on the test split of a finished one, ``evaluation.json`` and the report are renewed.

    Started in several processes, by torchrun or accelerate launch, they share the work; the first one writes.

    Args:
        path: the folder of the run.
        samples: K of the bound on log p(x), used exactly; by default 100. With ``evidence`` it is that of the evidence,
            by default 5,000, and the usual numbers keep their 100.
        split: train, validation or test.
        seed: of all noise.
        evidence: measure log p(x) with more care, where the ELBO goes, and how good generated data are; see
            :func:`~sfumato.evaluation.thorough.measure_thoroughly`.
        temperatures: of the annealing; by default 1,000.
        chains: of the annealing, for each example; by default 16.
        ais: how many examples are annealed, of the split and as many made by the model; by default 20, 0 for none.
        features: an ONNX file, the feature extractor of the fidelity; by default the judge, which is trained on the
            training split.
        tell: called as tell(part, done, of) as the work goes on.

    Returns:
        the numbers with standard errors, as plain json. Evidence that was measured before stays in ``evaluation.json``
        as long as weights and data are the same.
    """
    given = {"temperatures": temperatures, "chains": chains, "ais": ais}
    if features is not None and not evidence:
        raise UserError("--features is about the fidelity, which nobody asked for. Add --evidence.")
    extractor = None if features is None else onnx_features(features)
    annealing = _annealing(evidence, given)
    samples = None if samples is None else checked(samples, Size, "--samples")
    seed, count = checked(seed, Count, "--seed"), checked(ANNEALED if ais is None else ais, Count, "--ais")
    if split not in SPLITS:
        raise UserError(f"--split should be train, validation or test; got '{split}'. {did_you_mean(split, SPLITS)}")
    processes = open_processes()
    opened = open_run(path)
    folder = _folder(opened)
    finished = processes.ask(lambda: read_state(folder).finished)

    def measured() -> dict[str, Any]:
        plain = EVALUATION_SAMPLES if samples is None or evidence else samples
        usual = measure(
            opened.model, opened.dataset, samples=plain, split=split, seed=seed, tell=tell, processes=processes
        )
        result = certified(opened.model, usual)
        if evidence:
            result["evidence"] = measure_thoroughly(
                opened.model.model,
                opened.model.preprocessing,
                opened.dataset,
                usual,
                samples=SAMPLES if samples is None else samples,
                annealing=annealing,
                annealed=count,
                extractor=extractor,
                tell=tell,
                processes=processes,
            )
        return result

    if not finished:
        return measured()
    with contextlib.ExitStack() as held:

        def claim() -> None:
            held.enter_context(folder.lock())

        def write() -> None:
            before = read_state(folder).evaluation or {}
            result["verdict"] = before.get("verdict", [])
            if not evidence and _same(before, result):
                result["evidence"] = before["evidence"]
            folder.write_evaluation(result)
            _draw(opened, folder, read_state(folder))

        processes.ask(claim)
        result = measured()
        if split == "test":
            processes.ask(write)
    return result


def report(path: str | Path) -> Path:
    """Write ``report.html`` of a run again, from what lies in its folder, and return its path."""
    opened = open_run(path)
    folder = _folder(opened)
    with folder.lock():
        _draw(opened, folder, read_state(folder))
    return folder.report


def _annealing(evidence: bool, given: Mapping[str, int | None]) -> Annealing:
    """Return how to anneal; refuse options that would do nothing."""
    asked = {name: value for name, value in given.items() if value is not None}
    if asked and not evidence:
        raise UserError(f"--{next(iter(asked))} is about annealing, which nobody asked for. Add --evidence.")
    fields = {name: checked(value, Size, f"--{name}") for name, value in asked.items() if name != "ais"}
    return Annealing(**fields)


def _same(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an earlier evaluation holds evidence about the same weights and data."""
    return bool(before.get("evidence")) and all(before.get(key) == now[key] for key in ("model", "data", "split"))


def _folder(opened: Opened) -> RunFolder:
    assert opened.folder is not None
    return opened.folder


def _draw(opened: Opened, folder: RunFolder, state: RunState) -> None:
    reporter = Reporter(folder, opened.model.preprocessing, opened.prepared, state.steps, lambda sentence: None)
    sentences = (state.evaluation or {}).get("verdict") or ()
    word = "finished" if state.finished else "stopped"
    reporter.write(opened.model, word, state.step, state.evaluation, tuple(map(str, sentences)))
