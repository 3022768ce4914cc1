"""The loop on a good day: every example once, noise that follows from the step, one objective, what a time buys."""

import ast
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from training_helpers import BATCH, COUNT, DIM, KINDS, Hears, everything, tiny, trainer

import sfumato
from sfumato.core.errors import UserError
from sfumato.core.interfaces import ObjectiveOutput
from sfumato.core.schedules import WarmUp
from sfumato.data import InMemory
from sfumato.objectives import ELBO
from sfumato.training import Trainer, budget, runtime
from sfumato.training.runtime import open_runtime
from sfumato.training.validation import validate

EPOCH = -(-COUNT // BATCH)


class Counted:
    """Examples that note which of them were asked for."""

    def __init__(self, examples):
        self.examples, self.asked = examples, []
        self.shape = examples.shape

    def __len__(self):
        return len(self.examples)

    def batch(self, indices):
        self.asked.append(indices.tolist())
        return self.examples.batch(indices)


def counted(m, o, t, v, p):
    return m, o, Counted(t), v, p


# --- data and noise ---


def test_every_example_comes_once_an_epoch_in_another_order(tmp_path):
    run = trainer(change=counted)
    run.fit()
    epochs = [run.train.asked[at : at + EPOCH] for at in range(0, 60 - EPOCH + 1, EPOCH)]
    assert len(epochs) == 4
    orders = [[index for batch in epoch for index in batch] for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert sorted(order) == list(range(COUNT))
        assert [len(batch) for batch in epoch] == [BATCH] * (EPOCH - 1) + [COUNT % BATCH]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != list(range(COUNT))


def test_the_batch_is_a_function_of_the_seed_and_the_step_alone():
    run = trainer(change=counted)
    for step in (40, 3, 40, 17, 3):
        run._step(step)
    first, again = (run.train.asked[at] for at in (0, 2))
    assert first == again
    assert run.train.asked[1] == run.train.asked[4]
    straight = trainer(change=counted)
    straight.fit()
    assert straight.train.asked[40] == first
    other = trainer(change=counted, seed=6)
    other._step(40)
    assert other.train.asked[0] != first


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_step_twice_has_the_same_loss(kind):
    run = trainer(kind=kind)
    indices = run._order(7)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(run._differentiate(indices, 7, 1.0).output.losses["model"])
        torch.rand(seed)
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], run._differentiate(indices, 8, 1.0).output.losses["model"])
    run.state.guard.recoveries = 1
    assert not torch.equal(losses[0], run._differentiate(indices, 7, 1.0).output.losses["model"]), (
        "a recovery draws other noise"
    )


def test_a_fit_leaves_torchs_random_state_alone(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    trainer(tmp_path / "run").fit()
    assert torch.equal(torch.get_rng_state(), before)


def test_two_fits_are_the_same_bit_for_bit_whatever_the_global_seed():
    torch.manual_seed(1)
    (first := trainer(kind="iwae")).fit()
    torch.manual_seed(2)
    (second := trainer(kind="iwae")).fit()
    assert everything(first) == everything(second)


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_is_refused(empty):
    def change(m, o, t, v, p):
        none = InMemory(t.x[:0], t.y[:0])
        return (m, o, none, v, p) if empty == "train" else (m, o, t, none, p)

    with pytest.raises(UserError, match="training needs examples for training and for validation"):
        trainer(change=change)


# --- objective, means, gradient ---


class Position(ELBO):
    """Loss and value of an example are known: its class number."""

    def forward(self, terms, step):
        out = super().forward(terms, step)
        known = terms.y.float() + 10
        return ObjectiveOutput({"model": out.losses["model"] * 0 + known}, {"known": known})


def test_defect_5_the_last_small_batch_counts_what_it_should(tmp_path):
    """Train and validation means are over examples, not over batches: 1,003 of the latter are two batches and three."""

    def change(m, o, t, v, p):
        y = torch.arange(COUNT) % 3
        many = InMemory(torch.zeros(1003, DIM, dtype=torch.uint8), (torch.arange(1003) >= 1000).long() * 2)
        return m, Position(), InMemory(t.x, y), many, p

    run = trainer(tmp_path / "run", change=change, log_every=EPOCH, steps=EPOCH)
    run.fit()
    lines = run.folder.metrics.read()
    train = next(line for line in lines if line["split"] == "train")
    assert train["known"] == pytest.approx(10 + sum(i % 3 for i in range(COUNT)) / COUNT, abs=1e-12)
    held_out = next(line for line in lines if line["split"] == "validation")
    assert held_out["known"] == pytest.approx(10 + 6 / 1003, abs=1e-12)


def test_defect_3_validation_and_training_report_the_same_objective_at_the_same_beta(tmp_path):
    """With one batch that is both splits, and no learning, both lines of a step are the same numbers."""

    def change(m, o, t, v, p):
        return m, ELBO(beta=3.0, schedule=WarmUp(8)), t, v, p

    run = trainer(tmp_path / "run", kind="optimal", change=change, evaluate_every=2, log_every=2, steps=8)
    seen = []
    right = ELBO.forward

    def forward(self, terms, step):
        out = right(self, terms, step)
        rate = out.losses["model"] + terms.log_likelihood.mean(0)
        seen.append((self.training, step, float((rate / terms.kl.sum(0)).mean().detach())))
        return out

    ELBO.forward = forward
    try:
        run.fit()
    finally:
        ELBO.forward = right
    for _, step, beta in seen:
        assert beta == pytest.approx(3.0 * min(1, step / 8), rel=1e-4, abs=1e-4)
    assert {step for _, step, _ in seen} == {0, 1, 2, 3, 4, 5, 6, 7, 8}
    lines = run.folder.metrics.read()
    names = [{*line} - {"skipped", "split", "step"} for line in lines]
    assert all(found == names[0] for found in names), "one set of names in both splits"
    assert "loss" in names[0]


def test_defect_6_a_value_that_is_not_finite_is_in_the_mean(tmp_path):
    class Odd(Position):
        def forward(self, terms, step):
            out = super().forward(terms, step)
            return ObjectiveOutput(
                out.losses, {"known": out.values["known"].clone().index_fill_(0, torch.tensor(0), float("nan"))}
            )

    def change(m, o, t, v, p):
        return m, Odd(), InMemory(t.x, t.y.clamp(min=0)), InMemory(v.x, v.y.clamp(min=0)), p

    run = trainer(tmp_path / "run", change=change, steps=4)
    heard = []
    run.listener.on_metrics = heard.append
    run.fit()
    assert {line["split"] for line in heard} == {"train", "validation"}
    for line in heard:
        assert line["known"] != line["known"]
    assert all(line["known"] is None for line in run.folder.metrics.read())


def test_defect_9_clipping_is_after_the_backward_pass_and_before_the_step(monkeypatch):
    run, log = trainer(clip_norm=0.01), []
    right_clip, right_step = nn.utils.clip_grads_with_norm_, run.state.optimizer.step

    def clip(parameters, limit, norm):
        parameters = list(parameters)
        assert all(parameter.grad is not None for parameter in parameters), "after the backward pass"
        log.append("clip")
        return right_clip(parameters, limit, norm)

    def step():
        norm = torch.cat([parameter.grad.flatten() for parameter in run.model.parameters()]).norm()
        log.append(("step", float(norm)))
        return right_step()

    monkeypatch.setattr("sfumato.training.loop.nn.utils.clip_grads_with_norm_", clip)
    run.state.optimizer.step = step
    assert run._step(5) == "accept"  # at step 0 the KL weighs nothing, and the prior's means have no gradient
    assert log[0] == "clip"
    assert log[1] == ("step", pytest.approx(0.01, rel=1e-3))
    assert run.state.guard.log_norms[0] > 0, "the guard judges the norm before it is cut"


@pytest.mark.parametrize("variance", ["shared", "per_dimension"])
def test_defect_11_a_learned_variance_is_in_the_optimizer(variance):
    parts = list(tiny("optimal", variance=variance))
    run = trainer(change=lambda *_: parts)
    held = {id(parameter) for group in run.state.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in run.model.parameters()}
    before = run.model.likelihood.log_variance.detach().clone()
    for step in range(5):
        run._step(step)
    assert not torch.equal(before, run.model.likelihood.log_variance)


def test_defect_15_bf16_is_for_training_steps_only(monkeypatch, tmp_path):
    """Weights, moments and averages stay float32; evaluation is outside autocast."""
    seen = []
    right = nn.Linear.forward

    def forward(self, x):
        out = right(self, x)
        seen.append((torch.is_grad_enabled(), out.dtype))
        return out

    monkeypatch.setattr(nn.Linear, "forward", forward)
    run = trainer(tmp_path / "run", precision="bf16", steps=20)
    outcome = run.fit()
    assert outcome.finished
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for training, dtype in seen if not training} == {torch.float32}
    tensors, _ = run.state.capture()
    floats = [value for named in tensors.values() for value in named.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} <= {torch.float32, torch.float64}
    assert run._differentiate(run._order(0), 0, 1.0).output.losses["model"].dtype == torch.float32


def test_validation_is_the_same_at_every_call_and_leaves_the_mode():
    model, objective, _, validation, preprocessing = tiny()
    arguments = (model, objective, validation, preprocessing, 5, 60, 0, torch.device("cpu"))
    model.train()
    first = validate(*arguments)
    torch.manual_seed(99)
    assert validate(*arguments) == first
    assert model.training
    assert first["loss"] < first["final_loss"], "the KL is still warming up"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_average_is_what_is_evaluated_kept_and_delivered(tmp_path):
    run = trainer(tmp_path / "run", kind="iwae")
    outcome = run.fit()
    best = run.checkpoints.load(outcome.best_step)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, best.tensors["ema"][name])
        assert not torch.equal(value, best.tensors["model"][name])
    assert not run.model.training


def test_without_an_average_the_current_weights_are_evaluated(tmp_path):
    run = trainer(tmp_path / "run", ema_decay=0.0, steps=21)
    run.fit()
    tensors = run.checkpoints.latest().tensors
    assert all(torch.equal(value, tensors["model"][name]) for name, value in tensors["ema"].items())


def test_a_listener_hears_everything():
    class All(Hears):
        def __init__(self):
            super().__init__()
            self.starts, self.steps, self.lines = [], [], []

        def on_start(self, *numbers):
            self.starts.append(numbers)

        def on_step(self, step):
            self.steps.append(step)

        def on_metrics(self, line):
            self.lines.append(line)

        def on_evaluation(self, line, model):
            return {"added": line["step"]}

    listener = All()
    trainer(listener=listener).fit()
    assert listener.starts == [(0, 60, BATCH)]
    assert listener.steps == list(range(1, 61))
    assert [line["added"] for line in listener.lines if "added" in line] == [0, 12, 24, 36, 48, 60]


# --- a time budget ---


def test_measuring_leaves_the_model_and_the_random_state_untouched():
    model, objective, train, validation, preprocessing = tiny("optimal")
    run = trainer(kind="optimal", steps=10**6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, mode = torch.get_rng_state(), model.training
    steps = budget.steps_in(1.0, model, objective, train, validation, preprocessing, run.config)
    assert steps >= 1
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == mode
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_longer_time_buys_more_steps(monkeypatch):
    """On a clock of its own: a step takes 10 ms, an evaluation 100 ms, whatever this machine is doing."""
    clock = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])

    def takes(seconds):
        def work(self, *args):
            clock[0] += seconds

        return work

    monkeypatch.setattr(Trainer, "measured_step", takes(0.01))
    monkeypatch.setattr(Trainer, "measured_evaluation", takes(0.1))
    parts = tiny()
    config = trainer(steps=1000, evaluate_every=100).config
    measured = [budget.steps_in(seconds, *parts, config) for seconds in (0.1, 2.0, 10.0, 100.0)]
    assert measured[0] == 1
    assert measured[1:] == [pytest.approx((0.92 * seconds - 11 * 0.1) / 0.01, abs=2) for seconds in (2.0, 10.0, 100.0)]


# --- the runtime ---


def test_only_the_runtime_knows_accelerate_and_only_its_partial_state():
    root = Path(sfumato.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "accelerate" for name in names):
                assert path == root / "training" / "runtime.py"
                assert [alias.name for alias in node.names] == ["PartialState"]


def test_a_state_of_accelerate_that_exists_is_taken_over():
    from accelerate import PartialState

    before = PartialState()
    opened = open_runtime("float32")
    assert opened.device == before.device
    assert (opened.processes.rank, opened.processes.count, opened.bf16) == (0, 1, False)
    assert open_runtime("float32") == opened


def test_opening_a_runtime_changes_nothing_global():
    state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    open_runtime("auto")
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("has", [False, True])
def test_bf16_auto_follows_the_hardware(has, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has, raising=False)
    if open_runtime("float32").device.type != "cpu":
        pytest.skip("not on the processor")
    assert open_runtime("auto").bf16 == has
    assert open_runtime("bf16").bf16
    assert not open_runtime("float32").bf16
    assert ("bf16" in open_runtime("auto").describe()) == has


def test_a_processor_of_another_kind_has_no_fast_bf16():
    assert not runtime.has_fast_bf16(torch.device("meta"))


def test_time_used_adds_up_over_sessions(tmp_path):
    run = trainer(tmp_path / "run", steps=21)
    begin = time.monotonic()
    outcome = run.fit()
    assert 0 < outcome.seconds <= time.monotonic() - begin
    again = trainer(tmp_path / "run", steps=21)
    again.resume()
    assert again.fit().seconds >= run.checkpoints.latest().state["training"]["seconds"]
