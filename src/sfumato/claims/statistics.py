r"""Means over seeds, with confidence intervals.

For values d_1 ... d_n of independent seeds: mean d +- t_{0.975, n-1} s / sqrt(n), s with divisor n - 1. Two arms that
were trained with the same seeds (weights, order of the data, noise) are compared by their differences, seed by seed.

Reference: The Probable Error of a Mean, Student, 1908, https://doi.org/10.2307/2331554.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Args:
        value: the mean over seeds.
        low: the lower end.
        high: the upper end.
        n: the number of seeds.

    >>> str(mean_interval([1.0, 2.0, 3.0]))
    '2.00 [-0.48, 4.48]'
    """

    value: float
    low: float
    high: float
    n: int

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above ``bound``; never for numbers that are not finite."""
        return self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below ``bound``."""
        return self.high < bound

    def inside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies between ``low`` and ``high``."""
        return self.above(low) and self.below(high)

    def text(self, format: str = ".2f") -> str:
        """Return "value [low, high]"."""
        return f"{self.value:{format}} [{self.low:{format}}, {self.high:{format}}]"

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, None where json has no such number."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()} | {"n": self.n}


def mean_interval(values: ArrayLike) -> Interval:
    """Return the mean of ``values``, (seeds,), with its 95 % interval.

    One seed says nothing about its spread: its interval is endless. A value that is not finite makes mean and interval
    NaN, which is neither above nor below anything.
    """
    array = np.asarray(values, dtype=np.float64)
    n, mean = len(array), float(array.mean())
    if n < 2:
        return Interval(mean, -math.inf, math.inf, n)
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(one: ArrayLike, other: ArrayLike) -> Interval:
    """Return the mean of ``one`` - ``other``, seed by seed, with its 95 % interval."""
    return mean_interval(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64))


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """Return the t with P(T <= t) = ``probability`` for Student's distribution.

    Through t = sqrt(n) tan(a): P(|T| <= t) is the integral of cos^{n-1} from 0 to a, over that to pi/2.

    Args:
        probability: above 0.5 and below 1.
        degrees: n, of freedom, 1 or more.

    >>> round(t_quantile(0.975, 4), 4)
    2.7764
    """
    nodes, weights = np.polynomial.legendre.leggauss(80)

    def mass(angle: float) -> float:
        return float(angle / 2 * weights @ np.cos(angle * (nodes + 1) / 2) ** (degrees - 1))

    low, high, wanted = 0.0, math.pi / 2, (2 * probability - 1) * mass(math.pi / 2)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < wanted else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
