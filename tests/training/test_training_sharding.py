"""Weights that are spread over processes: the numbers of one process, less memory, one writer, exact resume."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from process_helpers import Team, distance, exact_trainer, together
from test_training_processes import SHORT, fitted, nearly, poison
from torch import nn
from torch.distributed.tensor import DTensor
from training_helpers import At, Hears, everything, terminate, trainer

from sfumato.core.errors import Diverged, UserError
from sfumato.core.processes import Lost
from sfumato.training import Trainer, sharding

SHARDED = {**SHORT, "batch_size": 40, "shard": True}
KINDS = ("dirac", "conditional", "iwae", "optimal")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    """The tiny models have no layer of 4,096 numbers; those of fewer than 100 stay whole."""
    monkeypatch.setattr(sharding, "LEAST", 100)


def spread(run):
    """Return the names of the weights that are spread."""
    return [name for name, value in run.state.model.named_parameters() if isinstance(value, DTensor)]


def last(run):
    """Return :func:`fitted` with the last weights, where one process would have loaded the best ones over them."""
    run.state.deliver = lambda model: model
    return fitted(run)


# --- N processes are one ---


@pytest.mark.parametrize(("count", "kinds"), [(2, KINDS), (3, ("optimal",))])
def test_spread_weights_are_those_of_one_process(count, kinds):
    """Float64, clipping and decay; rows that do not divide, and for three processes one without any."""

    def work(rank):
        found = {}
        for kind in kinds:
            run = exact_trainer(kind, **SHARDED, clip_norm=5.0)
            names = spread(run)
            assert isinstance(next(run.delivered.parameters()), nn.Parameter)
            found[kind] = {**last(run), "spread": names}
        return found

    found = together(count, work)
    for kind in kinds:
        alone = last(exact_trainer(kind, **{**SHARDED, "shard": False}, clip_norm=5.0))
        first = found[0][kind]
        assert any("decoder" in name for name in first["spread"])
        assert kind == "dirac" or any("trunk" in name for name in first["spread"])
        assert distance(first["numbers"], alone["numbers"]) < 1e-10, kind
        nearly(first["lines"], alone["lines"])
        for other in found[1:]:
            assert other[kind]["best"] == first["best"] == pytest.approx(alone["best"], rel=1e-10)
            assert not any(other[kind]["numbers"].values()), "the first process alone has whole weights"


def test_the_delivered_model_is_whole_and_the_same_everywhere():
    def work(rank):
        run = exact_trainer("conditional", **SHARDED)
        run.fit()
        assert run.model is run.delivered
        return [value.tolist() for value in run.model.state_dict().values()]

    one, other = together(2, work)
    alone = exact_trainer("conditional", **{**SHARDED, "shard": False})
    alone.fit()
    assert one == other
    for value, expected in zip(one, alone.model.state_dict().values(), strict=True):
        assert torch.allclose(torch.tensor(value).double(), expected.double(), atol=1e-10)


def test_every_process_keeps_its_part():
    """Weights, averages and moments: 1 / N of what is spread."""

    def work(rank):
        run = trainer(**SHARDED)
        run.measured_step(0)
        state = run.state
        moments = [each for kept in state.optimizer.state.values() for name, each in kept.items() if name != "step"]
        kept = [*state.parameters, *state._averaged_parameters, *moments]
        assert all(
            value.untyped_storage().nbytes() <= 4 * value.numel() + 4 * 64 for value in state.parameters if value.ndim
        )
        small = sum(each.numel() for each in state.replicated)
        return [sum(each.numel() for each in kept), sum(each.numel() for each in run.delivered.parameters()), small]

    (one, whole, small), (other, _, _) = together(2, work)
    assert 0 < small < whole / 5
    assert one + other == 4 * (whole + small)
    assert one == other == 2 * (whole - small) + 4 * small, "all rows divide by two"


# --- one writes, all resume ---


@pytest.fixture(scope="module")
def straight(memory):
    def work(rank):
        done = trainer(memory / "sharded", **{**SHARDED, "batch_size": 16})
        done.fit()
        return done.state.step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "LEAST", 100)
        assert together(2, work) == [24, 24]
    return written(memory / "sharded")


def written(path):
    """Return all that the run at ``path`` wrote, as one process reads it."""
    done = trainer(path, **{**SHARDED, "batch_size": 16})
    done.resume()
    done.fit()
    return {name: value if name != "metrics.jsonl" else value.decode() for name, value in everything(done).items()}


def test_a_resumed_run_is_the_same_to_the_last_bit(straight, tmp_path):
    folder = tmp_path / "run"

    def begin(rank):
        listener = At(9, terminate)
        outcome = trainer(folder, listener=listener, **{**SHARDED, "batch_size": 16}).fit()
        return [outcome.step, outcome.finished]

    def end(rank):
        listener = Hears()
        run = trainer(folder, listener=listener, **{**SHARDED, "batch_size": 16})
        step = run.resume()
        run.fit()
        return [step, run.exact, listener.sentences]

    assert together(2, begin) == [[10, False]] * 2
    assert together(2, end) == [[10, True, []]] * 2
    assert written(folder) == straight


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_processes_goes_on(before, after, tmp_path):
    whole = last(exact_trainer("dirac", **SHARDED))["numbers"]

    def begin(rank=0):
        exact_trainer("dirac", tmp_path / "run", listener=At(9, terminate), **SHARDED).fit()

    def end(rank=0):
        listener = Hears()
        run = exact_trainer("dirac", tmp_path / "run", listener=listener, **SHARDED)
        run.resume()
        return [listener.sentences, last(run)["numbers"]]

    begin() if before == 1 else together(before, begin)
    found = [end()] if after == 1 else together(after, end)
    assert any("bit-exact not promised" in sentence and "spread weights" in sentence for sentence in found[0][0])
    assert distance(found[0][1], whole) < 1e-10


# --- steps that go wrong ---


def test_a_bad_step_of_one_is_skipped_by_all():
    def work(rank):
        hits = poison(rank, (7,))
        run = trainer(**SHARDED)
        found = fitted(run)
        return [run.state.guard.skipped, len(hits), found["numbers"]]

    first, second = together(2, work)
    assert (first[0], second[0]) == (1, 1)
    assert (first[1], second[1]) == (0, 1)
    assert all(math.isfinite(value) for values in first[2].values() for value in values)


def test_three_bad_steps_take_all_back_to_the_good_state(tmp_path):
    """The state that they go back to is that of step 6: the same steps then give the same weights."""

    def work(rank):
        hits = poison(rank, (8, 9, 10), times=3)
        seen = {}

        def look(self, good_tensors, plain, right=sharding.SpreadState.restore):
            right(self, good_tensors, plain)
            seen[self.step] = self.current.whole()

        sharding.SpreadState.restore = look
        kept = {}

        def capture(self, right=sharding.SpreadState.capture):
            found = right(self)
            kept[self.step] = found[0]["model"]
            return found

        sharding.SpreadState.capture = capture
        run = trainer(tmp_path / "run", **SHARDED)
        run.fit()
        same = all(torch.equal(seen[6][name], kept[6][name]) for name in kept[6])
        return [run.state.guard.recoveries, run.state.step, len(hits), list(seen), same]

    assert together(2, work) == [[1, 24, 0, [6], True], [1, 24, 3, [6], True]]


def test_a_weight_that_became_infinite_in_one_process_is_noticed_by_all(tmp_path):
    def work(rank):
        listener = Hears()

        def spoil(self, right=sharding.SpreadState.average):
            right(self)
            if rank == 1 and self.step == 10:  # it has 11 steps then, and a checkpoint is due at 12
                own = next(
                    each for each in self.parameters if each.numel() and not any(each is x for x in self.replicated)
                )
                own.view(-1)[0] = math.inf

        sharding.SpreadState.average = spoil
        with pytest.raises(Diverged):
            trainer(tmp_path / "run", listener=listener, **SHARDED).fit()
        return [sentence for sentence in listener.sentences if "a weight became infinite" in sentence]

    first, _ = together(2, work)
    assert len(first) == 5


def test_a_lost_process_ends_all_with_the_last_checkpoint(tmp_path):
    def work(rank):
        def step(self, number, right=Trainer._step):
            if (rank, number) == (1, 15):
                os.kill(os.getpid(), signal.SIGKILL)
            return right(self, number)

        Trainer._step = step
        try:
            trainer(tmp_path / "run", **SHARDED).fit()
        except Lost as error:
            return str(error)

    team = Team(2, work)
    team.codes()
    assert "another process of this training ended" in team.result(0)
    assert "The checkpoint of step 12 is good; go on with --resume." in team.result(0)


# --- what is looked at, what is refused ---


def test_pictures_are_drawn_from_a_whole_model():
    def work(rank):
        seen = []
        listener = Hears()
        listener.on_evaluation = lambda line, model: (
            seen.append(
                [
                    line["step"],
                    sum(value.numel() for value in model.parameters()),
                    float(model.sample(2, generator=1).sum()),
                ]
            )
            or {}
        )
        run = trainer(listener=listener, **SHARDED)
        run.fit()
        return seen

    found, nothing = together(2, work)
    assert nothing == []
    assert [step for step, _, _ in found] == [0, 12, 24]
    assert all(count == sum(value.numel() for value in trainer().model.parameters()) for _, count, _ in found)
    assert len({total for _, _, total in found}) == 3, "the weights change"


def test_a_compiled_step_of_spread_weights_is_refused():
    def work(rank):
        with pytest.raises(UserError, match="--shard"):
            trainer(engine="compiled", **SHARDED).choose_engine()

    together(2, work)


def test_layers_that_share_a_weight_or_are_small_stay_whole():
    one, other, small = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(2, 2)
    other.weight = one.weight
    alone = nn.Linear(20, 20)
    assert sharding.large_layers(nn.ModuleList([one, other, small, alone])) == [alone]


def test_one_process_keeps_everything():
    run = trainer(**SHARDED)
    assert not run.state.spread
    assert json.dumps(run._made_by()).count("spread") == 0
    assert replace(run.config, shard=False) != run.config
