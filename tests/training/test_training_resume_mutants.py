"""Every invariant of a resume has a mutant that turns the comparison red."""

import contextlib
import shutil

import pytest
from training_helpers import At, Crash, crash, differences, resumed, terminate, trainer

from sfumato.core.errors import SfumatoError
from sfumato.data import Order
from sfumato.io.run import Metrics
from sfumato.training import Trainer
from sfumato.training.guard import Guard
from sfumato.training.state import TrainingState


def forgets_guard(patch):
    patch.setattr(Guard, "restore", lambda self, state: None)


def forgets(name):
    def mutate(patch):
        right = TrainingState.restore

        def restore(self, tensors, plain):
            before = getattr(self, name)
            right(self, tensors, plain)
            setattr(self, name, before)

        patch.setattr(TrainingState, "restore", restore)

    return mutate


def forgets_tensors(stem):
    def mutate(patch):
        right = TrainingState.restore

        def restore(self, tensors, plain):
            right(self, {**tensors, stem: self.capture()[0][stem]}, plain)

        patch.setattr(TrainingState, "restore", restore)

    return mutate


def forgets_adam_step(patch):
    right = TrainingState.restore

    def restore(self, tensors, plain):
        right(self, tensors, plain)
        for state in self.optimizer.state.values():
            state["step"].zero_()

    patch.setattr(TrainingState, "restore", restore)


def forgets_average_count(patch):
    right = TrainingState.restore

    def restore(self, tensors, plain):
        right(self, tensors, {**plain, "averages": 1})

    patch.setattr(TrainingState, "restore", restore)


def loses_the_order_of_sums(patch):
    right = TrainingState.restore
    patch.setattr(
        TrainingState,
        "restore",
        lambda self, tensors, plain: right(self, tensors, {**plain, "sums": sorted(plain["sums"])}),
    )


def keeps_metrics(patch):
    patch.setattr(Metrics, "truncate", lambda self, position: None)


def takes_best_for_current(patch):
    right = TrainingState.restore_checkpoint

    def restore(self, checkpoint, best):
        right(self, checkpoint, best)
        self.model.load_state_dict(checkpoint.tensors["ema"])

    patch.setattr(TrainingState, "restore_checkpoint", restore)


def noise_from_the_global_state(patch):
    patch.setattr("sfumato.training.loop.fixed_noise", lambda seed, device: contextlib.nullcontext())


def order_from_the_start(patch):
    """A loader that begins anew at each start of the process."""
    right, first = Order.__call__, []

    def restarted(self, step):
        first.append(step)
        return right(self, step - first[0])

    patch.setattr(Order, "__call__", restarted)


def salt_not_restored(patch):
    right = Trainer._new_order

    def new_order(self):
        order = right(self)
        order.salt += 1
        return order

    patch.setattr(Trainer, "_new_order", new_order)


MUTANTS = {
    "guard": forgets_guard,
    "model": forgets_tensors("model"),
    "ema": forgets_tensors("ema"),
    "optimizer": forgets_tensors("optimizer"),
    "adam step": forgets_adam_step,
    "count of the average": forgets_average_count,
    "order of sums": loses_the_order_of_sums,
    "count": forgets("count"),
    "sums": forgets("sums"),
    "step": forgets("step"),
    "best step": forgets("best_step"),
    "best value": forgets("best_value"),
    "metrics": keeps_metrics,
    "best for current": takes_best_for_current,
    "noise": noise_from_the_global_state,
    "order": order_from_the_start,
    "salt": salt_not_restored,
}


@pytest.fixture(scope="module")
def interrupted(memory):
    """Stopped at 37 (no step of the schedule, between two lines of metrics), resumed, and crashed a few lines later."""
    folder = memory / "interrupted"
    trainer(folder, listener=At(37, terminate)).fit()
    with pytest.raises(Crash):
        resumed(folder, listener=At(38, crash)).fit()
    return folder


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_resume_that_forgets_is_caught(mutant, whole, interrupted, tmp_path, monkeypatch):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    mutant(monkeypatch)
    with contextlib.suppress(SfumatoError, ValueError, KeyError):  # some do not even resume
        assert differences(folder, whole["conditional"]) != []


def test_without_a_mutant_nothing_is_different(whole, interrupted, tmp_path):
    assert differences(shutil.copytree(interrupted, tmp_path / "run"), whole["conditional"]) == []
