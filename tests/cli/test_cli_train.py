"""``sfumato train``: what it prints and leaves, how it is interrupted and resumed, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import STEPS, Command, Started, tree

from sfumato.cli.main import run
from sfumato.core.errors import Diverged
from sfumato.io.run import RunFolder

CONTROL = ("\x1b", "\r")


def test_a_run_has_everything(place: Path) -> None:
    run_folder = place / "runs" / "tiny"
    wanted = {
        "run.json",
        "metrics.jsonl",
        "report.html",
        "evaluation.json",
        "model/config.json",
        "model/model.safetensors",
    }
    assert wanted <= tree(run_folder)
    decided = json.loads((run_folder / "run.json").read_bytes())
    sources = {decision["name"]: decision["source"] for decision in decided["decisions"]}
    assert sources["latent"] == "user"
    assert sources["likelihood"] == "auto"
    assert all(decision["because"] and decision["change_with"] for decision in decided["decisions"])


@pytest.mark.usefixtures("real_report")
def test_talk_goes_to_stderr_without_control_codes(place: Path, command: Command) -> None:
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/second")
    assert result.code == 0
    assert result.out == ""
    assert not any(code in result.err for code in CONTROL)
    for words in (
        "sfumato 0",
        "run  ",
        "48 train · 6 validation · 6 test · 3 classes",
        "latent",
        "--latent-dim",
        "report.html",
    ):
        assert words in result.err
    assert re.search(r"step \d+/20 · \d+ % · val ELBO -[\d.]+ nats", result.err)
    assert "step 20/20 · 100 %" in result.err
    assert "bits per dimension" in result.err
    assert not any(line != line.rstrip() for line in result.err.splitlines())

    commands = [line.removeprefix("next:").strip() for line in result.err.partition("next:")[2].splitlines()]
    assert len(commands) >= 3
    for line in commands:
        words = shlex.split(line)
        assert words[0] == "sfumato"
        assert command(*words[1:]).code == 0, line
    assert Path("second-samples.png").stat().st_size > 0


def test_json_is_the_only_thing_on_stdout(place: Path, command: Command) -> None:
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/json", "--json", "--quiet")
    assert result.code == 0
    assert result.err == ""
    content = json.loads(result.out)
    assert content["state"] == "finished"
    assert content["evaluation"]["values"]["bits_per_dim"]["unit"] == "bits/dim"
    assert Path(content["model"]).is_dir()


def test_an_existing_run_is_refused_by_its_state(place: Path, command: Command) -> None:
    result = command("train", "tiny.npz")
    assert "runs/tiny exists (finished" in result.err
    assert "bits/dim" in result.err
    (place / "runs" / "tiny" / "evaluation.json").unlink()
    result = command("train", "tiny.npz")
    assert result.code == 2
    assert "unfinished, step 20 of 20" in result.err
    assert "--resume runs/tiny" in result.err


def test_a_finished_run_has_nothing_left_to_do(place: Path, command: Command) -> None:
    before = {name: (place / name).read_bytes() for name in ("runs/tiny/metrics.jsonl", "runs/tiny/evaluation.json")}
    result = command("train", "--resume", "runs/tiny")
    assert result.code == 0
    assert "finished at step 20; nothing left to do" in result.err
    assert all((place / name).read_bytes() == content for name, content in before.items())
    content = json.loads(command("train", "--resume", "runs/tiny", "--json").out)
    assert content["state"] == "finished"


def test_training_that_missed_its_evaluation_is_finished_by_resume(place: Path, command: Command) -> None:
    evaluation = (place / "runs/tiny/evaluation.json").read_bytes()
    (place / "runs/tiny/evaluation.json").unlink()
    result = command("train", "--resume", "runs/tiny", "--quiet")
    assert result.code == 0
    assert (place / "runs/tiny/evaluation.json").read_bytes() == evaluation


@pytest.mark.parametrize(("number", "code", "fresh"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)])
def test_an_interrupted_run_is_saved_and_goes_on(
    number: signal.Signals, code: int, fresh: bool, place: Path, command: Command
) -> None:
    arguments = ["train", "tiny.npz", "--steps", "100000", "--engine", "eager", "--out", "runs/long"]
    process = Started(arguments, place, fresh=fresh)
    metrics = place / "runs" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while process.poll() is None and not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    ended, out, error = process.communicate()
    assert ended == code, error
    assert out == ""
    assert "stopping after this step" in error
    assert "saved at step" in error
    assert error.splitlines()[-1] == "next:  sfumato train --resume runs/long"
    assert not any(mark in error for mark in CONTROL)
    assert not (place / "runs/long/model").exists()

    result = command("sample", "runs/long", "-n", "3", "-o", "early.png")
    assert result.code == 0, result.err
    assert command("report", "runs/long").code == 0
    assert json.loads(command("info", "runs/long", "--json").out)["run"]["state"] == "unfinished"
    assert "unfinished" in command("train", "tiny.npz", "--out", "runs/long").err


def test_an_interrupted_run_ends_like_the_uninterrupted_one(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.training import loop

    original = loop.Trainer._step

    def step(self: Any, number: int) -> Any:
        if number == 7 and self.folder is not None and self.folder.path.name == "stopped" and not stopped:
            stopped.append(True)
            signal.raise_signal(signal.SIGINT)
        return original(self, number)

    stopped: list[bool] = []
    monkeypatch.setattr(loop.Trainer, "_step", step)
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/stopped", "--json")
    assert result.code == 130
    assert json.loads(result.out)["state"] == "interrupted"
    again = shlex.split(result.err.splitlines()[-1].removeprefix("next:"))
    result = command(*again[1:])
    assert result.code == 0, result.err
    assert "resumed at step 8 of 20" in result.err
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (place / "runs/stopped" / name).read_bytes() == (place / "runs/tiny" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--likelihood", "gaussian"], "likelihood", "gaussian"),
        (["--binarise", "dynamic"], "binarise", "dynamic"),
        (["--recipe", "conv-small"], "recipe", "conv-small"),
        (["--recipe", "article"], "recipe", "article"),
        (["--latent-dim", "5"], "latent", 5),
        (["--no-conditional"], "classes", "not used"),
        (["--condition", "decoder"], "classes", "learned means, seen by decoder"),
        (["--batch", "16"], "batch", 16),
        (["--split", "0.6,0.2,0.2"], "split", "36 train · 12 validation · 12 test"),
        (["--steps", "7"], "steps", "7 steps of 8, about 1 epochs"),
    ],
)
def test_a_flag_gives_exactly_its_value(flags: list[str], name: str, value: Any, place: Path, monkeypatch: Any) -> None:
    from sfumato.verbs import train

    monkeypatch.setattr(train, "_train", lambda run, folder, listener, resumed: stop())

    def stop() -> None:
        raise KeyboardInterrupt

    steps = [] if "--steps" in flags else ["--steps", "5"]
    assert run(["train", "tiny.npz", "--out", "runs/flag", "--quiet", *flags, *steps]) == 130
    decisions = json.loads(Path("runs/flag/run.json").read_bytes())["decisions"]
    found = [decision for decision in decisions if decision["name"] == name]
    assert [(decision["value"], decision["source"]) for decision in found] == [(value, "user")]


def test_a_run_json_is_a_configuration(place: Path, command: Command) -> None:
    result = command("train", "tiny.npz", "--config", "runs/tiny/run.json", "--out", "runs/again", "--quiet")
    assert result.code == 0, result.err
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (place / "runs/again" / name).read_bytes() == (place / "runs/tiny" / name).read_bytes()
    decisions = json.loads(Path("runs/again/run.json").read_bytes())["decisions"]
    assert {decision["name"] for decision in decisions if decision["source"] == "user"} >= {"model", "training"}


def test_yaml_and_the_config_of_a_model_are_configurations(place: Path, command: Command) -> None:
    Path("part.yaml").write_text("objective: {class: ELBO, beta: 2}\n")
    assert command("train", "tiny.npz", *STEPS, "--config", "part.yaml", "--out", "runs/yaml", "--quiet").code == 0
    assert json.loads(Path("runs/yaml/run.json").read_bytes())["objective"]["beta"] == 2
    model = "runs/tiny/model/config.json"
    result = command("train", "tiny.npz", "--steps", "4", "--config", model, "--out", "runs/model", "--quiet")
    assert result.code == 0, result.err
    assert (
        json.loads(Path("runs/model/run.json").read_bytes())["model"]
        == json.loads(Path("runs/tiny/run.json").read_bytes())["model"]
    )


def test_a_configured_model_for_other_data_is_refused(place: Path, command: Command) -> None:
    np.save("reals.npy", np.random.default_rng(0).normal(size=(40, 4)))
    result = command("train", "reals.npy", "--config", "runs/tiny/run.json")
    assert result.code == 2
    assert not Path("runs/reals").exists()


def test_divergence_exits_with_three(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.training import loop

    def fit(self: Any) -> None:
        raise Diverged("step 3: stopped, the KL became infinite.")

    monkeypatch.setattr(loop.Trainer, "fit", fit)
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/wild")
    assert result.code == 3
    assert result.err.splitlines()[-1] == "error: step 3: stopped, the KL became infinite."


def test_a_last_checkpoint_that_failed_exits_with_one(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.io import checkpoints
    from sfumato.io.store import NoRoom

    def full(self: Any, step: int, *rest: Any, **more: Any) -> None:
        raise NoRoom("the disk is full.")

    monkeypatch.setattr(checkpoints.Checkpoints, "save", full)
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/full", "--quiet")
    assert result.code == 1
    assert "the disk is full" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_control_codes_gets_none(name: str, value: str, place: Path) -> None:
    master, slave = pty.openpty()
    arguments = ["train", "tiny.npz", "--steps", "4", "--out", f"runs/{value}"]
    process = Started(arguments, place, terminal=slave, **{"TERM": "xterm", name: value})
    os.close(slave)
    text = b""
    try:
        while part := os.read(master, 65536):
            text += part
    except OSError:  # how a pseudo-terminal ends
        pass
    assert process.communicate()[0] == 0, text
    assert b"\x1b" not in text
    assert b"\r" not in text.replace(b"\r\n", b"\n")
    assert b"step 4/4" in text


def test_tensorboard_gets_the_metrics(place: Path, command: Command) -> None:
    pytest.importorskip("tensorboard")
    result = command("train", "tiny.npz", *STEPS, "--out", "runs/events", "--log", "tensorboard", "--quiet")
    assert result.code == 0, result.err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place / "runs/events/tensorboard")).Reload()
    logged = {point.step: point.value for point in events.Scalars("elbo/validation")}
    lines = [line for line in RunFolder("runs/events").metrics.read() if line["split"] == "validation"]
    assert logged == pytest.approx({line["step"]: line["elbo"] for line in lines}, rel=1e-5)


def test_without_tensorboard_there_is_a_sentence(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.verbs import tensorboard

    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    result = command("train", "tiny.npz", "--log", "tensorboard", "--out", "runs/none")
    assert result.code == 2
    assert "pip install 'sfumato[tensorboard]'" in result.err
    assert not Path("runs/none").exists()
