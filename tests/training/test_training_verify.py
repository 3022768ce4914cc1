"""``verify-resume``: identical on a right trainer; every part that a wrong one loses is named."""

import signal
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_helpers import DIM, Child, tiny, trainer

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.schedules import WarmUp
from sfumato.data import Order, load_dataset
from sfumato.io import store
from sfumato.io.run import Metrics, RunFolder
from sfumato.objectives import ELBO
from sfumato.recipes import Options, plan
from sfumato.training import Trainer
from sfumato.training import state as state_module
from sfumato.training.guard import Guard
from sfumato.training.keeping import Keeper
from sfumato.training.state import TrainingState
from sfumato.verbs import verify_resume as verb
from sfumato.verbs.train import description
from sfumato.verbs.verify_resume import PARTS, VerifyResult, prove, verify_resume

OPTIONS = Options(recipe="mlp", latent_dim=3, steps=60, batch_size=16)


def data():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 300)
    return (generator.random((3, DIM))[y] * 200 + generator.integers(0, 55, (300, DIM))).astype(np.uint8), y


def small(source):
    """Return the plan for ``source`` with a model of the smallest size."""
    model, objective, _, _, preprocessing = tiny("conditional")
    decided = plan(load_dataset(source), OPTIONS)
    return replace(decided, model=model, objective=objective, preprocessing=preprocessing)


@pytest.fixture(scope="module")
def recipe():
    torch.set_num_threads(1)
    trainer()  # makes torch import what it imports with the first optimizer: seconds, in every fork anew otherwise
    return small(data())


def forked(root, name):
    """Start a training as a fork of this process, mutants and all."""
    return Child(lambda: verb.train_task(root, name))


# --- each invariant has a mutant; the second is what must be named ---


def after_restore(change):
    def mutate(patch):
        right = TrainingState.restore

        def restore(self, tensors, plain):
            fresh = self.capture()
            right(self, tensors, plain)
            change(self, fresh)

        patch.setattr(TrainingState, "restore", restore)

    return mutate


def average_not_restored(state, fresh):
    state.averaged.load_state_dict(fresh[0]["ema"])


def adam_step_not_restored(state, fresh):
    for values in state.optimizer.state.values():
        values["step"].zero_()


def sums_not_restored(state, fresh):
    state.sums, state.count = {}, 0


def best_not_restored(state, fresh):
    state.best_step, state.best_value = None, None


def and_worse_each_time(mutate):
    """The best step must be past when the run is killed, and stay the best."""

    def both(patch):
        mutate(patch)
        patch.setattr(Trainer, "_validate", lambda self: {"final_loss": float(self.state.step)})

    return both


def guard_not_restored(patch):
    patch.setattr(Guard, "restore", lambda self, state: None)


def metrics_not_cut(patch):
    patch.setattr(Metrics, "truncate", lambda self, position: None)


def salt_not_restored(patch):
    """After a resume the order is that of a run that recovered once more."""
    right = Trainer.resume

    def resume(self):
        step = right(self)
        self._order = Order(len(self.train), self.config.batch_size, self.config.seed, salt=1 if step else 0)
        return step

    patch.setattr(Trainer, "resume", resume)


def best_weights_lost(patch):
    right = state_module.best_weights

    def wrong(checkpoints, latest):
        found = right(checkpoints, latest)
        return found and {name: value + 1 for name, value in found.items()}

    patch.setattr("sfumato.training.keeping.best_weights", wrong)


def best_in_the_carried_file(patch):
    """What every later checkpoint carries, when the best one found no room, is compared too."""
    best_weights_lost(patch)
    right = Keeper._save_as
    patch.setattr(
        Keeper, "_save_as", lambda self, kept, there: right(self, kept, [s for s in there if s != kept.best_step])
    )


MUTANTS = {
    "guard": (guard_not_restored, "guard"),
    "average": (after_restore(average_not_restored), "ema"),
    "adam step": (after_restore(adam_step_not_restored), "optimizer"),
    "sums": (after_restore(sums_not_restored), "metrics.jsonl"),
    "salt": (salt_not_restored, "model"),
    "metrics": (metrics_not_cut, "metrics.jsonl"),
    "best step": (and_worse_each_time(after_restore(best_not_restored)), "counters"),
    "best weights": (and_worse_each_time(best_in_the_carried_file), "best"),
}


def test_the_right_trainer_is_identical(recipe):
    said = []
    result = prove(recipe, kills=4, steps=40, seed=1, say=said.append, launch=forked)
    assert result.identical, result.different
    assert result.kills == len(result.resumed_at) == 4
    assert result.kills_in_save >= 1
    assert set(result.digests) == set(PARTS)
    assert len(said) >= 6
    assert list(result.resumed_at) == sorted(result.resumed_at)
    assert result.resumed_at[-1] > 0
    assert str(result).startswith("identical: 40 steps, killed 4 times")
    assert "the time used is left out" in str(result)


@pytest.mark.parametrize(("mutant", "part"), MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_trainer_is_found_out(mutant, part, recipe, memory, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(memory))
    mutant(monkeypatch)
    for seed in range(9):
        result = prove(recipe, kills=1, steps=60, seed=seed, launch=forked)
        if part in result.different:  # not every kill is where it shows: the sums may have been empty
            break
    assert not result.identical
    assert part in result.different
    assert "DIFFERENT" in str(result)
    assert part in str(result)


def test_a_kill_counts_as_inside_a_save_only_when_a_part_is_left(tmp_path):
    folder = RunFolder(tmp_path)
    assert verb._state(folder) == (None, 0)
    for name, expected in (
        ("step-00000003", (None, 3)),
        (".part-step-00000006", (6, 3)),
        ("step-00000006", (None, 6)),
        (".old-step-00000006", (None, 6)),
        (".part-step-00000003", (None, 6)),  # one that is being removed
    ):
        (folder.checkpoints / name).mkdir(parents=True)
        assert verb._state(folder) == expected


def test_in_fresh_interpreters_from_a_run_folder(tmp_path):
    """The way a user goes: the recipe of run.json, children that are started anew."""
    np.savez(tmp_path / "tiny.npz", x=data()[0], y=data()[1])
    folder = RunFolder(tmp_path / "run").create()
    folder.write_run(description(small(tmp_path / "tiny.npz"), "run"))
    before = sorted(path.name for path in folder.path.iterdir())
    result = verify_resume(folder.path, kills=1, steps=30, seed=2)
    assert result.identical
    assert result.steps == 30
    assert result.kills >= 1
    assert sorted(path.name for path in folder.path.iterdir()) == before
    assert (
        VerifyResult(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in result.to_dict().items() if k != "identical"}
        )
        == result
    )


def test_a_recipe_with_a_long_warm_up_keeps_its_schedules(recipe, memory, monkeypatch):
    """The first steps of the whole training are verified, not another, shorter training."""
    monkeypatch.setattr(tempfile, "tempdir", str(memory))
    long = replace(recipe, config=replace(recipe.config, steps=5000, patience=0), objective=ELBO(schedule=WarmUp(500)))
    result = prove(long, kills=1, steps=20, launch=forked)
    assert result.identical
    assert result.steps == 20


def test_a_training_that_fails_is_said(recipe, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda self: 1 / 0)
    with pytest.raises(SfumatoError, match="the training to be verified failed"):
        prove(recipe, kills=1, steps=20, launch=forked)


def test_a_failed_child_gives_its_last_line(recipe, tmp_path):
    verb.write_task(tmp_path, recipe, 20)
    (tmp_path / "whole").mkdir()
    with RunFolder(tmp_path / "whole").lock():
        child = verb._Python(tmp_path, "whole")
        with pytest.raises(SfumatoError, match="another process is training in"):
            verb._finish(child)


@pytest.mark.parametrize(("arguments", "words"), [({"kills": 0}, "--kills"), ({"steps": 3}, "--steps")])
def test_numbers_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        verify_resume(data(), options=OPTIONS, **arguments)


def test_data_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError):
        verify_resume(tmp_path / "nothing.npz", options=OPTIONS)


def test_the_data_are_few_but_make_more_than_two_epochs(recipe, tmp_path):
    verb.write_task(tmp_path, recipe, 20)
    files = store.read_folder(tmp_path / verb.TASK)
    rows = verb.unpack(files["data.safetensors"], "data")["train.x"].shape[0]
    batch = recipe.config.batch_size
    assert rows < len(recipe.dataset.rows("train"))
    assert 2 < 20 / -(-rows // batch) < 3
    assert rows % batch, "the last batch is a small one"


def test_nothing_is_left_running_after_an_interruption(recipe, monkeypatch):
    started = []

    def start(root, name):
        started.append(forked(root, name))
        return started[-1]

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "_wait_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prove(recipe, kills=1, steps=20, launch=start)
    assert [child.returncode for child in started] in ([0, -signal.SIGKILL], [0, 0])
