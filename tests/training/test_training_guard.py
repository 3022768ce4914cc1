"""Steps that go wrong (T16), a disk that is full (T6, T7), and what each costs: the bad step and nothing else."""

import errno
import os

import pytest
import torch
from training_helpers import (
    BATCH,
    At,
    Crash,
    Hears,
    crash,
    digest,
    everything,
    poisoned,
    resumed,
    straight,
    terminate,
    trainer,
)

from sfumato.core.errors import Diverged
from sfumato.io import run as run_module
from sfumato.io import store
from sfumato.io.run import Metrics, RunFolder
from sfumato.training import Trainer
from sfumato.training.guard import RECOVERIES, WARM, Guard

NAN, INF = float("nan"), float("inf")


def core(state):
    """Return digests of all that a bad step may not change."""
    tensors, plain = state.capture()
    counters = ("skipped", "bad_in_a_row", "outliers_in_a_row")
    guard = {name: value for name, value in plain["guard"].items() if name not in counters}
    for group in plain["optimizer"]["param_groups"]:
        group.pop("lr")  # a function of the step
    plain = {name: value for name, value in plain.items() if name not in ("guard", "step", "seconds")}
    return {stem: digest(named) for stem, named in tensors.items()} | plain | {"guard": guard}


def steps(run, numbers):
    for number in numbers:
        run._step(number)
        run.state.step += 1


# --- the law of the guard ---


@pytest.mark.parametrize("kind", ["conditional", "optimal"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_step_costs_exactly_itself(value, kind, monkeypatch):
    """No weight decay, no Adam counter, no average, no running variance, no sums: as if it had not happened."""
    run = trainer(kind=kind)
    steps(run, range(8))
    before = core(run.state)
    with poisoned(monkeypatch, (8,), value) as hits:
        assert run._step(8) == "skip"
    assert hits == [8]
    assert core(run.state) == before
    assert run.state.guard.skipped == 1
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert run._step(9) == "accept"
    without = trainer(kind=kind)
    steps(without, range(8))
    without._step(9)
    assert core(without.state) == core(run.state)


def test_a_gradient_that_is_not_finite_costs_exactly_its_step(monkeypatch):
    """The loss may be finite all the same."""
    run = trainer()
    steps(run, range(5))
    before = core(run.state)
    hook = next(run.model.parameters()).register_hook(lambda gradient: gradient * NAN)
    assert run._step(5) == "skip"
    hook.remove()
    assert core(run.state) == before
    assert run._trouble == "the gradient's norm was nan"
    assert run._step(6) == "accept"


def test_an_outlier_is_skipped_and_the_third_in_a_row_is_believed(monkeypatch):
    run = trainer(clip_norm=0.0)
    steps(run, range(WARM + 5))
    start, window = core(run.state), list(run.state.guard.log_norms)
    with poisoned(monkeypatch, range(100, 104), 1e12, rows=BATCH):
        assert run._step(100) == "skip"
        assert run._step(101) == "skip"
        assert core(run.state) == start
        assert run.state.guard.log_norms == window
        assert run.state.guard.skipped == 2
        assert run._step(102) == "accept"
        assert run._step(103) == "accept"
    assert len(run.state.guard.log_norms) == 2, "a new regime has a new window"


def test_an_outlier_between_good_steps_is_never_believed(monkeypatch):
    run = trainer(clip_norm=0.0)
    steps(run, range(WARM))
    with poisoned(monkeypatch, (100, 102, 104, 106), 1e12, rows=BATCH):
        verdicts = [run._step(number) for number in range(100, 108)]
    assert verdicts == ["skip", "accept"] * 4


def test_the_guard_alone():
    guard = Guard()
    for _ in range(WARM):
        assert guard.judge(1.0, 2.0) == "accept"
    assert guard.judge(1.0, 0.0) == "accept", "small norms do no harm"
    assert [guard.judge(NAN, 1.0), guard.judge(1.0, INF), guard.judge(1.0, 2.0)] == ["skip", "skip", "accept"]
    assert [guard.judge(INF, 1.0), guard.judge(1.0, NAN), guard.judge(-INF, 1.0)] == ["skip", "skip", "rollback"]
    kept = guard.state()
    other = Guard()
    other.restore(kept)
    assert other.state() == kept
    guard.recover()
    assert (guard.recoveries, guard.bad_in_a_row, guard.log_norms, guard.skipped) == (1, 0, [], 5)
    assert kept["log_norms"], "a state that was handed out does not change"
    assert guard.learning_rate_factor == 0.5


def test_three_in_a_row_go_back_with_half_the_rate_and_another_order(tmp_path, monkeypatch):
    seen = []
    right = Trainer._step

    def step(self, number):
        result = right(self, number)
        rate = self.state.optimizer.param_groups[0]["lr"]
        seen.append((number, result, rate, tuple(self._order(number).tolist())))
        return result

    monkeypatch.setattr(Trainer, "_step", step)
    listener = Hears()
    with poisoned(monkeypatch, (31, 32), recoveries=0), poisoned(monkeypatch, (30,), recoveries=0):
        outcome = trainer(tmp_path / "run", listener=listener).fit()
    assert (outcome.skipped, outcome.recoveries, outcome.finished) == (3, 1, True)
    first, again = (entry for entry in seen if entry[0] == 30)
    assert (first[1], again[1]) == ("skip", "accept")
    assert again[2] == first[2] / 2
    assert again[3] != first[3]
    (sentence,) = (sentence for sentence in listener.sentences if "recovery" in sentence)
    assert "back to step 30 with the learning rate times 0.5, recovery 1 of at most 5" in sentence
    lines = RunFolder(tmp_path / "run").metrics.read()
    places = [line["step"] for line in lines if line["split"] == "train"]
    assert places == sorted(set(places)), "what was rolled back is not in the metrics"


@pytest.mark.parametrize("folder", [True, False])
def test_a_run_that_cannot_recover_says_why(folder, tmp_path, monkeypatch):
    listener = Hears()
    run = trainer(tmp_path / "run" if folder else None, listener=listener)
    run.items = [f"image-{index}.png" for index in range(len(run.train))]
    with poisoned(monkeypatch, range(20, 60), rows=1), pytest.raises(Diverged) as caught:
        run.fit()
    assert Diverged.exit_code == 3
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "the model's loss became NaN (first in image-" in text
    assert "5 recoveries did not help" in text
    assert "learning rate" in text
    assert "sfumato inspect" in text
    assert ("The checkpoint of step 18 is good." in text) == folder
    assert run.state.guard.recoveries == RECOVERIES == 5
    assert run.state.guard.skipped == 3 * (RECOVERIES + 1)


def test_a_checkpoint_between_bad_steps_is_not_the_one_to_go_back_to(tmp_path, monkeypatch):
    """Step 24 is of the schedule, evaluated and the best so far, but two bad steps lead up to it."""
    settings = {"kind": "iwae", "checkpoint_every": 6}
    listener = Hears()
    with poisoned(monkeypatch, (22, 23, 24), recoveries=0):
        run = trainer(tmp_path / "whole", listener=listener, **settings)
        run.fit()
        expected = everything(run)
        assert any("back to step 18 " in sentence for sentence in listener.sentences)
        trainer(tmp_path / "run", listener=At(24, terminate), **settings).fit()
        again = resumed(tmp_path / "run", **settings)
        assert (again.state.best_step, again.keeper.good.step, again.keeper.good.best_step) == (24, 18, 12)
        again.fit()
    assert everything(again) == expected


def test_the_term_and_the_example_are_named(monkeypatch):
    """The first value that went wrong, and the example where: here the data of one example are NaN."""
    run = trainer(kind="optimal")
    place = 5
    index = int(run._order(0)[place])
    run.model.likelihood = type(run.model.likelihood)((64,), "shared")
    run.train.x[index, 3] = NAN
    run._step(0)
    assert f"training example {index})" in run._trouble
    assert "became NaN" in run._trouble
    run.items = [f"row {number}" for number in range(len(run.train))]
    run._step(0)
    assert f"(first in row {index})" in run._trouble


def test_a_weight_that_became_infinite_is_no_checkpoint(tmp_path, monkeypatch):
    """A buffer that no loss looks at: the step is judged at the checkpoint, before the evaluation."""
    right, done = Trainer._log, []

    def log(self):
        right(self)
        if self.state.step == 36 and not done:
            done.append(1)
            self.model.decoder.layers[-1].bias.data[0] = INF

    monkeypatch.setattr(Trainer, "_log", log)
    listener = Hears()
    run = trainer(tmp_path / "run", listener=listener)
    outcome = run.fit()
    assert done
    assert outcome.recoveries == 1
    assert any("a weight became infinite; back to step 33" in sentence for sentence in listener.sentences)
    for step in run.checkpoints.steps():
        tensors = run.checkpoints.load(step).tensors
        assert all(bool(torch.isfinite(value).all()) for named in tensors.values() for value in named.values())


def test_a_nan_metric_never_wins_and_never_blocks(monkeypatch):
    right = Trainer._validate

    def validate(self):
        values = right(self)
        return values | {"final_loss": NAN} if self.state.step in (0, 24) else values

    monkeypatch.setattr(Trainer, "_validate", validate)
    run = trainer(kind="iwae")
    outcome = run.fit()
    assert outcome.best_step not in (0, 24, None)
    assert outcome.best_value == outcome.best_value
    monkeypatch.setattr(Trainer, "_validate", lambda self: right(self) | {"final_loss": NAN})
    outcome = trainer().fit()
    assert (outcome.best_step, outcome.best_value, outcome.finished) == (None, None, True)


def test_guard_state_survives_a_resume_bit_for_bit(tmp_path, monkeypatch):
    with poisoned(monkeypatch, (40, 41)):
        run = trainer(tmp_path / "run", listener=At(42, terminate))
        run.fit()
        again = resumed(tmp_path / "run")
    assert again.state.guard.state() == run.state.guard.state()
    assert again.state.guard.bad_in_a_row == 2
    assert len(again.state.guard.log_norms) == 40
    with poisoned(monkeypatch, (42,)):
        assert again._step(42) == "rollback"


# --- a disk that is full ---


class Full:
    """No room while the trainer's step is in ``steps``, for the calls of ``places``."""

    def __init__(self, patch, steps, places=("checkpoints", "metrics.jsonl"), code=errno.ENOSPC):
        self.steps, self.fired, self.now = steps, 0, 0
        write, right = os.write, Trainer._step

        def full_write(descriptor, data):
            place = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.now in self.steps and any(name in place for name in places):
                self.fired += 1
                raise OSError(code, os.strerror(code))
            return write(descriptor, data)

        def step(trainer, number):
            self.now = number + 1
            return right(trainer, number)

        patch.setattr(os, "write", full_write)
        patch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_does_not_stop_training(code, whole, tmp_path, monkeypatch):
    listener = Hears()
    with monkeypatch.context() as patch:
        full = Full(patch, range(20, 41), code=code)
        run = trainer(tmp_path / "run", listener=listener)
        outcome = run.fit()
    assert full.fired > 10
    assert any("could not be written" in sentence for sentence in listener.sentences)
    assert any("The last checkpoint stays good" in sentence for sentence in listener.sentences)
    assert (outcome.finished, outcome.save_failed) == (True, "")
    assert everything(run) == whole["conditional"]


@pytest.mark.parametrize("places", [("checkpoints",), ("checkpoints", "metrics.jsonl")])
@pytest.mark.parametrize("stop", ["signal", "crash"])
def test_a_stop_after_a_full_disk_changes_nothing(stop, places, whole, tmp_path, monkeypatch):
    """The best weights (step 12), the good state (33, 36) and lines of metrics found no room in their time."""
    assert whole["conditional"]["best_step"] == 12
    for steps, at in ((range(11, 14), 16), (range(31, 38), 38)):
        folder = tmp_path / f"run-{at}"
        with monkeypatch.context() as patch:
            full = Full(patch, steps, places)
            run = trainer(folder, listener=At(at, terminate if stop == "signal" else crash))
            if stop == "signal":
                assert run.fit().save_failed == ""
            else:
                with pytest.raises(Crash):
                    run.fit()
        assert full.fired
        again = resumed(folder)
        again.fit()
        assert everything(again) == whole["conditional"], (steps, at)


def test_a_rollback_after_a_full_disk_goes_back_to_the_same_step(tmp_path, monkeypatch):
    """Step 36 is good but found no room; the run is stopped at 38 with room, and goes wrong after its resume."""
    with poisoned(monkeypatch, (37, 38, 39), recoveries=0):
        expected = straight(tmp_path / "whole", checkpoint_every=12)
        assert expected["guard"]["recoveries"] == 1
        with monkeypatch.context() as patch:
            full = Full(patch, (36,))
            trainer(tmp_path / "run", listener=At(38, terminate), checkpoint_every=12).fit()
        assert full.fired
        again = resumed(tmp_path / "run", listener=(listener := Hears()), checkpoint_every=12)
        again.fit()
    assert any("back to step 36 " in sentence for sentence in listener.sentences)
    assert everything(again) == expected


def test_a_rollback_on_a_full_disk_keeps_the_lines_that_wait(tmp_path, monkeypatch):
    with poisoned(monkeypatch, (37, 38, 39), recoveries=0):
        expected = straight(tmp_path / "whole", checkpoint_every=12)
        with monkeypatch.context() as patch:
            full = Full(patch, range(34, 45))
            run = trainer(tmp_path / "run", checkpoint_every=12)
            run.fit()
    assert full.fired
    assert everything(run) == expected


def test_a_last_save_that_fails_is_in_the_outcome(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Full(patch, range(50, 61))
        run = trainer(tmp_path / "run")
        outcome = run.fit()
    assert "the disk is full" in outcome.save_failed
    assert run.checkpoints.steps()[-1] == 48
    assert run.checkpoints.latest().step == 48
    again = resumed(tmp_path / "run")
    assert again.fit().save_failed == ""
    assert everything(again) == whole["conditional"]


def test_a_sync_of_the_metrics_that_fails_does_not_stop_training(tmp_path, monkeypatch):
    right, calls = Metrics.position, []

    def position(self):
        calls.append(1)
        if len(calls) == 5:
            with store.explained(self.path):
                raise OSError(errno.ENOSPC, "full")
        return right(self)

    monkeypatch.setattr(run_module.Metrics, "position", position)
    listener = Hears()
    run = trainer(tmp_path / "run", listener=listener)
    assert run.fit().finished
    assert len(calls) > 5
    assert any("metrics.jsonl" in sentence for sentence in listener.sentences)
