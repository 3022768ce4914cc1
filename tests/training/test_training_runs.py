"""Whole runs: ``train`` and ``resume`` on a file, what they refuse, and that an interruption changes no byte."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import At, Child, Crash, Hears, crash, terminate

from sfumato.core.errors import UserError
from sfumato.core.schedules import WarmUpCosine
from sfumato.core.spec import to_spec
from sfumato.io import store
from sfumato.io.run import RunFolder
from sfumato.io.tensors import pack
from sfumato.recipes import Options
from sfumato.training import TrainingConfig
from sfumato.verbs import listeners
from sfumato.verbs import train as verb
from sfumato.verbs.train import resume, train

OPTIONS = Options(recipe="mlp", latent_dim=2, steps=24, batch_size=16)
TRAINING = TrainingConfig(24, 16, schedule=WarmUpCosine(24, 2), log_every=2, evaluate_every=6, checkpoint_every=3)
ARGUMENTS = {"options": OPTIONS, "config": {"training": to_spec(TRAINING)}}


@pytest.fixture(scope="module")
def source(memory):
    """A tiny file of grey images with classes."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 150)
    x = generator.random((3, 1, 4, 4))[y] * 200 + generator.integers(0, 55, (150, 1, 4, 4))
    np.savez(memory / "tiny.npz", x=x.astype(np.uint8), y=y)
    return memory / "tiny.npz"


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """The evaluation at the end and the pictures are somebody else's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "measure", lambda *args, **kwargs: None)
        patch.setattr(verb, "certified", lambda *args: {"values": {}})
        patch.setattr(verb, "verdict", lambda *args: ())
        patch.setattr(listeners, "write_report", lambda path, **kwargs: path.write_text(kwargs["state"]))
        yield


@pytest.fixture(scope="module")
def whole(source, memory, _quick):
    train(source, out=memory / "whole-run", **ARGUMENTS)
    return left(memory / "whole-run")


def left(path):
    """Return the bytes that a finished run must have, whatever happened on the way."""
    latest = RunFolder(path).open_checkpoints().latest()
    state = {name: value for name, value in latest.state["training"].items() if name != "seconds"}
    return {
        "metrics": (path / "metrics.jsonl").read_bytes(),
        "model": (path / "model" / "model.safetensors").read_bytes(),
        "state": state,
        **{stem: pack(tensors) for stem, tensors in latest.tensors.items()},
    }


def tree(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def stopped(source, tmp_path):
    """A run that was interrupted at step 11."""
    done = train(source, out=tmp_path / "run", **ARGUMENTS, listener=At(11, terminate))
    assert done.outcome.signal == signal.SIGTERM
    assert done.evaluation is None
    return tmp_path / "run"


def test_a_run_that_was_stopped_and_resumed_is_the_same(stopped, whole):
    done = resume(stopped)
    assert done.outcome.finished
    assert left(stopped) == whole


@pytest.mark.parametrize(("event", "step"), [("evaluation", 0), ("step", 13)])
def test_a_run_that_crashed_and_was_resumed_is_the_same(event, step, source, whole, tmp_path):
    with pytest.raises(Crash):
        train(source, out=tmp_path / "run", **ARGUMENTS, listener=At(step, crash, event))
    resume(tmp_path / "run")
    assert left(tmp_path / "run") == whole


def test_a_config_file_with_another_seed_resumes_to_the_same(source, tmp_path):
    """Killed before the first checkpoint: the weights must follow from what run.json says."""
    other = {"training": to_spec(replace(TRAINING, seed=7))}
    train(source, out=tmp_path / "whole", options=OPTIONS, config=other)
    with pytest.raises(Crash):
        train(source, out=tmp_path / "run", options=OPTIONS, config=other, listener=At(0, crash, "evaluation"))
    resume(tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


def test_a_report_that_finds_no_room_does_not_stop_training(source, whole, tmp_path, monkeypatch):
    calls = []

    def full(path, **kwargs):
        calls.append(kwargs["state"])
        if kwargs["state"] == "running":
            raise store.NoRoom("report.html could not be written: the disk is full. Free some space.")
        path.write_text(kwargs["state"])

    monkeypatch.setattr(listeners, "write_report", full)
    train(source, out=tmp_path / "run", **ARGUMENTS)
    assert "running" in calls
    assert left(tmp_path / "run") == whole


def test_other_data_are_refused(stopped, source):
    before = tree(stopped)
    with np.load(source) as arrays:
        x, y = arrays["x"], arrays["y"]
    x[3, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="are not those this run was trained on"):
        resume(stopped, source=(x, y))
    assert tree(stopped) == before


def test_data_in_memory_can_be_given_again(source, tmp_path):
    with np.load(source) as arrays:
        pair = arrays["x"], arrays["y"]
    train(pair, out=tmp_path / "run", **ARGUMENTS, listener=At(11, terminate))
    with pytest.raises(UserError, match="array"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", source=pair).outcome.finished


@pytest.mark.parametrize(("name", "value"), [("torch", "2.0.0"), ("threads", 64)])
def test_other_surroundings_are_said(name, value, stopped):
    decided = json.loads((stopped / "run.json").read_bytes())
    decided["versions"][name] = value
    (stopped / "run.json").write_text(json.dumps(decided))
    listener = Hears()
    resume(stopped, listener=listener)
    assert any(f"bit-exact not promised: {name} was {value}" in sentence for sentence in listener.sentences)


def test_one_run_has_one_process(stopped):
    """T12: the second is refused while the first trains, and may go on when it is gone."""
    ready = os.path.join(stopped, "ready")

    def first():
        with RunFolder(stopped).lock():
            open(ready, "w").close()
            signal.pause()

    child = Child(first)
    while not os.path.exists(ready):
        assert child.poll() is None
    with pytest.raises(UserError, match="another process is training in"):
        resume(stopped)
    child.kill()
    child.wait()
    os.unlink(ready)
    assert resume(stopped).outcome.finished


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("run.json", "missing", r"run\.json is missing"),
        ("run.json", "cut", r"run\.json is damaged"),
        ("metrics.jsonl", "missing", r"metrics\.jsonl is missing"),
        ("metrics.jsonl", "cut", r"metrics\.jsonl has [\d,]+ bytes"),
    ],
)
def test_a_lost_file_is_named(name, damage, words, stopped):
    path = stopped / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=words) as caught:
        resume(stopped)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_last_checkpoint_costs_only_itself(damage, stopped, whole):
    last = sorted((stopped / "checkpoints").glob("step-*"))[-1]
    file = last / "optimizer.safetensors"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:100])
    listener = Hears()
    resume(stopped, listener=listener)
    assert any("optimizer.safetensors" in sentence for sentence in listener.sentences)
    assert left(stopped) == whole


def test_another_spec_in_run_json_is_refused(stopped):
    decided = json.loads((stopped / "run.json").read_bytes())
    decided["training"]["learning_rate"] = 0.5
    (stopped / "run.json").write_text(json.dumps(decided))
    with pytest.raises(UserError, match=r"made with another training than run\.json describes now"):
        resume(stopped)


def test_all_checkpoints_gone_starts_at_the_beginning(stopped, whole):
    shutil.rmtree(stopped / "checkpoints")
    listener = Hears()
    resume(stopped, listener=listener)
    assert any("step 0 of 24" in sentence for sentence in listener.sentences)
    assert left(stopped) == whole


def test_a_time_is_recorded_as_steps(source, tmp_path):
    """The budget is measured once; from then on the run has a number of steps like any other."""
    done = train(source, out=tmp_path / "run", options=Options(recipe="mlp", latent_dim=2, seconds=2.0, batch_size=16))
    decided = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert decided["training"]["steps"] == done.outcome.step
    assert any(decision["name"] == "steps" and "measured" in decision["because"] for decision in decided["decisions"])


def test_training_leaves_torch_as_it_was(source, tmp_path):
    torch.manual_seed(4)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(source, out=tmp_path / "run", **ARGUMENTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
