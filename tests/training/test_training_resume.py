"""Exact resume (T1, T2, T8): wherever a training is interrupted or killed, every bit continues."""

import os
import random
import signal
import time

import pytest
import torch
from proofs.t02_kills_in_saves import parts
from training_helpers import (
    KINDS,
    At,
    Child,
    Crash,
    Hears,
    crash,
    differences,
    poisoned,
    resumed,
    straight,
    terminate,
    trainer,
)

from sfumato.core.errors import UserError
from sfumato.io import store
from sfumato.io.run import RunFolder
from sfumato.training import Trainer
from sfumato.training.keeping import Good, shared

HARD = bool(os.environ.get("SFUMATO_HARD"))
KILLS = 300 if HARD else 6


# 1: in the warm-up, before a line of metrics; 10: at a line; 11, 12, 13: around an evaluation; 37: between two lines.
STOPS = {"conditional": (1, 10, 12, 37), "iwae": (11, 37), "optimal": (1, 37)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_at_any_place_changes_nothing(kind, whole, tmp_path):
    for step in STOPS[kind]:
        folder, listener = tmp_path / str(step), At(step, terminate)
        outcome = trainer(folder, kind=kind, listener=listener).fit()
        assert listener.fired == 1
        assert (outcome.step, outcome.signal, outcome.finished) == (step, signal.SIGTERM, False)
        assert differences(folder, whole[kind], kind=kind) == []


@pytest.mark.parametrize(
    ("event", "step"),
    [("evaluation", 0), ("metrics", 0), ("step", 2), ("evaluation", 12), ("metrics", 12), ("step", 38), ("step", 60)],
)
def test_a_crash_at_any_place_changes_nothing(event, step, whole, tmp_path):
    listener = At(step, crash, event)
    with pytest.raises(Crash):
        trainer(tmp_path / "run", listener=listener).fit()
    assert listener.fired == 1
    assert differences(tmp_path / "run", whole["conditional"]) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_crash_between_the_metrics_and_the_checkpoint_changes_nothing(number, when, whole, tmp_path, monkeypatch):
    """Before the first checkpoint, before one of an evaluation, before the announcement of another."""
    right, calls = store.write_folder, []

    def write_folder(path, files, *, replace=False):
        calls.append(path)
        if len(calls) == number and when == "before":
            raise Crash
        right(path, files, replace=replace)
        if len(calls) == number:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_folder", write_folder)
        with pytest.raises(Crash):
            trainer(tmp_path / "run").fit()
    assert len(calls) == number
    assert differences(tmp_path / "run", whole["conditional"]) == []


def test_a_resume_at_step_0_does_not_evaluate_twice(tmp_path, whole):
    with pytest.raises(Crash):
        trainer(tmp_path / "run", listener=At(1, crash)).fit()
    assert RunFolder(tmp_path / "run").open_checkpoints().steps() == [0]
    assert differences(tmp_path / "run", whole["conditional"]) == []
    lines = RunFolder(tmp_path / "run").metrics.read()
    assert sum(line["step"] == 0 for line in lines) == 1


def test_many_stops_in_one_run(whole, tmp_path):
    for step in (2, 3, 5, 19, 36, 36, 47, 59):
        at = resumed(tmp_path / "run", listener=(listener := At(step, terminate)))
        at.fit()
        assert listener.fired == (at.state.step == step and listener.fired)
    assert differences(tmp_path / "run", whole["conditional"]) == []


def test_a_finished_run_resumes_to_itself(whole, tmp_path):
    trainer(tmp_path / "run").fit()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert differences(tmp_path / "run", whole["conditional"]) == []
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    """A rate of 0 never improves; patience ends it, and a resume does not go on."""
    settings = {"learning_rate": 1e-9, "patience": 2, "evaluate_every": 3}
    outcome = trainer(tmp_path / "run", **settings).fit()
    assert outcome.stopped_early
    assert outcome.finished
    assert outcome.step < 60
    again = resumed(tmp_path / "run", **settings)
    assert again.fit().step == outcome.step
    assert again.state.stopped_early


def test_patience_counts_the_same_after_a_stop(tmp_path):
    settings = {"learning_rate": 0.05, "patience": 1, "evaluate_every": 2, "checkpoint_every": 2}
    expected = straight(tmp_path / "whole", **settings)
    for step in range(1, min(9, expected["step"])):
        trainer(tmp_path / str(step), listener=At(step, crash), **settings)
        with pytest.raises(Crash):
            trainer(tmp_path / str(step), listener=At(step, crash), **settings).fit()
        assert differences(tmp_path / str(step), expected, **settings) == []


# --- rollbacks ---


def test_a_stop_after_a_rollback_changes_nothing(tmp_path, monkeypatch):
    """Bad steps 30 to 32 lead back to step 30 (the schedule's); stops before, after, and both."""
    with poisoned(monkeypatch, (30, 31, 32), recoveries=0):
        expected = straight(tmp_path / "whole")
        assert expected["guard"]["recoveries"] == 1
        assert expected["guard"]["skipped"] == 3
        for stops in ((31,), (34,), (32, 31, 33, 33, 41)):
            folder = tmp_path / "-".join(map(str, stops))
            for step in stops:
                stopped = resumed(folder, listener=At(step, terminate))
                stopped.fit()
            assert differences(folder, expected) == [], stops


@pytest.mark.parametrize("stop", [31, 34])
def test_a_crash_after_a_rollback_below_an_interruption_changes_nothing(stop, tmp_path, monkeypatch):
    """The interruption's checkpoint (32) knows more metrics than there are once the rollback cut them to step 30."""
    with poisoned(monkeypatch, (30, 31, 32), recoveries=0):
        expected = straight(tmp_path / "whole")
        trainer(tmp_path / "run", listener=At(32, terminate)).fit()
        again = resumed(tmp_path / "run", listener=Rolled(stop))
        with pytest.raises(Crash):
            again.fit()
        assert again.state.guard.recoveries == 1
        assert differences(tmp_path / "run", expected) == []


class Rolled(Hears):
    """Crashes at ``step``, once a rollback has been announced."""

    def __init__(self, step):
        super().__init__()
        self.stop = step

    def on_step(self, step):
        if step == self.stop and any("recovery 1" in sentence for sentence in self.sentences):
            raise Crash


def test_the_target_of_a_rollback_is_the_scheduled_checkpoint(tmp_path, monkeypatch):
    with poisoned(monkeypatch, (30, 31, 32), recoveries=0):
        trainer(tmp_path / "run", listener=At(31, terminate)).fit()
        listener = Hears()
        resumed(tmp_path / "run", listener=listener).fit()
    assert any("back to step 30 " in sentence for sentence in listener.sentences)


def test_two_rollbacks_to_one_checkpoint_start_from_the_same_state(tmp_path, monkeypatch):
    """The optimizer must not change the kept moments in place."""
    starts = []
    right = Trainer._roll_back

    def roll_back(self):
        right(self)
        tensors, _ = self.state.capture()
        starts.append({stem: {k: v.clone() for k, v in named.items()} for stem, named in tensors.items()})

    monkeypatch.setattr(Trainer, "_roll_back", roll_back)
    with poisoned(monkeypatch, (30, 31, 32), recoveries=0), poisoned(monkeypatch, (32, 33, 34), recoveries=1):
        outcome = trainer(tmp_path / "run", checkpoint_every=6).fit()
    assert outcome.recoveries == 2
    assert len(starts) == 2
    for stem, named in starts[0].items():
        assert all(torch.equal(value, starts[1][stem][name]) for name, value in named.items()), stem


def test_a_crash_between_two_rollbacks_changes_nothing(tmp_path, monkeypatch):
    with poisoned(monkeypatch, (30, 31, 32), recoveries=0), poisoned(monkeypatch, (32, 33, 34), recoveries=1):
        expected = straight(tmp_path / "whole", checkpoint_every=6)
        assert expected["guard"]["recoveries"] == 2
        with pytest.raises(Crash):
            trainer(tmp_path / "run", listener=Rolled(32), checkpoint_every=6).fit()
        assert differences(tmp_path / "run", expected, checkpoint_every=6) == []


# --- kills ---


def test_kill_9_at_random_times_changes_nothing(whole, tmp_path):
    """T1: one to four kills a run."""
    dice, kills, run = random.Random(7), 0, 0
    begin = time.monotonic()
    trainer(tmp_path / "timed").fit()
    length = time.monotonic() - begin
    while kills < KILLS:
        folder, run = tmp_path / f"run{run}", run + 1
        for _ in range(dice.randint(1, 4)):
            child = Child(lambda folder=folder: resumed(folder).fit() and 0)
            time.sleep(dice.uniform(0, length / 2))
            child.kill()
            kills += child.wait() == -signal.SIGKILL
        assert differences(folder, whole["conditional"]) == []


def test_kill_9_inside_a_save_changes_nothing(whole, tmp_path_factory):
    """T2: at least half of the kills must leave a part of a checkpoint behind. On a real disk, where a save lasts."""
    tmp_path = tmp_path_factory.mktemp("saves")
    dice, kills, inside, run = random.Random(8), 0, 0, 0
    while kills < KILLS:
        folder, run = tmp_path / f"run{run}", run + 1
        for _ in range(dice.randint(1, 4)):
            begun, latest = parts(folder)
            child = Child(lambda folder=folder: resumed(folder).fit() and 0)
            aim = latest + dice.randint(1, 15)
            while child.poll() is None:
                begun, latest = parts(folder)
                if begun > max(aim, latest):
                    break
            child.kill()
            killed = child.wait() == -signal.SIGKILL
            begun, latest = parts(folder)
            kills, inside = kills + killed, inside + (killed and begun > latest)
        assert differences(folder, whole["conditional"]) == []
        assert not [
            name for name in os.listdir(folder / "checkpoints") if name.startswith((".part", ".old", "damaged"))
        ]
    assert inside >= kills / 2, f"only {inside} of {kills} kills hit a save"


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_from_outside_leaves_a_checkpoint(number, whole, tmp_path):
    folder = tmp_path / "run"

    def work():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
        return 100 + trainer(folder).fit().signal

    child = Child(work)
    while parts(folder)[1] < 6:
        assert child.poll() is None
    child.kill(number)
    begin = time.monotonic()
    assert child.wait() == 100 + number
    assert time.monotonic() - begin < 5
    assert parts(folder)[1] >= 6
    assert differences(folder, whole["conditional"]) == []


def test_a_closed_terminal_that_is_ignored_stays_so(tmp_path):
    """As after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        listener = At(7, lambda: signal.raise_signal(signal.SIGHUP))
        outcome = trainer(tmp_path / "run", listener=listener).fit()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (listener.fired, outcome.finished, outcome.signal) == (1, True, None)


def test_a_second_ctrl_c_leaves_at_once_without_saving(tmp_path):
    listener = At(7, lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", listener=listener).fit()
    assert signal.getsignal(signal.SIGINT) is before
    assert parts(tmp_path / "run")[1] == 6
    assert any("Ctrl-C again" in sentence for sentence in listener.sentences)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT)])
@pytest.mark.parametrize("call", ["_write", "sync_folder", "discard"])
def test_a_signal_during_a_save_changes_nothing(call, numbers, whole, tmp_path, monkeypatch):
    right, count = getattr(store, call), []

    def signalled(*args, **kwargs):
        count.append(1)
        if len(count) == 9:
            for number in numbers:
                signal.raise_signal(number)
        return right(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(store, call, signalled)
        try:
            assert trainer(tmp_path / "run").fit().signal == numbers[0]
        except KeyboardInterrupt:
            assert len(numbers) == 2
    assert len(count) >= 9
    assert differences(tmp_path / "run", whole["conditional"]) == []


def test_a_listener_that_cannot_speak_does_not_cost_the_checkpoint(tmp_path):
    class Mute(At):
        def say(self, sentence):
            raise BrokenPipeError

    outcome = trainer(tmp_path / "run", listener=Mute(7, terminate)).fit()
    assert (outcome.step, outcome.signal) == (7, signal.SIGTERM)
    assert parts(tmp_path / "run")[1] == 7


# --- state that must not be mixed up ---


def test_defect_10_resume_pairs_current_weights_with_the_current_optimizer(whole, tmp_path):
    """The best weights lie apart: a run whose best evaluation is long past goes on from its current weights."""
    assert whole["conditional"]["best_step"] == 12, "the test needs a best step that is long past"
    trainer(tmp_path / "run", listener=At(40, terminate)).fit()
    again = resumed(tmp_path / "run")
    best = again.state.best_weights
    assert not all(torch.equal(value, best[name]) for name, value in again.model.state_dict().items())
    assert parts(tmp_path / "run")[1] == 40
    assert again.state.best_step in again.checkpoints.steps(), "the best one is not rotated away"
    assert differences(tmp_path / "run", whole["conditional"]) == []


def test_the_last_damaged_checkpoint_is_named_and_the_one_before_used(whole, tmp_path):
    trainer(tmp_path / "run", listener=At(20, terminate)).fit()
    (tmp_path / "run" / "checkpoints" / "step-00000020" / "ema.safetensors").write_bytes(b"cut")
    listener = Hears()
    resumed(tmp_path / "run", listener=listener)
    assert any(
        "ema.safetensors" in sentence and "checkpoint before it is used" in sentence for sentence in listener.sentences
    )
    assert differences(tmp_path / "run", whole["conditional"]) == []


def test_a_damaged_best_checkpoint_is_named(tmp_path):
    trainer(tmp_path / "run", listener=At(40, terminate)).fit()
    best = RunFolder(tmp_path / "run").open_checkpoints().latest().state["training"]["best_step"]
    (tmp_path / "run" / "checkpoints" / f"step-{best:08d}" / "ema.safetensors").unlink()
    with pytest.raises(UserError, match=r"ema\.safetensors is missing"):
        resumed(tmp_path / "run")


@pytest.mark.parametrize("cut", ["missing", "cut"])
def test_lost_metrics_are_named(cut, tmp_path):
    trainer(tmp_path / "run", listener=At(20, terminate)).fit()
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.unlink() if cut == "missing" else metrics.write_bytes(metrics.read_bytes()[:-5])
    with pytest.raises(
        UserError, match=r"metrics\.jsonl (is missing|has [\d,]+ bytes); when the checkpoint was written"
    ):
        resumed(tmp_path / "run")


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("training", {"batch_size": 17}),
        ("training", {"seed": 6}),
        ("objective", {"change": lambda m, o, *rest: (m, type(o)(beta=2.0), *rest)}),
        ("model", {"kind": "iwae"}),
    ],
)
def test_another_spec_is_refused(part, arguments, tmp_path):
    trainer(tmp_path / "run", listener=At(4, terminate)).fit()
    with pytest.raises(UserError, match=f"was made with another {part} than run.json describes now"):
        resumed(tmp_path / "run", **arguments)


def test_other_surroundings_are_said(tmp_path):
    trainer(tmp_path / "run", listener=At(4, terminate)).fit()
    listener = Hears()
    resumed(tmp_path / "run", listener=listener, precision="float32")
    assert listener.sentences == []
    state = RunFolder(tmp_path / "run").open_checkpoints().latest().state
    other = trainer(tmp_path / "run", listener=listener)
    other._made_by = lambda: state["made_by"] | {"surroundings": "cuda, bf16"}
    other.resume()
    assert any("bit-exact not promised" in sentence and "cuda, bf16" in sentence for sentence in listener.sentences)


class Sent:
    """Two processes, one after the other: what the first shares, the second gets."""

    def __init__(self):
        self.parts = []

    def share(self, data):
        if data is None:
            return self.parts.pop(0)
        self.parts.append(data)
        return data


@pytest.mark.parametrize("best", [None, {"w": torch.tensor([7.0])}])
def test_what_the_first_process_kept_the_others_have_to_the_last_bit(best):
    tensors = {"model": {"w": torch.tensor([0.1, 1e-45])}, "optimizer": {"m": torch.arange(3)}}
    kept, sent = Good(3, tensors, {"good_step": 3}, best), Sent()
    assert shared(kept, sent) is kept
    found = shared(None, sent)
    assert (found.step, found.state, sent.parts) == (3, kept.state, [])
    torch.testing.assert_close([found.tensors, found.best], [tensors, best], rtol=0, atol=0)
    shared(kept, sent, tensors=False)
    head = shared(None, sent, tensors=False)
    assert (head.step, head.tensors, head.state, head.best) == (3, {}, kept.state, None)
