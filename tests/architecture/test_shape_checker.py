"""The checker of shapes refuses what the annotations do not allow, at the first call and at every later one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError, jaxtyped
from torch import Tensor

from shape_checker import check

checked = jaxtyped(typechecker=check)


@checked
def product(x: Float[Tensor, "a b"], y: Float[Tensor, "b c"], how: Literal["plain", "zero"] = "plain") -> Tensor:
    return x @ y


@checked
def first(parts: tuple[Float[Tensor, " n"], ...] | Mapping[str, Int[Tensor, " n"]], number: float = 1) -> Any:
    return next(iter(parts.values())) if isinstance(parts, Mapping) else parts[0]


@checked
def given(x: Float[Tensor, "a b"], answer: list[object]) -> Float[Tensor, " a"] | tuple[Float[Tensor, " b"], int]:
    return answer.pop()  # type: ignore[return-value]


@checked
@dataclass
class Pair:
    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]

    @property
    @checked
    def total(self) -> Float[Tensor, " n"]:
        return self.x + self.y[:, None]


def refused(function: Any, *arguments: Any, **named: Any) -> bool:
    try:
        function(*arguments, **named)
    except TypeCheckError:
        return True
    return False


WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (product, (torch.ones(2, 3), torch.ones(2, 3)), {}),
    (product, (torch.ones(2, 3), torch.ones(3, 4, dtype=torch.int64)), {}),
    (product, (torch.ones(2, 3), torch.ones(3)), {}),
    (product, (torch.ones(2, 3), torch.ones(3, 4), "other"), {}),
    (product, (torch.ones(2, 3),), {"y": torch.ones(3, 4), "how": "other"}),
    (product, (torch.ones(2, 3), torch.ones(3, 4).numpy()), {}),
    (first, (((torch.ones(2), 1),),), {}),
    (first, ((torch.ones(2).long(),) * 2,), {}),
    (first, ((torch.ones(2),),), {"number": "1"}),
    (first, ([torch.ones(2)],), {}),
    (first, ({"a": torch.ones(2)},), {}),
    (Pair, (torch.ones(2), torch.ones(3)), {}),
]


@pytest.mark.parametrize("known", [False, True], ids=["the first call", "a later call"])
@pytest.mark.parametrize(("function", "arguments", "named"), WRONG)
def test_wrong_arguments_are_refused(function: Any, arguments: Any, named: Any, known: bool) -> None:
    if known:
        for _ in range(2):
            product(torch.ones(2, 3), torch.ones(3, 4))
            product(torch.ones(2, 3), y=torch.ones(3, 4), how="zero")
            first((torch.ones(2), torch.ones(2)), 2)
            first({"a": torch.ones(2).long()})
            Pair(torch.ones(2), torch.ones(2))
    for _ in range(2):
        assert refused(function, *arguments, **named)


def test_a_wrong_result_is_refused_also_where_the_arguments_are_known() -> None:
    x, right, other = torch.ones(2, 3), torch.ones(2), (torch.ones(3), 1)
    wrong = [torch.ones(3), torch.ones(2).long(), (torch.ones(2), 1), (torch.ones(3), "1"), None, [right] * 101]
    for answer in (right, *wrong, other, *wrong, right, other):
        bad = any(answer is each for each in wrong)
        assert refused(given, x, [answer]) == bad
    assert refused(lambda: Pair(torch.ones(2), torch.ones(2)).total)


@pytest.mark.parametrize("count", [1, 150])
def test_what_has_no_kind_is_checked_every_time(count: int) -> None:
    """Of several parts one is looked at by chance, so that what is wrong is found sooner or later."""
    right, wrong = (torch.ones(2),) * count, (torch.ones(2).long(),) * count
    assert not any(refused(first, right) for _ in range(3))
    assert 0 < sum(refused(first, right + wrong) for _ in range(60)) < 60
    assert not any(refused(first, right) for _ in range(3))


def test_errors_of_the_function_itself_are_its_own_and_calls_are_made_once() -> None:
    calls = []

    @checked
    def noted(x: Float[Tensor, " n"]) -> int:
        calls.append(x)
        raise TypeError("of its own")

    for number in (1, 2):
        with pytest.raises(TypeError, match="of its own"):
            noted(torch.ones(2))
        assert len(calls) == number


def test_each_combination_of_kinds_is_checked_once() -> None:
    checks = []

    def noting(function: Any) -> Any:
        return lambda *arguments, **named: checks.append(1) or function(*arguments, **named)

    @jaxtyped(typechecker=noting)
    def same(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        return x

    for _ in range(5):
        assert same(torch.ones(2)).shape == (2,)
    once = len(checks)
    assert once == 2, "the arguments, and with the result"
    same(torch.ones(3))
    assert len(checks) == 2 * once
