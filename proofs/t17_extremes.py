"""T17: extreme values through every public density and objective: finite; how far float32 is from float64 is noted.

The examples are those of the contract suites, so a public class without one is a failing test elsewhere. Both
precisions get the same numbers (of float32), so a difference is one of arithmetic.
"""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract import stirred

from proofs.proof import Budget, Mutants, Result
from sfumato.core.numerics import sum_event
from sfumato.distributions import discretized_logistic

AIM, SHORT = 3_000, 60
ROOMS = ("test_distributions", "test_likelihoods", "test_priors", "test_posteriors", "test_objectives")
SCALES = (0.0, 1e-8, 1e-4, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e6)
CLOSE = 1e-6


def run(budget: Budget, seed: int) -> Result:
    """Draw a class, its case, a scale and numbers."""
    dice, result = random.Random(seed), Result()
    worst: dict[str, float] = {}
    cases = [(room, name, case) for room in ROOMS for name, case in _cases(room)]
    while budget.open(result.cases):
        room, name, case = cases[dice.randrange(len(cases))] if result.cases >= len(cases) else cases[result.cases]
        scale, number = dice.choice(SCALES), dice.randrange(10**6)
        with result.case(f"{name}, scale {scale:g}, numbers {number}"), pytest.MonkeyPatch.context() as patch:
            _same_numbers(patch, room, number)
            far = _distance(case, scale)
            result.fired += scale not in (0.0, 1.0)
            worst[name] = max(far, worst.get(name, 0.0))
    above = {name: far for name, far in sorted(worst.items()) if far > CLOSE}
    within = f"float32 within {CLOSE:g} of float64 in {len(worst) - len(above)} of {len(worst)} examples"
    result.note = f"{within}; largest of the others: " + ", ".join(f"{name} {far:.0e}" for name, far in above.items())
    return result


def _cases(room: str) -> Iterator[tuple[str, Any]]:
    module = importlib.import_module(room)
    for name, cases in module.EXAMPLES.items():
        for case in cases:
            if case.call is not None:
                yield f"{name} {case.name}".strip(), case


def _same_numbers(patch: pytest.MonkeyPatch, room: str, number: int) -> None:
    """Let the inputs be of float32 in either precision, and of other seeds than the suite's."""
    module = importlib.import_module(room)
    right: Callable[..., torch.Tensor] = module.numbers

    def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1, scale: float = 1.0) -> torch.Tensor:
        return right(*shape, dtype=torch.float64, seed=seed + 1000 * number, scale=scale).float().to(dtype)

    patch.setattr(module, "numbers", numbers)


def _distance(case: Any, scale: float) -> float:
    """Return the largest difference of the precisions, relative to the larger of 1 and the value."""
    made = case.build()
    module = stirred(made) if isinstance(made, torch.nn.Module) else made
    double = copy.deepcopy(module).double() if isinstance(module, torch.nn.Module) else module
    worst = 0.0
    pairs = zip(case.call(module, torch.float32, scale), case.call(double, torch.float64, scale), strict=True)
    for single, exact in pairs:
        assert bool(torch.isfinite(single).all()), "not finite in float32"
        assert bool(torch.isfinite(exact).all()), "not finite in float64"
        relative = (single.detach().double() - exact.detach()).abs() / exact.detach().abs().clamp(min=1.0)
        worst = max(worst, float(relative.max()) if relative.numel() else 0.0)
    return worst


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"an interval's mass by a plain difference": plain_difference}


def plain_difference(patch: pytest.MonkeyPatch) -> None:
    """Compute the mass of a cell far from the location as a difference of two numbers that are both 1."""

    def log_prob(self: Any, value: torch.Tensor) -> torch.Tensor:
        half = 0.5 / (self.levels - 1)
        scale = self.log_scale.exp()
        mass = ((value + half - self.loc) / scale).sigmoid() - ((value - half - self.loc) / scale).sigmoid()
        return sum_event(mass.log(), self.event_dims)

    patch.setattr(discretized_logistic.DiscretizedLogistic, "log_prob", log_prob)
