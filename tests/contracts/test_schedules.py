"""The contract of ``sfumato.core.schedules``."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from contract import Case, SpecContract, covered, documented, flat, public_classes
from hypothesis import given
from hypothesis import strategies as st

from sfumato.core import schedules
from sfumato.core.schedules import Constant, Cyclical, WarmUp, WarmUpCosine


def call(schedule, dtype, scale):
    return []


EXAMPLES = {
    "Constant": [Case("", Constant, call)],
    "Cyclical": [
        Case("", lambda: Cyclical(steps=12), call),
        Case("flat", lambda: Cyclical(steps=7, cycles=3, rising=0.0), call),
        Case("none", lambda: Cyclical(steps=0), call),
    ],
    "WarmUp": [
        Case("", lambda: WarmUp(steps=10), call),
        Case("start", lambda: WarmUp(steps=3, start=0.25), call),
        Case("none", lambda: WarmUp(steps=0), call),
    ],
    "WarmUpCosine": [
        Case("", lambda: WarmUpCosine(steps=20, warmup=5, floor=0.1), call),
        Case("no-warmup", lambda: WarmUpCosine(steps=20), call),
        Case("empty", lambda: WarmUpCosine(steps=0), call),
        Case("all-warmup", lambda: WarmUpCosine(steps=5, warmup=10), call),
    ],
}


def test_every_public_class_has_examples() -> None:
    covered(schedules, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(schedules))
def test_documentation(cls: type) -> None:
    documented(cls)


@flat(EXAMPLES)
class TestSchedules(SpecContract):
    def test_is_a_function_of_the_step_alone_within_zero_and_one(self, case: Case) -> None:
        schedule, twin = case.build(), copy.deepcopy(case.build())
        steps = [0, 1, 2, 5, 9, 10, 11, 19, 20, 21, 10**6, 10**15]
        forwards = [schedule(step) for step in steps]
        assert [twin(step) for step in reversed(steps)] == forwards[::-1]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in forwards)


@given(steps=st.integers(0, 10**9), start=st.floats(0, 1))
def test_warm_up_ends_at_one_and_never_falls(steps: int, start: float) -> None:
    schedule = WarmUp(steps=steps, start=start)
    assert schedule(steps) == schedule(steps + 1) == schedule(10**15) == 1.0
    middle = [schedule(steps * part // 10) for part in range(11)]
    assert middle == sorted(middle)
    assert steps == 0 or schedule(0) == start


def test_cosine_by_hand() -> None:
    schedule = WarmUpCosine(steps=10, warmup=2, floor=0.2)
    assert schedule(0) == 0.5
    assert schedule(1) == schedule(2) == 1.0
    assert schedule(6) == pytest.approx(0.6)
    assert schedule(10) == schedule(10**9) == pytest.approx(0.2)


def test_cycles_by_hand() -> None:
    """Four cycles of 25 steps: up over the first half of each, then level; compiled steps count in a tensor."""
    schedule = Cyclical(steps=100, cycles=4, rising=0.5)
    for step in range(100):
        expected = min(1.0, (step % 25) / 12.5)
        assert schedule(step) == pytest.approx(expected, abs=1e-12)
        assert float(schedule(torch.tensor(float(step), dtype=torch.float64))) == pytest.approx(expected, abs=1e-12)
    assert schedule(100) == schedule(10**15) == 1.0
    monotone, line = Cyclical(steps=100, cycles=1, rising=0.4), WarmUp(steps=40)
    assert [monotone(step) for step in range(120)] == pytest.approx([line(step) for step in range(120)])
