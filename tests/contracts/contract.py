"""What every member of a room promises, written once.

A room's test file has a table EXAMPLES, class name -> cases. A case builds an object and calls it on numbers that do
not depend on chance or precision; the checks below need to know nothing else.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.core.spec import from_spec, to_spec
from sfumato.io.tensors import pack, unpack

Numbers = list[Tensor]


@dataclass(frozen=True)
class Case:
    """One example of a public class.

    Args:
        name: of the test.
        build: makes the object.
        call: (object, dtype, scale) to tensors; ``scale`` multiplies the inputs, 1e4 and more must do no harm.
    """

    name: str
    build: Callable[[], Any]
    call: Callable[[Any, torch.dtype, float], Numbers]

    def __str__(self) -> str:
        return self.name


def public_classes(room: ModuleType) -> list[type]:
    """Return the public classes of a room."""
    found = [getattr(room, name) for name in room.__all__]
    return [item for item in found if inspect.isclass(item) and not inspect.isabstract(item)]


def covered(room: ModuleType, examples: Mapping[str, Sequence[Case]]) -> None:
    """A public class without an example is a failing test; so is an example of nothing."""
    names = {item.__name__ for item in public_classes(room)}
    missing = sorted(names - {name for name, cases in examples.items() if cases})
    assert not missing, f"{room.__name__}: no example in the contract suite for {', '.join(missing)}"
    assert not set(examples) - names, f"{room.__name__} has no {sorted(set(examples) - names)}"


def documented(cls: type, *sections: str) -> None:
    """Formula, reference and an example that runs."""
    doc = inspect.getdoc(cls) or ""
    for needed in ("Reference:", ">>> ", *sections):
        assert needed in doc, f"{cls.__name__}: its documentation has no '{needed.strip()}'"
    assert any(sign in doc for sign in ("=", "~", " / ", "^")), f"{cls.__name__}: no formula"


def flat(examples: Mapping[str, Sequence[Case]]) -> Any:
    """Return the parametrisation of a contract by all cases."""
    cases = [
        pytest.param(case, id=f"{cls}-{case.name}" if case.name else cls)
        for cls, cases in examples.items()
        for case in cases
    ]
    return pytest.mark.parametrize("case", cases)


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1, scale: float = 1.0) -> Tensor:
    """Return standard normal numbers that are the same in every precision."""
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return (torch.from_numpy(np.asarray(values)) * scale).to(dtype)


def stirred(module: nn.Module) -> nn.Module:
    """Return ``module`` with no parameter at zero (some layers start there, where nothing flows through them)."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            noise = numbers(*parameter.shape, seed=index + 2, dtype=parameter.dtype)
            parameter.add_(0.1 * noise)
    return module


class SpecContract:
    """Of everything that is registered."""

    def test_spec_round_trip(self, case: Case) -> None:
        original = case.build()
        text = json.dumps(to_spec(original), allow_nan=False)
        again = from_spec(json.loads(text), original.spec_kind)
        assert type(again) is type(original)
        assert to_spec(again) == to_spec(original)

    def test_numbers_are_finite_for_extreme_inputs(self, case: Case) -> None:
        for scale in (0.0, 1.0, 1e4):
            for out in case.call(case.build(), torch.float32, scale):
                assert torch.isfinite(out).all()


class ModuleContract(SpecContract):
    """Of everything that is a module."""

    def test_gradient_reaches_every_parameter(self, case: Case) -> None:
        module = stirred(case.build())
        outs = case.call(module, torch.float32, 1.0)
        if not list(module.parameters()):
            return
        sum((out * numbers(*out.shape, dtype=out.dtype, seed=9)).sum() for out in outs).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
            assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"

    def test_float32_agrees_with_float64(self, case: Case) -> None:
        module = stirred(case.build())
        double = copy.deepcopy(module).double()
        pairs = zip(case.call(module, torch.float32, 1.0), case.call(double, torch.float64, 1.0), strict=True)
        for single, exact in pairs:
            assert exact.dtype == torch.float64
            torch.testing.assert_close(single.double(), exact, rtol=2e-4, atol=2e-4)

    def test_safetensors_round_trip(self, case: Case) -> None:
        module = stirred(case.build())
        again = from_spec(to_spec(module), module.spec_kind)
        again.load_state_dict(unpack(pack(module.state_dict()), case.name or "the part"))
        same(case.call(again, torch.float32, 1.0), case.call(module, torch.float32, 1.0))

    def test_a_deep_copy_is_equal_and_apart(self, case: Case) -> None:
        module = stirred(case.build())
        before = [out.detach().clone() for out in case.call(module, torch.float32, 1.0)]
        twin = copy.deepcopy(module)
        same(case.call(twin, torch.float32, 1.0), before)
        assert to_spec(twin) == to_spec(module)
        with torch.no_grad():
            for value in twin.state_dict().values():
                value.zero_()
        same(case.call(module, torch.float32, 1.0), before)


def same(some: Numbers, others: Numbers) -> None:
    """Bit for bit."""
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one, other)
