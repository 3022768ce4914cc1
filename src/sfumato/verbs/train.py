"""``sfumato train``: from data to a run folder with a model, its evaluation and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.core.processes import ALONE, Processes
from sfumato.core.spec import from_spec, to_spec
from sfumato.data import Dataset, Decision, Preprocessing, inspect_dataset, load_dataset
from sfumato.evaluation import Evaluation, evaluate, fit_prior
from sfumato.evaluation.fitting import STEPS
from sfumato.evaluation.passes import Tell
from sfumato.io.folder import save_model
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest
from sfumato.likelihoods import Mixed
from sfumato.models import Model, PackagedModel
from sfumato.recipes import Options, Run, fresh_model, fresh_objective, plan
from sfumato.recipes.plan import asked_likelihood
from sfumato.recipes.starting import start_parts
from sfumato.training import Listener, Outcome, Trainer, TrainingConfig
from sfumato.training.runtime import open_processes
from sfumato.verbs.listeners import Both, Reporter, Telling
from sfumato.verbs.shown import Shown
from sfumato.verbs.start import Start, same_start
from sfumato.verbs.state import goes_on
from sfumato.verbs.verdict import verdict

EVALUATION_SAMPLES = 100
FORMAT_VERSION = 1
DECIDED_BY: dict[str, tuple[str, ...]] = {
    "model": ("likelihood", "levels", "variance", "recipe", "latent", "ladder", "classes", "prior"),
    "objective": ("free bits", "warm-up", "beta"),
    "training": ("steps", "batch", "rate", "patience"),
    "preprocessing": ("binarise", "preprocessing"),
}


@dataclass(frozen=True, repr=False)
class TrainedRun(Shown):
    """What a training left behind.

    Args:
        path: the run folder.
        model: the best weights, with preprocessing and class names.
        outcome: how the training ended.
        evaluation: on the test split, or None where training was interrupted.
        verdict: how good, what limits, whether longer helps: one sentence each.
        dataset: what it was trained on.

    ``metrics`` is its log as a frame, ``plot`` its pictures, ``explore()`` the explorer.
    """

    path: Path
    model: PackagedModel
    outcome: Outcome
    evaluation: dict[str, Any] | None
    verdict: tuple[str, ...]
    dataset: Dataset | None = None


Talk = Generator[Trainer, Outcome, TrainedRun]  # asks for the training of what it yields


def train(source: Any, **words: Any) -> TrainedRun:
    """Return the run that :func:`training`, which has the arguments, trains by itself."""
    return _alone(training(source, **words))


def resume(path: str | Path, *, source: Any = None, listener: Listener | None = None) -> TrainedRun:
    """Return the run that :func:`resuming`, which has the arguments, trains by itself."""
    return _alone(resuming(path, source=source, listener=listener))


def training(
    source: Any,
    *,
    out: str | Path | None = None,
    options: Options = Options(),  # noqa: B008 - immutable
    reading: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    start: Start | None = None,
    listener: Listener | None = None,
    on_decided: Callable[[Run, Path], None] | None = None,
) -> Talk:
    """Inspect, decide, train, evaluate, report.

    Started in several processes, by torchrun or accelerate launch, they train and evaluate one model; the first one
    writes and reports. Where the launcher starts them again (``--max-restarts``), they go on.

    Args:
        source: what :func:`~sfumato.data.load_dataset` takes, or a data set.
        out: the run folder, by default ``runs/<name of the data>``; refused if it exists.
        options: what was asked for.
        reading: more arguments for ``load_dataset``: size, label, split, skip_bad.
        config: the tree of a run (model, objective, training, preprocessing), in place of deciding; any part of it.
        start: a model whose weights, and the rest of it, the training begins with.
        listener: told what happens.
        on_decided: called with the plan and the folder before the first step.

    Returns:
        the run. An interrupted one has a checkpoint and no evaluation.

    Raises:
        UserError: data or options that cannot be used; then nothing was written. Diverged: see :class:`Trainer`.
    """
    processes = open_processes()
    if options.shard and not processes.several:
        raise UserError(
            "--shard spreads a model over several processes, and this is one. Leave it out, or start several: torchrun "
            "--nproc-per-node 2 --no-python sfumato train ..."
        )
    if out is not None:
        processes.ask(lambda: goes_on(RunFolder(out)))
    dataset = source if isinstance(source, Dataset) else read(source, options, reading or {})
    folder = RunFolder(out if out is not None else Path("runs") / dataset.name)
    if processes.ask(lambda: goes_on(folder)):
        return (yield from resuming(folder.path, source=dataset, listener=listener))
    run = configured(plan(dataset, options), {**(config or {}), **(start.trees if start else {})})
    if start:
        start.fill(run.model)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            folder.create()
            held.enter_context(folder.lock())
            folder.write_run(description(run, folder.path.name) | ({"start": start.origin} if start else {}))

        processes.ask(claim)
        if on_decided and processes.first:
            on_decided(run, folder.path)
        return (yield from _train(run, folder, listener or Listener(), resumed=False))


def read(source: Any, options: Options, reading: Mapping[str, Any]) -> Dataset:
    """Return the data of ``source``; for ``--likelihood mixed`` a table is read column by column."""
    return load_dataset(source, seed=options.seed, mixed=asked_likelihood(options) == "mixed", **reading)


def resuming(path: str | Path, *, source: Any = None, listener: Listener | None = None, at_once: int = 1) -> Talk:
    """Go on with a run that was interrupted, bit for bit.

    Args:
        path: the run folder.
        source: the data, if they came from an array; otherwise they are read again from where they were.
        listener: told what happens.
        at_once: how many runs are resumed together.

    Raises:
        UserError: the run is finished; its data or files are not what they were.
    """
    folder, processes = RunFolder(path), open_processes()
    decided = processes.ask(folder.read_run)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            held.enter_context(folder.lock())

        processes.ask(claim)
        listener = listener if listener and processes.first else Listener()
        run = reopen(decided, source)
        changes = changed_surroundings(decided)
        for sentence in changes:
            listener.say(sentence)
        return (yield from _train(run, folder, listener, resumed=True, exact=not changes, at_once=at_once))


def reopen(decided: Mapping[str, Any], source: Any = None) -> Run:
    """Return the run that ``run.json`` describes, with fresh weights; refuse data that are not the same."""
    dataset = same_data(decided, source)
    model = fresh_model(decided["model"], decided["training"]["seed"])
    training: TrainingConfig = from_spec(decided["training"], "training", "training")
    objective = fresh_objective(decided["objective"], training.seed)
    preprocessing = fitted(decided["preprocessing"], dataset)
    start_parts(model, preprocessing, dataset, training.seed)
    if "start" in decided:
        same_start(decided["start"]).fill(model)
    facts, afterwards = inspect_dataset(dataset), decided.get("afterwards", "")
    return Run(model, objective, preprocessing, training, dataset, facts, (), afterwards)


def same_data(decided: Mapping[str, Any], source: Any = None) -> Dataset:
    """Return the data of the run that ``run.json`` describes, from ``source`` or where they were; refuse others."""
    origin = dict(decided["data"]["origin"])
    if source is not None:
        origin["source"] = source
    dataset = source if isinstance(source, Dataset) else load_dataset(**origin)
    if dataset.fingerprint != decided["data"]["fingerprint"]:
        raise UserError(
            f"the data at {origin['source']} are not those this run was trained on (another fingerprint). "
            "Put the original data back, or train a new run."
        )
    return dataset


def fitted(tree: Mapping[str, Any], dataset: Dataset) -> Preprocessing:
    """Return the preprocessing that ``tree`` describes, fitted to the training split where it has something to fit."""
    preprocessing: Preprocessing = from_spec(tree, "preprocessing", "preprocessing")
    fit = getattr(preprocessing, "fit", None)
    if fit:
        fit(dataset.array("train"))
    return preprocessing


def configured(run: Run, config: Mapping[str, Any]) -> Run:
    """Return ``run`` with the parts that a configuration file names put in the place of the decided ones."""
    parts = tuple(DECIDED_BY)
    known = {
        *parts,
        "afterwards",
        "fitted_prior",
        "format_version",
        "name",
        "data",
        "inspection",
        "decisions",
        "versions",
        "seed",
    }
    for key in config:
        if key not in known:
            raise UserError(f"the configuration has no part '{key}'. Choose from: {', '.join(parts)}.")
    trees: dict[str, Any] = {part: config[part] for part in parts if part in config}
    if not trees:
        return run
    training = from_spec(trees["training"], "training", "training") if "training" in trees else run.config
    model: Model = fresh_model(trees.get("model", to_spec(run.model)), training.seed)
    objective = fresh_objective(trees["objective"], training.seed) if "objective" in trees else run.objective
    preprocessing = fitted(trees["preprocessing"], run.dataset) if "preprocessing" in trees else run.preprocessing
    if model.likelihood.shape != run.dataset.shape:
        raise UserError(
            f"the configured model is for examples of shape {model.likelihood.shape}; the data have "
            f"{run.dataset.shape}. Change the shapes in the configuration."
        )
    start_parts(model, preprocessing, run.dataset, training.seed)
    replaced = {name for part in trees for name in DECIDED_BY[part]}
    decisions = [decision for decision in run.decisions if decision.name not in replaced]
    decisions += [
        Decision(part, tree.get("class"), "the configuration says so", "--config FILE", "user")
        for part, tree in trees.items()
    ]
    afterwards = config.get("afterwards", "") if "model" in trees else run.afterwards
    return Run(model, objective, preprocessing, training, run.dataset, run.inspection, tuple(decisions), afterwards)


def description(run: Run, name: str) -> dict[str, Any]:
    """Return what goes into ``run.json``: everything that was decided."""
    dataset = run.dataset
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "data": {
            "name": dataset.name,
            "origin": dict(dataset.origin or {}),
            "fingerprint": dataset.fingerprint,
            "shape": list(dataset.shape),
            "class_names": list(dataset.class_names),
            "columns": list(dataset.columns),
            "counts": {split: len(rows) for split, rows in dataset.splits.items()},
            "left_out": [list(pair) for pair in dataset.left_out[:1000]],
        },
        "inspection": run.inspection.to_dict(),
        "decisions": [decision.to_dict() for decision in run.decisions],
        "model": to_spec(run.model),
        "objective": to_spec(run.objective),
        "training": to_spec(run.config),
        "preprocessing": to_spec(run.preprocessing),
        **({"afterwards": run.afterwards} if run.afterwards else {}),
        "versions": versions(),
        "seed": run.config.seed,
    }


def versions() -> dict[str, Any]:
    """Return the versions that results may hang on."""
    import torch

    return {
        "sfumato": metadata.version("sfumato"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def changed_surroundings(decided: Mapping[str, Any]) -> Sequence[str]:
    """Return a sentence for each thing that makes a bit-exact continuation impossible to promise."""
    before, now = decided.get("versions", {}), versions()
    return [
        f"bit-exact not promised: {name} was {before[name]} and is {now[name]}"
        for name in ("torch", "threads")
        if name in before and before[name] != now[name]
    ]


def _alone(talk: Talk) -> TrainedRun:
    trainer = next(talk)
    try:
        talk.send(trainer.fit())
    except StopIteration as end:
        done: TrainedRun = end.value
        return done
    finally:
        talk.close()
    raise AssertionError("a run asks for one training")


def _train(
    run: Run, folder: RunFolder, listener: Listener, *, resumed: bool, exact: bool = True, at_once: int = 1
) -> Talk:
    """Train what is left, and finish; ``exact``: whether a resumed run may say that it goes on bit for bit."""
    names = run.dataset.class_names
    prepared = run.preprocessing.prepare(run.dataset)
    processes = open_processes()
    reporter = Reporter(folder, run.preprocessing, prepared, run.config.steps, listener.say)
    items = None
    if run.dataset.items:
        items = [run.dataset.items[row] for row in run.dataset.rows("train")]
    trainer = Trainer(
        run.model,
        run.objective,
        prepared.split("train"),
        prepared.split("validation"),
        run.preprocessing,
        run.config,
        folder,
        Both(reporter, listener),
        items,
    )
    if resumed:
        trainer.at_once = at_once
        step = trainer.resume()
        same = " (bit for bit the same run)" if exact and trainer.exact else ""
        listener.say(f"resumed at step {step:,} of {run.config.steps:,}{same}")
    outcome = yield trainer
    packaged = PackagedModel(run.model, run.preprocessing, names)
    if not outcome.finished:
        if processes.first:
            reporter.write(packaged, "stopped", outcome.step)
        processes.wait()  # whoever started them may end all when one has left
        return TrainedRun(folder.path, packaged, outcome, None, (), run.dataset)
    if run.afterwards:
        how = {"steps": min(STEPS, run.config.steps), "seed": run.config.seed}
        packaged = fit_prior(packaged, run.dataset, run.afterwards, tell=listener.on_measuring, **how)
    return finish(folder, packaged, run.dataset, outcome, reporter, listener, processes)


def measure(
    packaged: PackagedModel,
    dataset: Dataset,
    *,
    samples: int = EVALUATION_SAMPLES,
    split: str = "test",
    seed: int = 0,
    tell: Tell | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Return everything that an evaluation measures, with the judge where there are classes, and the baselines."""
    judge = bool(packaged.model.num_classes) and dataset.num_classes > 1
    judge = judge and not isinstance(packaged.model.likelihood, Mixed)  # it cannot look at missing cells
    return evaluate(
        packaged.model,
        packaged.preprocessing,
        dataset,
        split=split,
        samples=samples,
        seed=seed,
        judge=judge,
        baselines=True,
        tell=tell,
        processes=processes,
    )


def certified(packaged: PackagedModel, evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain json, with the hash of the weights that it is about."""
    return {**evaluation.to_dict(), "model": {"sha256": digest(packaged.state_dict())}}


def finish_untrained(
    folder: RunFolder,
    decided: Mapping[str, Any],
    packaged: PackagedModel,
    dataset: Dataset,
    tell: Tell | None = None,
    step: int | None = None,
) -> TrainedRun:
    """Make the run of a model that was trained elsewhere: evaluate, verdict, report.

    Args:
        folder: where to; nothing may be there.
        decided: the content of ``run.json``.
        packaged: the model.
        dataset: what it is evaluated on.
        tell: called as tell(part, done, of) as the evaluation goes on.
        step: of the weights, where that is known.
    """
    folder.create()
    with folder.lock():
        folder.write_run(decided)
        prepared = packaged.preprocessing.prepare(dataset)
        reporter = Reporter(folder, packaged.preprocessing, prepared, 0, lambda sentence: None)
        outcome = Outcome(0, step, None, 0, 0, 0.0, True, False, None, "")
        return finish(folder, packaged, dataset, outcome, reporter, Telling(tell))


def finish(
    folder: RunFolder,
    packaged: PackagedModel,
    dataset: Dataset,
    outcome: Outcome,
    reporter: Reporter,
    listener: Listener,
    processes: Processes = ALONE,
) -> TrainedRun:
    """Save the model, evaluate it on the test split, write the verdict and the report; all processes measure."""
    card = {"step": outcome.best_step, "data": dataset.name, "columns": list(dataset.columns)}
    processes.ask(lambda: save_model(folder.model, packaged, card=card, replace=True))
    packaged.eval()
    result = certified(packaged, measure(packaged, dataset, tell=listener.on_measuring, processes=processes))

    def write() -> list[str]:
        sentences = verdict(result, folder.metrics.read(), outcome)
        result["verdict"] = list(sentences)
        folder.write_evaluation(result)
        reporter.write(packaged, "finished", outcome.step, result, sentences)
        return list(sentences)

    sentences = processes.ask(write)
    return TrainedRun(folder.path, packaged, outcome, result, tuple(sentences), dataset)
