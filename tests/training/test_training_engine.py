"""The ways to compute a step: the same numbers, the fastest kept, nothing of torch's own settings changed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import compiled_check
import pytest
import torch
from training_helpers import At, Hears, terminate, trainer, with_convolutions

from sfumato.core.errors import UserError
from sfumato.training import convolutions
from sfumato.training import engine as engine_module
from sfumato.training.engine import IMAGES, Engine, Way

COMPILED = Way(compiled=True)
ONEDNN = Way(onednn=True)


@pytest.fixture(scope="module")
def compiled():
    program = Path(compiled_check.__file__)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", compiled_check.CHECKS)
def test_a_compiled_step(compiled, check):
    assert not compiled[check], compiled[check]


def test_a_resumed_training_computes_as_it_did_before(tmp_path):
    run = trainer(tmp_path / "run", listener=At(13, terminate))
    run.engine.choose = lambda *arguments: setattr(run.engine, "way", ONEDNN) or "chosen"
    run.config = replace(run.config, engine="compiled")
    run.fit()
    again = trainer(tmp_path / "run", engine="compiled")
    again.resume()
    assert again.engine.way == ONEDNN


class Clock:
    """Lets a trial of each way take the time that it is told."""

    def __init__(self, engine, seconds, values=None):
        self.engine, self.seconds, self.values, self.now, self.seen = engine, seconds, values or {}, 0.0, []

    def trial(self):
        self.now += self.seconds[self.engine.way]
        self.seen.append(self.engine.way)
        if self.engine.way in self.values and isinstance(self.values[self.engine.way], Exception):
            raise self.values[self.engine.way]
        return torch.tensor([100.0 + self.values.get(self.engine.way, 0.0), 3.0])

    def choose(self, monkeypatch, asked="auto", ahead=1e6):
        monkeypatch.setattr(engine_module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(self.engine, "ways", lambda: list(self.seconds))
        return self.engine.choose(self.trial, lambda per_step: ahead, asked)


@pytest.fixture
def plain_engine():
    run = trainer()
    assert isinstance(run.engine, Engine)
    return run.engine


def test_the_fastest_way_is_kept_and_said(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.7, COMPILED: 0.5})
    assert clock.choose(monkeypatch).startswith("engine: compiled, 2.00 times as fast as eager")
    assert plain_engine.way == COMPILED


def test_a_way_that_is_hardly_faster_is_not_worth_it(plain_engine, monkeypatch):
    assert Clock(plain_engine, {Way(): 1.0, COMPILED: 0.98}).choose(monkeypatch) == ""
    assert plain_engine.way == Way()


def test_a_way_that_does_not_agree_is_not_used(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.8, COMPILED: 0.5}, {COMPILED: 0.1})
    assert "oneDNN" in clock.choose(monkeypatch)
    assert plain_engine.way == ONEDNN


def test_a_missing_compiler_is_no_error_unless_it_was_asked_for(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5}, {COMPILED: OSError("no g++\nat all")})
    assert clock.choose(monkeypatch) == ""
    assert plain_engine.way == Way()
    with pytest.raises(RuntimeError, match=r"the step cannot be compiled: no g\+\+$"):
        clock.choose(monkeypatch, asked="compiled")


def test_only_a_failure_of_what_was_asked_for_is_an_error(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.8, COMPILED: 0.5}, {ONEDNN: OSError("no such product")})
    assert clock.choose(monkeypatch, asked="compiled").startswith("engine: compiled, 2.00")


def test_compiled_numbers_that_differ_are_refused(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.8, COMPILED: 0.5}, {COMPILED: 0.1})
    with pytest.raises(RuntimeError, match="it gives other numbers than the plain step"):
        clock.choose(monkeypatch, asked="compiled")
    assert plain_engine.way == Way()


def test_a_first_step_that_is_not_finite_is_no_reason_to_fail(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5}, {Way(): float("nan"), COMPILED: float("nan")})
    assert "2.00 times" in clock.choose(monkeypatch)


def test_what_was_measured_before_is_not_measured_again(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.7, COMPILED: 0.5})
    first = clock.choose(monkeypatch)
    clock.seen.clear()
    assert clock.choose(monkeypatch) == first.replace("(measured)", "(measured before)")
    assert clock.seen == [Way(), Way(), Way(), COMPILED]  # how long a step takes, what it should give, what it gives
    assert plain_engine.way == COMPILED
    clock.seconds = {Way(): 1.0, COMPILED: 3.0}
    plain_engine.batch_size += 1
    assert clock.choose(monkeypatch) == ""
    assert clock.seen.count(COMPILED) > 2


def test_a_way_that_worked_before_and_does_not_now_is_left(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, ONEDNN: 0.7, COMPILED: 0.5})
    clock.choose(monkeypatch)
    clock.values = {COMPILED: OSError("the compiler is gone")}
    assert clock.choose(monkeypatch).startswith("engine: eager, oneDNN, 1.43 times as fast as eager here (measured)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: content.replace(b"0.5", b"-0.5"),
        lambda content: content.replace(b"eager", b"eagle"),
        lambda content: content.replace(b'"batch": 16', b'"batch": 17'),
        lambda content: b"[]",
    ],
)
def test_a_damaged_memory_costs_a_search(plain_engine, monkeypatch, own_cache, damage):
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5})
    clock.choose(monkeypatch)
    (path,) = own_cache.glob("engine/*.json")
    path.write_bytes(damage(path.read_bytes()))
    assert clock.choose(monkeypatch).endswith("(measured); --engine eager turns it off")


def test_no_place_for_the_memory_costs_a_search(plain_engine, monkeypatch, own_cache):
    (own_cache / "engine").write_text("a file in its place")
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5})
    assert clock.choose(monkeypatch) == clock.choose(monkeypatch) != ""


def test_a_short_training_is_not_searched(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5})
    assert clock.choose(monkeypatch, ahead=10.0) == ""
    assert set(clock.seen) == {Way()}
    assert clock.choose(monkeypatch, asked="compiled", ahead=10.0)  # but what was asked for is done


def test_eager_measures_nothing(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 1.0, COMPILED: 0.5})
    assert clock.choose(monkeypatch, asked="eager") == ""
    assert clock.seen == []


def test_the_search_leaves_no_trace(monkeypatch):
    """Weights, buffers, gradients, random numbers and torch's settings are what they were."""
    run = trainer(kind="optimal", engine="compiled", listener=Hears())
    monkeypatch.setattr(run.engine, "ways", lambda: [Way(), ONEDNN])
    monkeypatch.setattr(engine_module, "BETTER", 0.0)
    before, state = {k: v.clone() for k, v in run.model.state_dict().items()}, torch.get_rng_state()
    precision = torch.backends.mkldnn.matmul.fp32_precision
    run.config = replace(run.config, steps=10**6, engine="auto")
    run.choose_engine(1e6)
    assert run.engine.way == ONEDNN or not run.listener.sentences
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mkldnn.matmul.fp32_precision == precision


def test_the_setting_of_the_products_holds_inside_a_step_only(plain_engine):
    before = torch.backends.mkldnn.matmul.fp32_precision
    plain_engine.way = ONEDNN
    with plain_engine.products():
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_what_cannot_be_compiled_is_refused_in_one_sentence(monkeypatch):
    run = trainer(engine="compiled")
    monkeypatch.setattr(torch, "compile", lambda *a, **k: (_ for _ in ()).throw(OSError("no compiler here")))
    with pytest.raises(UserError, match=r"no compiler here. Leave --engine away, or use --engine eager"):
        run.fit()


def test_compiling_is_tried_on_the_step_as_written_and_on_the_fastest_of_the_others(plain_engine, monkeypatch):
    eager = {Way(onednn=there, convolutions=each): 1.0 for there in (False, True) for each in IMAGES[:2]}
    fast = Way(onednn=True, convolutions="channels last")
    compiled = {replace(way, compiled=True): 0.6 for way in eager}
    clock = Clock(plain_engine, {**eager, fast: 0.7, **compiled, replace(fast, compiled=True): 0.5})
    assert clock.choose(monkeypatch).startswith("engine: compiled, oneDNN, channels last, 2.00 times")
    assert {way for way in clock.seen if way.compiled} == {COMPILED, replace(fast, compiled=True)}


def test_convolutions_as_products_are_a_way_of_images_on_the_processor(monkeypatch):
    run = trainer(change=with_convolutions)
    products = Way(convolutions="convolutions as products")
    assert products in run.engine.ways()
    assert not any(way.compiled and way.convolutions == products.convolutions for way in run.engine.ways())
    assert products not in trainer().engine.ways()
    expected = run.differentiate(0)
    gradients = [parameter.grad for parameter in run.model.parameters()]
    run.model.zero_grad()
    run.engine.way = products
    calls = []
    monkeypatch.setitem(
        convolutions._OWN, torch.conv2d, lambda *given: calls.append(1) or convolutions.convolution(*given)
    )
    found = run.differentiate(0)
    assert calls
    torch.testing.assert_close(found.loss, expected.loss)
    for parameter, gradient in zip(run.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_measuring_ends_when_it_takes_long(plain_engine, monkeypatch):
    clock = Clock(plain_engine, {Way(): 8.0, COMPILED: 7.0})
    assert clock.choose(monkeypatch).startswith("engine: compiled, 1.14 times")
    assert clock.seen.count(COMPILED) == 3, "once whether it agrees, one round of two"


def test_a_model_that_remembers_its_batch_is_not_differentiated_as_a_function():
    def with_batch_norm(model, *parts):
        model.decoder = torch.nn.Sequential(model.decoder, torch.nn.BatchNorm1d(64))
        return model, *parts

    assert not trainer(change=with_batch_norm).engine._is_function
    assert trainer().engine._is_function


@pytest.mark.parametrize(
    "way", [Way(), ONEDNN, COMPILED, Way(True, True), *(Way(True, False, each) for each in IMAGES)]
)
def test_a_way_is_found_again_by_its_name(way):
    assert Way.parse(str(way)) == way
