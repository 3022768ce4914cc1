r"""A mean over examples, with its standard error and its unit.

For values v_1 ... v_n of independent examples: value = 1/n sum v_i, standard error = s / sqrt(n) with the sample's
standard deviation s (divisor n - 1). Both in float64. Nothing is dropped: one non-finite example makes the mean
non-finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` examples.

    Args:
        value: the mean.
        standard_error: of the mean, over examples; NaN for a single example, 0 for a number that is exact.
        n: the number of examples.
        unit: "nats", "bits/dim", "fraction", ...

    >>> str(Estimate(84.207, 0.349, 10_000, "nats"))
    '84.21 ± 0.35 nats'
    """

    value: float
    standard_error: float
    n: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with None in place of a number that json has not (NaN, infinity)."""
        return {
            "value": finite(self.value),
            "standard_error": finite(self.standard_error),
            "n": self.n,
            "unit": self.unit,
        }

    def __str__(self) -> str:
        digits = 2
        if math.isfinite(self.standard_error) and self.standard_error > 0:
            digits = max(0, min(6, 1 - math.floor(math.log10(self.standard_error))))
        return f"{self.value:.{digits}f} ± {self.standard_error:.{digits}f} {self.unit}"

    def __neg__(self) -> Estimate:
        """Return the estimate of minus the quantity."""
        return Estimate(-self.value, self.standard_error, self.n, self.unit)

    def affine(self, factor: float, shift: float, unit: str) -> Estimate:
        """Return the estimate of ``factor`` times the quantity plus ``shift``, in ``unit``."""
        return Estimate(factor * self.value + shift, abs(factor) * self.standard_error, self.n, unit)


def mean_estimate(values: Tensor, unit: str) -> Estimate:
    """Return the mean of ``values``, one number for each example, (n,)."""
    wide = values.detach().double()
    n = wide.numel()
    error = float(wide.std(correction=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(wide.mean()), error, n, unit)


def finite(value: float) -> float | None:
    """Return ``value``, or None where json has no such number."""
    return value if math.isfinite(value) else None
