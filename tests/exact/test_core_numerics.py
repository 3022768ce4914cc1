"""Small numerics, the strict json reader and the spec at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, logmeanexp, seed_for, soft_bound, sum_event
from sfumato.core.spec import from_spec, to_spec
from sfumato.networks import MLP
from sfumato.objectives import ELBO

LOW, HIGH = -20.0, 10.0
SLACK = 1e-5
anything = st.floats(allow_nan=False, allow_infinity=True, width=32)


def bounded(value: float) -> float:
    return float(soft_bound(torch.tensor(value), LOW, HIGH))


@given(anything)
def test_soft_bound_is_finite_and_bounded(value: float) -> None:
    assert LOW <= bounded(value) <= HIGH + SLACK


@given(anything, anything)
def test_soft_bound_is_monotone(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    assert bounded(low) <= bounded(high) + 4e-6


@given(st.floats(LOW + 12, HIGH - 12, width=32))
def test_soft_bound_is_the_identity_inside(value: float) -> None:
    assert bounded(value) == pytest.approx(value, abs=SLACK)


@given(anything)
def test_soft_bound_has_a_slope_in_zero_and_one(value: float) -> None:
    leaf = torch.tensor(value, requires_grad=True)
    soft_bound(leaf, LOW, HIGH).backward()
    assert 0 <= float(leaf.grad) <= 1 + 1e-6


def test_logmeanexp_and_sum_event() -> None:
    values = torch.tensor([[1000.0, -1000.0], [1000.0, -1000.0]])
    torch.testing.assert_close(logmeanexp(values), torch.tensor([1000.0, -1000.0]))
    torch.testing.assert_close(logmeanexp(torch.tensor([0.0, math.log(3)])), torch.tensor(2.0).log())
    ones = torch.ones(2, 3, 4)
    assert [sum_event(ones, dims).shape for dims in (0, 1, 2)] == [(2, 3, 4), (2, 3), (2,)]


def test_logmeanexp_gives_no_denormal_weights() -> None:
    values = torch.tensor([3.0, 2.0, -80.0, -95.0], requires_grad=True)
    logmeanexp(values).backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad[:2], torch.tensor([3.0, 2.0]).softmax(0))
    assert values.grad[2:].tolist() == [0.0, 0.0], "3e-37 and 3e-43 would be the weights"
    exact = torch.tensor([0.0, -55.0, -60.5, -1e4], dtype=torch.float64)
    assert float(logmeanexp(exact)) == float(torch.logsumexp(exact, 0)) - math.log(4)
    none = torch.tensor([-math.inf, -math.inf])
    assert float(logmeanexp(none)) == -math.inf


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**70))
def test_seeds_are_63_bits_and_depend_on_every_number(one: int, other: int) -> None:
    assert 0 <= seed_for(one, other) < 2**63
    assert seed_for(one, other) == seed_for(one, other)
    assert seed_for(one, other) != seed_for(one, other + 1)
    assert seed_for(one, other) != seed_for(one)


def test_seeds_are_the_same_on_every_machine() -> None:
    """The known answer of SplitMix64 for 0 is 0xE220A8397B1DCDAF; a seed is its upper 63 bits."""
    assert seed_for(0) == 0xE220A8397B1DCDAF >> 1


def test_fixed_noise_repeats_and_touches_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    with fixed_noise(5):
        one = torch.randn(3)
    with fixed_noise(torch.Generator().manual_seed(1)):
        torch.randn(3)
    with fixed_noise(5):
        assert torch.equal(torch.randn(3), one)
    with pytest.raises(RuntimeError, match="inside"), fixed_noise(5):
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded, "another device was seeded and not put back"
    with fixed_noise(None):
        torch.randn(1)
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b"\xff",
        b"{",
        b"[" * 100 + b"]" * 100,
        b"[" * 10**5,
        b"9" * 5000,
    ],
)
def test_strict_json_refuses(text: bytes) -> None:
    with pytest.raises(UserError):
        strict_json.parse(text, "config.json")


@pytest.mark.parametrize("beta", [10**400, -(10**400), math.inf, -1.0, True, "1"], ids=lambda beta: str(beta)[:5])
def test_numbers_out_of_range_are_the_users_mistake(beta: object) -> None:
    spec = to_spec(ELBO()) | {"beta": beta}
    with pytest.raises(UserError, match="beta must be a number"):
        from_spec(spec, "objective")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "MLPP"}, "Did you mean 'MLP'"),
        ({"hiden": [3]}, "no argument 'hiden'. Did you mean 'hidden'"),
        ({"hidden": [0]}, r"hidden\[0\] must be a whole number"),
        ({"hidden": [2.5]}, r"hidden\[0\] must be a whole number"),
        ({"activation": "relux"}, "Did you mean 'relu'"),
        ({"gated": 1}, "must be true or false"),
        ({"hidden": 3}, "must be a list"),
    ],
)
def test_a_wrong_spec_is_refused_in_words(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_spec(to_spec(MLP((2,), (3,))) | change, "network")


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(UserError, match="needs the argument 'out_shape'"):
        from_spec({"class": "MLP", "in_shape": [2]}, "network")


@pytest.mark.parametrize("text", [b"1e999", b"-1e999", b"[NaN]", b"Infinity"])
def test_strict_json_has_finite_numbers_only(text: bytes) -> None:
    with pytest.raises(UserError, match="not a json number"):
        strict_json.parse(text, "file.json")
