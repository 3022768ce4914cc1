"""Several processes: the gradients of one, one writer, one decision, and a resume to the last bit."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from process_helpers import Team, distance, exact_trainer, numbers, together
from training_helpers import At, Crash, Hears, everything, trainer

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.processes import Differs, Heard, Lost, Processes
from sfumato.training import Trainer, validation
from sfumato.training.engine import Engine

NAN = float("nan")
SHORT = {"steps": 24, "log_every": 2, "evaluate_every": 12, "checkpoint_every": 6}


def fitted(trained):
    """Return what all must agree on after a training, and what it wrote to the metrics."""
    lines = []
    trained.keeper.write = lines.append
    outcome = trained.fit()
    return {"numbers": numbers(trained), "lines": lines, "step": outcome.step, "best": outcome.best_value}


def nearly(one, other):
    assert [sorted(line) for line in one] == [sorted(line) for line in other]
    for line, expected in zip(one, other, strict=True):
        for name, value in expected.items():
            right = value if isinstance(value, str) else pytest.approx(value, rel=1e-10, abs=1e-10)
            assert line[name] == right, (name, line["step"])


# --- N processes are one ---


EXACT = {**SHORT, "batch_size": 40, "clip_norm": 5.0}


@pytest.fixture(scope="module")
def alone():
    """What one process finds, by kind, which is another thing for another seed."""
    found = {}
    for kind in ("dirac", "exemplars", "conditional", "iwae", "optimal"):
        found[kind], other = (fitted(exact_trainer(kind, **EXACT, seed=seed)) for seed in (5, 6))
        assert distance(found[kind]["numbers"], other["numbers"]) > 1e-4
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_processes_equal_one(count, alone):
    """T15: float64, batches that do not divide, a last batch with fewer examples than processes; clipping, decay."""

    def work(rank):
        return {kind: fitted(exact_trainer(kind, **EXACT)) for kind in alone}

    found = together(count, work)
    for kind, expected in alone.items():
        for each in found:
            assert distance(each[kind]["numbers"], expected["numbers"]) < 1e-10, kind
            assert each[kind]["numbers"] == found[0][kind]["numbers"]
            nearly(each[kind]["lines"], expected["lines"])
            assert each[kind]["best"] == pytest.approx(expected["best"], rel=1e-10)


def test_every_example_of_a_batch_once():
    """T14: whatever the number of processes, their parts are the batch, in its order."""
    for size in (1, 2, 3, 5, 16, 17):
        batch = torch.arange(100, 100 + size)
        for count in (1, 2, 3, 4, 7):
            parts = [Processes(rank, count).part(batch) for rank in range(count)]
            assert torch.equal(torch.cat([own for own, counts in parts if counts]), batch)
            assert all(len(own) for own, _ in parts), "every process computes something"
            sizes = [len(own) if counts else 0 for own, counts in parts]
            assert max(sizes) - min(sizes) <= 1


def test_a_part_without_a_gradient_somewhere_has_one_everywhere():
    from sfumato.training.gradients import Gradients

    def work(rank):
        used, once, never = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
        used.grad = torch.full((2,), 1.0 + rank)
        once.grad = torch.full((2,), 5.0) if rank == 1 else None
        processes = Processes(rank, 2)
        gradients = Gradients([used, once, never], processes)
        totals = gradients.add_up(torch.tensor(0.5), {"elbo": torch.ones(3)}, True, 15 if rank else None)
        found = [float(totals.loss), float(totals.sums["elbo"]), totals.signal]
        return [used.grad.tolist(), once.grad.tolist(), never.grad, *found]

    assert together(2, work) == [[[3.0, 3.0], [5.0, 5.0], None, 1.0, 6.0, 15]] * 2


def test_validation_is_that_of_one_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(validation, "BATCH", 5)
    alone = trainer()._validate()
    assert together(3, lambda rank: trainer()._validate()) == [alone] * 3
    monkeypatch.setattr(validation, "BATCH", 500)  # one batch for two processes
    alone = trainer()._validate()
    assert together(2, lambda rank: trainer()._validate()) == [alone] * 2


def test_processes_draw_noise_of_their_own():
    def work(rank):
        run = trainer(kind="optimal")
        indices = torch.arange(16)  # the same examples in both
        run._coupling.count(True)
        return run._differentiate(indices, 0, 1.0).output.values["elbo"].tolist()

    one, other = together(2, work)
    assert one != other


# --- one decides, one writes ---


def test_the_first_one_writes(tmp_path):
    def work(rank):
        listener = Hears()
        listener.on_evaluation = lambda line, model: {"drawn": 1.0}
        run = trainer(tmp_path / "run", listener=listener, **SHORT)
        opened, right = [], os.open
        os.open = lambda path, *rest, **more: opened.append(str(path)) or right(path, *rest, **more)
        run.fit()
        return sorted({Path(path).name for path in opened})

    first, second = together(2, work)
    assert "metrics.jsonl" in first
    assert second == []
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(2, 25, 2))
    assert [line["drawn"] for line in lines if line["split"] == "validation"] == [1.0] * 3
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints"))[-1] == "step-00000024"


def test_an_error_of_the_first_is_one_everywhere():
    def work(rank):
        def fails():
            assert rank == 0
            raise UserError("runs/a exists.")

        try:
            Processes(rank, 2).ask(fails)
        except SfumatoError as error:
            return [type(error).__name__, str(error), error.exit_code]

    assert together(2, work) == [["UserError", "runs/a exists.", 2], [Heard.__name__, "runs/a exists.", 2]]


def test_the_first_one_chooses_the_engine():
    def work(rank):
        run = trainer(engine="compiled")
        run.engine.ways = lambda compiled: run.engine.__class__.ways(run.engine, False)
        chosen = []

        def choose(trial, seconds, asked):
            chosen.append(rank)
            trial()
            run.engine.way = replace(run.engine.way, onednn=True)
            return "engine: chosen"

        run.engine.choose = choose
        run.choose_engine()
        return [chosen, str(run.engine.way)]

    assert together(2, work) == [[[0], "eager, oneDNN"], [[], "eager, oneDNN"]]


def test_an_optimal_variance_is_not_compiled():
    def work(rank):
        with pytest.raises(UserError, match="spread over processes"):
            trainer(kind="optimal", engine="compiled").choose_engine()

    together(2, work)


def test_the_number_of_steps_in_a_time_is_decided_once():
    from sfumato.training.budget import steps_in

    def work(rank):
        run = trainer()
        parts = (run.model, run.objective, run.train, run.validation, run.preprocessing, run.config)
        return steps_in(0.2 + rank, *parts)

    one, other = together(2, work)
    assert one == other >= 1


# --- steps that go wrong ---


def poison(rank, steps, times=math.inf):
    """Let the loss of one example of the second process be NaN."""
    right, hits = Engine._compute, []

    def compute(self, raw, y, step):
        output = right(self, raw, y, step)
        if rank == 1 and step in steps and len(hits) < times:
            hits.append(step)
            loss = output.losses["model"]
            return replace(output, losses={"model": loss + torch.tensor([NAN] + [0.0] * (len(loss) - 1))})
        return output

    Engine._compute = compute
    return hits


def test_one_process_has_a_bad_step_and_all_skip_it():
    """T16: the example is named by a process that does not have it."""

    def work(rank):
        hits = poison(rank, (7,))
        run = trainer(**SHORT)
        found = fitted(run)
        place = int(run.processes.part(run._order(7))[0][0])
        return [run.state.guard.skipped, run._trouble, place, len(hits), found["numbers"]]

    first, second = together(2, work)
    assert first[0] == second[0] == 1
    assert (first[3], second[3]) == (0, 1)
    assert first[1] == second[1] == f"the model's loss became NaN (first in training example {second[2]})"
    assert first[4] == second[4]
    assert all(math.isfinite(value) for values in first[4].values() for value in values)


def test_three_bad_steps_in_one_process_take_all_back(tmp_path):
    def work(rank):
        hits = poison(rank, (8, 9, 10), times=3)
        run = trainer(tmp_path / "run", **SHORT)
        run.fit()
        return [run.state.guard.recoveries, run.state.step, len(hits)]

    assert together(2, work) == [[1, 24, 0], [1, 24, 3]]


def test_a_flipped_bit_is_found_and_the_process_named(tmp_path):
    """T19."""

    def work(rank):
        def flip(self, step, right=Trainer._step):
            verdict = right(self, step)
            if (rank, step) == (2, 14):
                bits = next(self.model.parameters()).data.view(torch.int32)
                bits.view(-1)[5] ^= 1
            return verdict

        Trainer._step = flip
        with pytest.raises(Differs) as caught:
            trainer(tmp_path / "run", **SHORT).fit()
        return str(caught.value)

    first, *others = together(3, work)
    assert "step 18: the weights of process 2 of 3 differs from that of the others" in first
    assert "The checkpoint of step 12 is good" in first
    assert all("process 2 of 3" in each for each in others)


# --- interruptions ---


def state_of(path, **arguments):
    """Return everything of a run of two processes that is at its end."""
    done = trainer(path, **arguments, **SHORT)
    done.resume()
    return {name: value if name != "metrics.jsonl" else value.decode() for name, value in everything(done).items()}


@pytest.fixture(scope="module")
def straight_two(memory):
    def work(rank):
        done = trainer(memory / "two", **SHORT)
        done.fit()
        return done.state.step

    assert together(2, work) == [24, 24]
    return state_of(memory / "two")


def resumed_two(folder):
    def work(rank):
        run = trainer(folder, **SHORT)
        step = run.resume()
        run.fit()
        return step

    return together(2, work)


def test_a_signal_to_one_process_stops_all_at_the_same_step(straight_two, tmp_path):
    folder = tmp_path / "run"

    def work(rank):
        def step(self, number, right=Trainer._step):
            if (rank, number) == (1, 9):
                signal.raise_signal(signal.SIGTERM)
            return right(self, number)

        Trainer._step = step
        outcome = trainer(folder, **SHORT).fit()
        return [outcome.step, outcome.signal, outcome.finished]

    assert together(2, work) == [[10, signal.SIGTERM, False]] * 2
    assert sorted(os.listdir(folder / "checkpoints"))[-1] == "step-00000010"
    assert resumed_two(folder) == [10, 10]
    assert state_of(folder) == straight_two


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_with_a_good_checkpoint(victim, straight_two, tmp_path):
    folder = tmp_path / "run"

    def work(rank):
        def step(self, number, right=Trainer._step):
            if (rank, number) == (victim, 15):
                os.kill(os.getpid(), signal.SIGKILL)
            return right(self, number)

        Trainer._step = step
        try:
            trainer(folder, **SHORT).fit()
        except Lost as error:
            return str(error)

    team = Team(2, work)
    team.codes()
    said = team.result(1 - victim)
    assert "another process of this training ended" in said
    good = 15 if victim else 12  # the first one saves what it has
    assert victim == 0 or f"The checkpoint of step {good} is good; go on with --resume." in said
    assert resumed_two(folder) == [good, good]
    assert state_of(folder) == straight_two


def test_a_crash_of_the_first_is_noticed(tmp_path):
    def work(rank):
        listener = At(9, lambda: (_ for _ in ()).throw(Crash()))
        try:
            trainer(tmp_path / "run", listener=listener, **SHORT).fit()
        except (Crash, Lost) as error:
            if isinstance(error, Crash):
                os._exit(1)
            return type(error).__name__

    team = Team(2, work)
    assert team.codes() == [1, 0]
    assert team.result(1) == "Lost"


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_processes_goes_on_with_the_same_batches(before, after, tmp_path):
    settings = {**SHORT, "batch_size": 40}
    whole = exact_trainer("dirac", **settings)
    whole.fit()

    def begin(rank=0):
        exact_trainer(
            "dirac", tmp_path / "run", listener=At(9, lambda: signal.raise_signal(signal.SIGTERM)), **settings
        ).fit()

    def end(rank=0):
        listener = Hears()
        run = exact_trainer("dirac", tmp_path / "run", listener=listener, **settings)
        step = run.resume()
        run.fit()
        return [step, listener.sentences, numbers(run)]

    begin() if before == 1 else together(before, begin)
    found = [end()] if after == 1 else together(after, end)
    assert [each[0] for each in found] == [9 if before == 1 else 10] * after
    assert any("bit-exact not promised" in sentence and "2 processes" in sentence for sentence in found[0][1])
    for each in found:
        assert distance(each[2], numbers(whole)) < 1e-10
