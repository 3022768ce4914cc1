"""Runs that share their steps: each is the run that a Trainer makes by itself, whatever becomes of the others."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_helpers import (
    CONFIG,
    DIM,
    KINDS,
    At,
    Hears,
    everything,
    tiny,
    with_convolutions,
)

from sfumato.core.errors import Diverged
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.io.run import RunFolder
from sfumato.objectives import ELBO, IWAE, NaivePenalty
from sfumato.training import Outcome, Trainer, several
from sfumato.training.draws import draws_of
from sfumato.training.guard import Guard
from sfumato.training.several import fit_several, grouped

BETAS = (0.5, 1.0, 4.0, 1.0)
RATES = (1e-2, 3e-3, 1e-2, 5e-3)
SHORT = replace(CONFIG, steps=30, batch_size=29, schedule=WarmUpCosine(30, warmup=5), evaluate_every=6)


class Grey(nn.Module):
    """Raw values as float64; bytes to [0, 1]."""

    def forward(self, raw):
        return raw.double() / (255 if raw.dtype == torch.uint8 else 1)


class Binary(nn.Module):
    """A new draw of 0 and 1 for every batch, float64."""

    def forward(self, raw):
        return (torch.rand(raw.shape, dtype=torch.float64) < raw.double() / 255).double()


@pytest.fixture(autouse=True)
def _always(monkeypatch):
    """Share steps whether it is faster or not: these models are too tiny to tell."""
    monkeypatch.setattr(several, "BETTER", 0.0)
    monkeypatch.setattr(several, "WORTH", 0)


def made(number, kind="conditional", folder=None, listener=None, change=None, **config):
    """Return run ``number`` of several, in float64: its own weights, seed, beta and learning rate."""
    model, objective, train, validation, _ = tiny(kind, seed=3 + number)
    if kind != "iwae":
        objective = ELBO(beta=BETAS[number % 4], schedule=WarmUp(10))
    preprocessing = Grey() if kind == "optimal" else Binary()
    parts = [model.double(), objective, train, validation, preprocessing]
    parts = list(change(*parts)) if change else parts
    run = None
    if folder is not None:
        run = RunFolder(folder / str(number))
        run.path.mkdir(exist_ok=True, parents=True)
    config = {"learning_rate": RATES[number % 4], "seed": number} | config
    return Trainer(*parts, replace(SHORT, **config), run, listener or Hears())


def apart(one, other):
    """Return the largest difference between all numbers of two trainers' states."""
    (tensors, plain), (others, theirs) = one.state.capture(), other.state.capture()
    assert {name: value for name, value in plain.items() if name not in ("seconds", "guard", "best_value")} == {
        name: value for name, value in theirs.items() if name not in ("seconds", "guard", "best_value")
    }
    assert tensors.keys() == others.keys()
    worst = abs(plain["best_value"] - theirs["best_value"])
    for stem, table in tensors.items():
        assert table.keys() == others[stem].keys()
        for name, value in table.items():
            worst = max(worst, float((value.double() - others[stem][name].double()).abs().max()))
    for name, value in one.model.state_dict().items():  # the best averaged weights
        worst = max(worst, float((value - other.model.state_dict()[name]).abs().max()))
    return worst


def numbers(line):
    return [value for value in line.values() if isinstance(value, int | float)]


# --- each is the run that it would be by itself ---


@pytest.mark.parametrize("kind", KINDS)
def test_runs_at_once_are_those_that_trainers_make_by_themselves(kind, tmp_path):
    """Other seeds, betas and learning rates; 30 steps, with clipping, warm-ups and last small batches."""
    size = 32 if kind == "conditional" else 29  # the last batch of an epoch is smaller, or is not
    alone = [made(number, kind, tmp_path / "alone", batch_size=size) for number in range(3)]
    once = [made(number, kind, tmp_path / "once", batch_size=size) for number in range(3)]
    outcomes = [trainer.fit() for trainer in alone]
    ended = fit_several(once)
    assert [trainer.at_once for trainer in once] == [3, 3, 3]
    assert "3 runs at once" in once[0].listener.sentences[0]
    for one, other, outcome, end in zip(alone, once, outcomes, ended, strict=True):
        assert apart(one, other) < 1e-10
        assert (end.step, end.best_step, end.finished) == (outcome.step, outcome.best_step, True)
        lines, others = (trainer.folder.metrics.read() for trainer in (one, other))
        assert len(lines) == len(others)
        for line, its in zip(lines, others, strict=True):
            assert line.keys() == its.keys()
            assert numbers(line) == pytest.approx(numbers(its), rel=1e-10, abs=1e-10)
    weights = [run.state.parameters[0].detach() for run in once]
    assert float((weights[0] - weights[1]).abs().max()) > 1e-3


def test_the_gradients_of_a_step_are_those_of_single_steps():
    """Also where the loss is a sampled bound, and where two weights are varied."""
    for objectives in (
        [IWAE(samples=4)] * 2,
        [NaivePenalty(1.0, 2.0), NaivePenalty(3.0, 0.5)],
        [ELBO(beta=2.0, kl="sampled", samples=2), ELBO(beta=0.1, kl="sampled", samples=2)],
    ):
        runs = [
            made(n, "optimal", change=lambda m, o, *rest, n=n, new=objectives: (m, new[n], *rest)) for n in range(2)
        ]
        assert grouped(runs) == [[0, 1]]
        shared, rows = several.SharedStep(runs), several.Rows([run.state for run in runs])
        found = shared(runs, rows, {0: 3, 1: 5})
        for number, step in ((0, 3), (1, 5)):
            single = several._by_itself(runs[number], step)
            assert found[number].loss == pytest.approx(single.loss, rel=1e-12)
            assert torch.allclose(found[number].gradient, single.gradient, rtol=1e-9, atol=1e-11)
            assert found[number].sums.keys() == single.sums.keys()
            for name, total in single.sums.items():
                assert torch.allclose(found[number].sums[name], total, rtol=1e-10)


def test_convolutions_share_steps_too():
    def change(*parts):
        model, objective, *splits, _ = with_convolutions(*parts)
        return model.double(), objective, *splits, Binary()

    alone, once = ([made(number, change=change, steps=14) for number in range(2)] for _ in range(2))
    for trainer in alone:
        trainer.fit()
    fit_several(once)
    assert once[0].at_once == 2
    assert max(apart(one, other) for one, other in zip(alone, once, strict=True)) < 1e-10


# --- one run goes wrong, or ends, and the others do not notice ---


def poison(monkeypatch, number, steps, times=1):
    """Let the loss and norm of run ``number`` be NaN at ``steps``, ``times`` each."""
    left, judge = dict.fromkeys(steps, times), Guard.judge

    def poisoned(trainers, rows, shared, asked):
        wrong = []
        for row, step in asked.items():
            if trainers[row].config.seed == number and left.get(step, 0):
                left[step] -= 1
                wrong.append(trainers[row].state.guard)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Guard, "judge", lambda guard, *found: judge(guard, *([math.nan] * 2 if guard in wrong else found))
            )
            return advance(trainers, rows, shared, asked)

    advance = several.advance
    monkeypatch.setattr(several, "advance", poisoned)


def test_a_step_that_is_skipped_leaves_the_other_runs_alone(monkeypatch):
    alone = [made(number) for number in range(3)]
    for trainer in alone:
        trainer.fit()
    once = [made(number) for number in range(3)]
    poison(monkeypatch, 1, [7, 20])
    ended = fit_several(once)
    assert [end.skipped for end in ended] == [0, 2, 0]
    assert apart(alone[0], once[0]) < 1e-10
    assert apart(alone[2], once[2]) < 1e-10
    counts = {int(moments["step"]) for moments in once[1].state.optimizer.state.values()}
    assert counts == {28}
    assert all(torch.isfinite(value).all() for value in once[1].model.state_dict().values())


def test_a_run_that_diverges_goes_back_by_itself_and_gives_up_by_itself(monkeypatch, tmp_path):
    alone = [made(number, steps=50) for number in (0, 2)]
    for trainer in alone:
        trainer.fit()
    for times, kind in ((1, Outcome), (99, Diverged)):
        with monkeypatch.context() as patch:
            poison(patch, 1, [13, 14, 15], times)
            once = [made(number, folder=tmp_path / str(times), steps=50) for number in range(3)]
            ended = fit_several(once)
        assert isinstance(ended[1], kind)
        assert once[1].state.guard.recoveries == (1 if kind is Outcome else 5)
        for one, number in zip(alone, (0, 2), strict=True):
            assert isinstance(ended[number], Outcome)
            assert apart(one, once[number]) < 1e-10
    assert "recovery 1 of at most 5" in " ".join(once[1].listener.sentences)


def test_runs_of_other_lengths_of_patience_end_when_they_would(tmp_path):
    lasting = {"steps": 60, "evaluate_every": 12}
    alone, once = ([made(number, patience=1 + 2 * (number > 1), **lasting) for number in range(4)] for _ in range(2))
    outcomes = [trainer.fit() for trainer in alone]
    ended = fit_several(once)
    assert len({end.step for end in outcomes}) > 1, "some end early"
    assert [end.step for end in ended] == [end.step for end in outcomes]
    assert max(apart(one, other) for one, other in zip(alone, once, strict=True)) < 1e-10


# --- checkpoints ---


def test_interrupted_runs_go_on_at_once(tmp_path):
    whole = [made(number, folder=tmp_path / "whole") for number in range(2)]
    fit_several(whole)
    first = [made(number, folder=tmp_path / "cut") for number in range(2)]
    first[1].listener = At(14, lambda: signal.raise_signal(signal.SIGTERM))
    ended = fit_several(first)
    assert [end.signal for end in ended] == [signal.SIGTERM] * 2
    again = [made(number, folder=tmp_path / "cut") for number in range(2)]
    for trainer in again:
        trainer.at_once = 2
        assert trainer.resume() == 15
        assert trainer.exact
    fit_several(again)
    assert [trainer.at_once for trainer in again] == [2, 2]
    for one, other in zip(whole, again, strict=True):
        left, right = everything(one), everything(other)
        assert {name for name in left if left[name] != right[name]} <= {"metrics.jsonl"}
        assert one.folder.metrics.read() == other.folder.metrics.read()


def test_a_run_goes_on_by_itself_and_says_that_the_last_bit_may_differ(tmp_path):
    first = [made(number, folder=tmp_path) for number in range(2)]
    first[0].listener = At(14, lambda: signal.raise_signal(signal.SIGINT))
    fit_several(first)
    whole, again = made(1), made(1, folder=tmp_path)
    again.resume()
    assert not again.exact
    assert "2 runs shared every step" in again.listener.sentences[0]
    whole.fit()
    again.fit()
    assert apart(whole, again) < 1e-10


# --- what cannot share ---


def test_runs_are_grouped_by_what_they_have_in_common():
    runs = [made(0), made(1), made(2, "iwae"), made(3, batch_size=8), made(2)]
    assert grouped(runs) == [[0, 1, 4], [2], [3]]
    none = made(0, change=lambda m, o, *rest: (m, ELBO(beta=0.0, schedule=WarmUp(10)), *rest))
    assert grouped([made(1), none]) == [[0], [1]], "without a KL term there is another computation"


class Shuffles(nn.Module):
    """Draws in a way that is not noted: a permutation of the columns."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.in_shape, self.out_shape, self.sees_label = network.in_shape, network.out_shape, False

    def forward(self, x, y=None):
        return self.network(x, y) + torch.randperm(self.out_shape[0])


class Counts(nn.Module):
    """Remembers its batches, as a batch normalisation does."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM, dtype=torch.float64)


@pytest.mark.parametrize("what", ["draws", "counts", "slower", "frozen"])
def test_what_cannot_be_vectorised_is_trained_one_after_another(what, monkeypatch):
    def change(model, *rest):
        if what == "draws":
            model.posterior.trunk = Shuffles(model.posterior.trunk)
        if what == "counts":
            model.counts = Counts()
        if what == "frozen":
            next(model.parameters()).requires_grad_(False)
        return model, *rest

    if what == "slower":
        monkeypatch.setattr(several, "BETTER", 1e9)
    alone, once = ([made(number, change=change, steps=14) for number in range(2)] for _ in range(2))
    for trainer in alone:
        trainer.fit()
    ended = fit_several(once)
    assert all(end.finished for end in ended)
    assert [trainer.at_once for trainer in once] == [1, 1]
    for one, other in zip(alone, once, strict=True):
        left, right = everything(one), everything(other)
        assert left == right, "bit for bit"
    assert ("one after another" in " ".join(once[0].listener.sentences)) == (what == "draws")


def test_nothing_begins_after_an_interruption():
    runs = [made(0, listener=At(5, lambda: signal.raise_signal(signal.SIGTERM))), made(1, "iwae")]
    ended = fit_several(runs)
    assert ended[0].signal == signal.SIGTERM
    assert ended[1] is None


def test_draws_are_noted_in_their_order_and_nothing_else_is_believed():
    def two():
        return torch.rand(3) + torch.distributions.Normal(torch.zeros(3), 1.0).rsample()

    state = torch.get_rng_state()
    noted = draws_of(two)
    assert torch.equal(torch.get_rng_state(), state)
    assert [draw.normal for draw in noted] == [False, True]
    torch.manual_seed(3)
    drawn = [draw() for draw in noted]
    torch.manual_seed(3)
    assert torch.equal(sum(drawn), two())
    assert draws_of(lambda: torch.bernoulli(torch.full((3,), 0.5))) is None
    assert draws_of(lambda: torch.empty(3).normal_(1.0, 2.0)) is None
