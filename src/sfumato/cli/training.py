"""``sfumato train``, ``demo`` and ``verify-resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.cli.together import as_one
from sfumato.core.errors import SfumatoError, UserError

if TYPE_CHECKING:
    from sfumato.cli.progress import Progress
    from sfumato.io.run import RunFolder
    from sfumato.verbs.train import TrainedRun

RunOut = Annotated[Path | None, options.written("RUN", "The folder of the run.  [default: runs/NAME]")]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="RUN", help="Go on with an interrupted run, bit for bit.", show_default=False),
]
Begin = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="MODEL", help="Begin with the weights of a run or a model folder.", show_default=False
    ),
]
Log = Annotated[
    str | None, options.chosen("--log", ("tensorboard",), "Write events for TensorBoard beside the metrics.")
]

Careful = Annotated[
    bool | None,
    typer.Option(
        "--careful/--no-careful",
        help="Free bits, longer warm-up, half the rate, more patience: against collapse and steps that go wrong.",
        show_default=False,
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        parser=options.source, metavar="SOURCE", help="A run, whose recipe is taken, or DATA.", show_default=False
    ),
]
Kills = Annotated[int | None, options.option("--kills", options.Many, "How often to kill.  [default: 6]")]
Length = Annotated[int | None, options.option("--steps", options.Many, "The length of the training.  [default: 60]")]


@command(
    "train",
    "sfumato train photos/ --time 5m",
    "sfumato train people.csv --label bought --latent-dim 4",
    "sfumato train fashion-mnist-mini --binarise dynamic --epochs 20 --out runs/binary",
    "sfumato train photos/ --careful",
    "sfumato train new-photos/ --from runs/photos --epochs 5",
    "sfumato train --resume runs/photos",
)
def train(
    data: options.Data = None,
    out: RunOut = None,
    resume: Resume = None,
    time: options.Time = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    latent_dim: options.LatentDim = None,
    levels: options.Levels = None,
    conditional: options.Conditional = None,
    condition: options.Condition = None,
    likelihood: options.Likelihood = None,
    binarise: options.Binarise = None,
    beta: options.Beta = None,
    recipe: options.Recipe = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    engine: options.Engine = None,
    shard: options.Shard = False,
    seed: options.TrainingSeed = None,
    size: options.ImageSize = None,
    label: options.Label = None,
    split: options.Shares = None,
    skip_bad: options.SkipBad = False,
    stream: options.Stream = None,
    careful: Careful = None,
    config: options.Config = None,
    start: Begin = None,
    log: Log = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a model on DATA, evaluate it, write a report."""
    wishes = {
        "time": time,
        "epochs": epochs,
        "steps": steps,
        "latent_dim": latent_dim,
        "levels": levels,
        "conditional": conditional,
        "condition": condition,
        "likelihood": likelihood,
        "binarise": binarise,
        "beta": beta,
        "recipe": recipe,
        "batch": batch,
        "lr": lr,
        "engine": engine,
        "shard": shard or None,
        "seed": seed,
        "size": size,
        "label": label,
        "split": split,
        "skip_bad": skip_bad or None,
        "stream": stream,
        "careful": careful,
        "config": config,
        "start": start,
    }
    given = {name: value for name, value in wishes.items() if value is not None}
    if resume is not None:
        return as_one(lambda first: _resume(resume, data, out, given, log, json and first, quiet or not first))
    if data is None:
        raise UserError("train needs DATA, or --resume RUN.  For instance: sfumato train photos/ --time 5m")
    _one_length(given)
    return as_one(lambda first: _train(data, out, given, log, json and first, quiet or not first))


@command("demo", "sfumato demo", "sfumato demo --out runs/first")
def demo(out: RunOut = None, json: options.Json = False, quiet: options.Quiet = False) -> int:
    """Train on the images that come with sfumato, in a few minutes."""
    from sfumato.verbs.python import DEMO, DEMO_DATA, DEMO_OUT
    from sfumato.verbs.words import seconds_of

    words = DEMO | {"time": seconds_of(DEMO["time"])}
    return _train(DEMO_DATA, out or DEMO_OUT, words, None, json, quiet)


@command("verify-resume", "sfumato verify-resume fashion-mnist-mini", "sfumato verify-resume runs/photos --kills 10")
def verify_resume(
    source: Source,
    kills: Kills = None,
    steps: Length = None,
    label: options.Label = None,
    size: options.ImageSize = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Prove that a training that is killed goes on bit for bit."""
    from sfumato.cli.printing import say, show, show_json

    if not quiet:
        say(_header(source))
    from sfumato.verbs.verify_resume import verify_resume as verb

    reading = {name: value for name, value in (("label", label), ("size", size)) if value is not None}
    more: dict[str, Any] = {name: value for name, value in (("kills", kills), ("steps", steps)) if value is not None}
    result = verb(source, reading=reading, seed=seed, say=None if quiet else say, **more)
    if json:
        show_json(result.to_dict())
    else:
        show(str(result))
    return 0 if result.identical else 1


def _train(data: str, out: Path | None, given: dict[str, Any], log: str | None, json: bool, quiet: bool) -> int:
    from sfumato.cli.printing import console, say

    if not quiet:
        say(_header(data))
    from sfumato.cli.progress import progress
    from sfumato.verbs import python

    error = console(stderr=True)
    shown = progress(error, "img", quiet)
    place: list[Path] = []

    def decided(run: Any, path: Path) -> None:
        place.append(path)
        shown.unit = "img" if run.dataset.is_images else "rows"
        if not quiet:
            from sfumato.cli.talk import print_plan

            print_plan(error, run, path)
        if events is not None:
            events.open(path)

    events = _events(log)
    try:
        trained = python.train(data, out=out, listener=_listening(shown, events), on_decided=decided, **given)
    except KeyboardInterrupt:
        shown.close()
        return _left(place, quiet)
    finally:
        shown.close()
        if events is not None:
            events.close()
    return _finish(trained, json, quiet)


def _resume(
    run: str, data: str | None, out: Path | None, given: dict[str, Any], log: str | None, json: bool, quiet: bool
) -> int:
    if data is not None or out is not None:
        what = "DATA" if data is not None else "--out"
        raise UserError(f"--resume goes on with the data and the folder of the run; got {what} as well. Leave it out.")
    if given:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UserError(
            f"a resumed run keeps everything that was decided; got {flag}. Leave it out, or train a new run."
        )
    from sfumato.cli.printing import console, say, show_json

    if not quiet:
        say(_header(run))
    from sfumato.cli.progress import progress
    from sfumato.io.run import RunFolder
    from sfumato.verbs.opening import is_run
    from sfumato.verbs.state import read_state
    from sfumato.verbs.train import resume

    if not Path(run).exists():
        raise UserError(f"'{run}' does not exist. Give the folder of a run, for instance runs/photos.")
    if not is_run(run):
        raise UserError(f"{run} is not the folder of a run: it has no run.json. Give another, or train with DATA.")
    folder = RunFolder(run)
    state = read_state(folder)
    if state.finished:
        if json:
            show_json(_result(folder, "finished", state.step, state.evaluation))
        if not quiet:
            say(f"finished at step {state.step:,}; nothing left to do")
        return 0
    shown = progress(console(stderr=True), "img", quiet)
    events = _events(log)
    if events is not None:
        events.open(folder.path)
    try:
        trained = resume(run, listener=_listening(shown, events))
    except KeyboardInterrupt:
        shown.close()
        return _left([folder.path], quiet)
    finally:
        shown.close()
        if events is not None:
            events.close()
    return _finish(trained, json, quiet)


def _header(what: str) -> str:
    from sfumato import __version__

    return f"sfumato {__version__} · {what}"


def _one_length(given: dict[str, Any]) -> None:
    lengths = [name for name in ("time", "epochs", "steps") if name in given]
    if len(lengths) > 1:
        raise UserError(f"--{lengths[0]} and --{lengths[1]} both say how long to train. Give one of them.")


def _events(log: str | None) -> Any:
    """Return the writer of TensorBoard's events, where it was asked for."""
    if log is None:
        return None
    from sfumato.verbs.tensorboard import TensorBoard

    return TensorBoard()


def _listening(shown: Progress, events: Any) -> Any:
    from sfumato.verbs.listeners import Both

    return shown if events is None else Both(shown, events)


def _left(place: list[Path], quiet: bool) -> int:
    """Say what is there after a second Ctrl-C, or one before or after the steps."""
    from sfumato.cli.printing import next_block, say

    if not quiet:
        say("interrupted; nothing was written" if not place else "interrupted; the last checkpoint is kept")
        if place:
            say(next_block(["train", "--resume", str(place[0])]))
    return 130


def _finish(trained: TrainedRun, json: bool, quiet: bool) -> int:
    """Print how it ended, and return the exit code."""
    from sfumato.cli.printing import next_block, say, show_json
    from sfumato.cli.talk import print_verdict
    from sfumato.io.run import RunFolder
    from sfumato.io.store import shown

    outcome, folder = trained.outcome, RunFolder(trained.path)
    state = "finished" if outcome.finished else "interrupted"
    if json:
        show_json(_result(folder, state, outcome.step, trained.evaluation))
    if outcome.save_failed:
        raise SfumatoError(f"the last checkpoint could not be written: {outcome.save_failed}")
    if not outcome.finished:
        if not quiet:
            say(f"saved at step {outcome.step:,} of {RunFolder(trained.path).read_run()['training']['steps']:,}")
            say(next_block(["train", "--resume", shown(trained.path)]))
        return 128 + (outcome.signal or 2)
    if not quiet:
        print_verdict(trained)
    return 0


def _result(folder: RunFolder, state: str, step: int, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "run": str(folder.path),
        "state": state,
        "step": step,
        "model": str(folder.model) if folder.model.is_dir() else None,
        "report": str(folder.report),
        "evaluation": evaluation,
    }
