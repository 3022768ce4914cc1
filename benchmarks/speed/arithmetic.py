"""The orchestrator's own arithmetic: medians, spreads and ratios of rounds. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest of ``values``.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the spread of ours / theirs, taken round by round: the machine's drift cancels within a round.

    >>> ratios([2.0, 8.0], [1.0, 2.0])
    {'median': 3.0, 'min': 2.0, 'max': 4.0}
    """
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


def over_seeds(values: Sequence[float]) -> dict[str, float | int]:
    """Return the mean over seeds, their standard deviation (0 for a single seed) and how many there were.

    >>> over_seeds([1.0, 3.0])
    {'mean': 2.0, 'standard_deviation': 1.4142135623730951, 'seeds': 2}
    """
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_deviation": deviation, "seeds": len(values)}


def fractions(images_per_second: float, operations: int, peaks: dict[str, float]) -> dict[str, float]:
    """Return which part of each peak (operations a second) a rate of training is.

    Args:
        images_per_second: the rate.
        operations: of one image, see ``workloads``.
        peaks: name -> operations a second.

    >>> fractions(100.0, 5, {"float32": 1000.0})
    {'float32': 0.5}
    """
    return {name: images_per_second * operations / peak for name, peak in peaks.items()}
