"""``sfumato verify-resume``: proves on the user's own recipe that a training which is killed goes on bit for bit.

A short training runs to its end without interruption. The same one is killed (SIGKILL) again and again, every second
time while a checkpoint is being written, and resumed after each. Then everything that a checkpoint holds is compared by
its SHA-256, and the metrics byte for byte. Only the time used may differ. Run as a module, this is one such training.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError
from sfumato.core.spec import Range, checked, from_spec, to_spec
from sfumato.data import Dataset, InMemory, load_dataset
from sfumato.io import store
from sfumato.io.run import RunFolder
from sfumato.io.tensors import pack, unpack
from sfumato.recipes import Options, Run, fresh_model, fresh_objective, plan
from sfumato.training import Listener, Trainer
from sfumato.training.state import best_weights

PARTS = ("model", "ema", "optimizer", "sums", "guard", "counters", "best", "metrics.jsonl")
EPOCHS = 2.5
VALIDATION = 500
TASK = "task"
LOOK = 2e-3
LOOK_FOR_SAVE = 2e-4  # a save of a small model in memory takes 2e-3 seconds


class Process(Protocol):
    """What is needed of a training in another process."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def wait(self) -> int:
        """Wait for its end and return its exit code."""


@dataclass(frozen=True)
class VerifyResult:
    """What became of a training that was killed.

    Args:
        steps: its length.
        kills: how often it was killed.
        kills_in_save: how many of them hit while a checkpoint was being written: a part of one was left behind.
        resumed_at: the step that each resume started from; 0 is the beginning.
        different: the parts that are not the same as without interruption.
        digests: part -> SHA-256, without interruption.
    """

    steps: int
    kills: int
    kills_in_save: int
    resumed_at: tuple[int, ...]
    different: tuple[str, ...]
    digests: Mapping[str, str]

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return not self.different

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as plain json."""
        return {
            "identical": self.identical,
            "steps": self.steps,
            "kills": self.kills,
            "kills_in_save": self.kills_in_save,
            "resumed_at": list(self.resumed_at),
            "different": list(self.different),
            "digests": dict(self.digests),
        }

    def __str__(self) -> str:
        killed = f"{self.steps:,} steps, killed {self.kills} times, {self.kills_in_save} of them inside a save"
        if self.identical:
            return f"identical: {killed}; {', '.join(PARTS)} have the same SHA-256 (the time used is left out)."
        return f"DIFFERENT: {killed}; not the same as without interruption: {', '.join(self.different)}."


def verify_resume(
    source: Any,
    *,
    options: Options = Options(),  # noqa: B008 - immutable
    reading: Mapping[str, Any] | None = None,
    kills: int = 6,
    steps: int = 60,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> VerifyResult:
    """Train a short run, kill the same one several times, and compare.

    Args:
        source: a run folder, whose own recipe is taken, or what :func:`~sfumato.data.load_dataset` takes.
        options: what is asked for, where ``source`` is data.
        reading: more arguments for ``load_dataset``: size, label, split, skip_bad.
        kills: how often to kill; every second time inside the writing of a checkpoint, if it can be hit.
        steps: the length of the training; the checkpoints are every 20th of it.
        seed: of the moments of the kills.
        say: told what happens.

    Returns:
        the result; nothing is left on the disk.

    Raises:
        UserError: a source that cannot be used. SfumatoError: the training itself failed.
    """
    kills = checked(kills, Annotated[int, Range(1, 1000)], "--kills")
    steps = checked(steps, Annotated[int, Range(10, 10**6)], "--steps")
    return prove(_run(source, replace(options, steps=steps), reading or {}), kills, steps, seed, say)


def prove(
    run: Run,
    kills: int,
    steps: int,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    launch: Callable[[Path, str], Process] | None = None,
) -> VerifyResult:
    """Do the work of :func:`verify_resume` on ``run``.

    Args:
        run: the recipe; of its data as many as make two and a half epochs.
        kills: how often to kill.
        steps: the length of the training.
        seed: of the moments of the kills.
        say: told what happens.
        launch: starts :func:`train_task` with its arguments in another process.
    """
    say, dice = say or (lambda sentence: None), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="sfumato-verify-") as path:
        root = Path(path)
        write_task(root, run, steps)
        start = launch or _Python
        say(f"training {steps:,} steps without interruption")
        _finish(start(root, "whole"))
        between = _seconds(RunFolder(root / "whole")) / 20
        say(f"training the same {steps:,} steps, killing them {kills} times")
        resumed_at, inside = _killed(root, start, kills, steps, between, dice, say)
        whole, broken = (digests(RunFolder(root / name)) for name in ("whole", "killed"))
    different = tuple(part for part in PARTS if whole[part] != broken[part])
    return VerifyResult(steps, len(resumed_at), inside, tuple(resumed_at), different, whole)


def digests(folder: RunFolder) -> dict[str, str]:
    """Return the SHA-256 of each part of what a finished training left in ``folder``; the time used is left out."""
    checkpoints = folder.open_checkpoints()
    latest = checkpoints.latest()
    if latest is None:
        raise SfumatoError(f"{store.shown(folder.path)} has no checkpoint that verifies.")
    training = dict(latest.state["training"])
    training.pop("seconds")
    guard, settings = training.pop("guard"), training.pop("optimizer")
    best = best_weights(checkpoints, latest)
    contents = {
        **{name: pack(latest.tensors[name]) for name in ("model", "ema", "sums")},
        "optimizer": pack(latest.tensors["optimizer"]) + strict_json.dump(settings),
        "guard": strict_json.dump(guard),
        "counters": strict_json.dump(training | {"pending": latest.state["pending"]}),
        "best": pack(best or {}),
        "metrics.jsonl": folder.metrics.path.read_bytes(),
    }
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def write_task(root: Path, run: Run, steps: int) -> None:
    """Write all that :func:`train_task` needs: the parts of ``run``, its weights, and some of its data."""
    config = replace(
        run.config,
        engine="eager" if run.config.engine == "auto" else run.config.engine,  # two searches might end differently
        steps=max(steps, run.config.steps),  # the schedules stay those of the whole training
        log_every=max(2, steps // 15),  # so that most checkpoints are between two lines of metrics
        evaluate_every=max(1, steps // 5),
        checkpoint_every=max(1, steps // 20),
    )
    prepared = run.preprocessing.prepare(run.dataset)
    count = int(config.batch_size * (steps / EPOCHS + 0.5))
    data = {
        "train": _some(prepared.split("train"), count),
        "validation": _some(prepared.split("validation"), VALIDATION),
    }
    tensors = {f"{name}.x": part.x for name, part in data.items()}
    tensors |= {f"{name}.y": part.y for name, part in data.items() if part.y is not None}
    parts = {"model": run.model, "objective": run.objective, "training": config, "preprocessing": run.preprocessing}
    files = {
        "parts.json": strict_json.dump({name: to_spec(part) for name, part in parts.items()} | {"steps": steps}),
        "data.safetensors": pack(tensors),
        "model.safetensors": pack(run.model.state_dict()),
        "preprocessing.safetensors": pack(run.preprocessing.state_dict()),
    }
    store.write_folder(root / TASK, files)


def train_task(root: Path, name: str) -> None:
    """Train what :func:`write_task` wrote, in the run folder ``root / name``; go on where a checkpoint is.

    Its end is a clean interruption at the last step of the task.
    """
    files = store.read_folder(root / TASK)
    parts = strict_json.parse(files["parts.json"], "parts.json")
    tensors = {key: unpack(files[f"{key}.safetensors"], key) for key in ("data", "model", "preprocessing")}
    model = fresh_model(parts["model"], 0)
    model.load_state_dict(tensors["model"])
    preprocessing = from_spec(parts["preprocessing"], "preprocessing")
    preprocessing.load_state_dict(tensors["preprocessing"])
    data = tensors["data"]
    train, validation = (InMemory(data[f"{split}.x"], data.get(f"{split}.y")) for split in ("train", "validation"))
    folder = RunFolder(root / name)
    folder.path.mkdir(exist_ok=True)
    with folder.lock():
        trainer = Trainer(
            model,
            fresh_objective(parts["objective"], 0),
            train,
            validation,
            preprocessing,
            from_spec(parts["training"], "training"),
            folder,
            _Until(parts["steps"]),
        )
        if trainer.resume() < parts["steps"]:
            trainer.fit()


class _Until(Listener):
    """Ends the training after ``last`` steps, as Ctrl-C would."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_step(self, step: int) -> None:
        if step == self.last:
            signal.raise_signal(signal.SIGINT)


class _Python:
    """A training in a fresh interpreter, with as many threads as this one."""

    def __init__(self, root: Path, name: str) -> None:
        self.log = root / "log"
        command = [sys.executable, "-m", "sfumato.verbs.verify_resume", str(root), name]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        return self.process.wait()


def _run(source: Any, options: Options, reading: Mapping[str, Any]) -> Run:
    """Return the recipe of a run folder, or the one that is decided for data."""
    if isinstance(source, str | os.PathLike) and (Path(source) / "run.json").is_file():
        from sfumato.verbs.train import reopen  # brings the report, which the children do without

        return reopen(RunFolder(Path(source)).read_run())
    dataset = source if isinstance(source, Dataset) else load_dataset(source, seed=options.seed, **reading)
    return plan(dataset, replace(options, epochs=None, seconds=None))


def _seconds(folder: RunFolder) -> float:
    """Return the time that a finished training used."""
    latest = folder.open_checkpoints().latest()
    return float(latest.state["training"]["seconds"]) if latest else 0.0


def _some(examples: InMemory, count: int) -> InMemory:
    """Return at most ``count`` examples, evenly spread."""
    if len(examples) <= count:
        return examples
    return InMemory(*examples.batch(torch.arange(count) * len(examples) // count))


def _killed(
    root: Path,
    start: Callable[[Path, str], Process],
    kills: int,
    steps: int,
    between: float,
    dice: random.Random,
    say: Callable[[str], None],
) -> tuple[list[int], int]:
    """Train with kills, to the end; return the steps that were resumed from, and how many kills hit a save."""
    folder = RunFolder(root / "killed")
    resumed_at: list[int] = []
    inside = 0
    for number in range(kills):
        aim = int(steps * (number + dice.random()) / (kills + 1))
        process = start(root, "killed")
        try:
            _wait_for(process, folder, aim, in_save=number % 2 == 0, delay=dice.uniform(0, between))
        finally:
            process.kill()
            code = process.wait()
        if code == 0:
            say("the training was done before the next kill")
            return resumed_at, inside
        if code > 0:
            _fail(process)
        begun, step = _state(folder)
        hit = begun is not None
        inside += hit
        resumed_at.append(step)
        where = f"while step {begun:,} was being saved" if hit else "between two saves"
        say(f"kill {number + 1}: {where}; resuming at step {step:,}")
    _finish(start(root, "killed"))
    return resumed_at, inside


def _wait_for(process: Process, folder: RunFolder, aim: int, in_save: bool, delay: float) -> None:
    """Wait until the training has a checkpoint of ``aim`` and then, in a save or ``delay`` seconds later, return."""
    while process.poll() is None:
        begun, step = _state(folder)
        if in_save and begun is not None and begun > aim:
            return
        if not in_save and step >= aim and folder.checkpoints.is_dir():
            time.sleep(delay)
            return
        time.sleep(LOOK_FOR_SAVE if in_save else LOOK)


def _state(folder: RunFolder) -> tuple[int | None, int]:
    """Return the step whose checkpoint is being written now, if any, and the step of the highest one that is there."""
    try:
        names = os.listdir(folder.checkpoints)
    except FileNotFoundError:
        return None, 0
    prefix = f"{store.PART}step-"
    there = max((int(name[5:]) for name in names if name.startswith("step-")), default=-1)
    begun = max((int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)), default=-1)
    return begun if begun > there else None, max(0, there)


def _finish(process: Process) -> None:
    """Let a training end, whatever happens here."""
    try:
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code:
        _fail(process)


def _fail(process: Process) -> None:
    log: Path | None = getattr(process, "log", None)
    lines = log.read_text(errors="replace").strip().splitlines() if log else []
    reason = lines[-1] if lines else "no reason given"
    raise SfumatoError(f"the training to be verified failed: {reason} Train it with `sfumato train` to see more.")


def _main() -> int:
    try:
        train_task(Path(sys.argv[1]), sys.argv[2])
    except SfumatoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main())
