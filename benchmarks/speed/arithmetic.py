"""The orchestrator's own arithmetic: medians, spreads and ratios of rounds. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


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


def merged(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return ``new``, or without rounds the timed ``old`` with the scores of ``new``, which need no quiet machine.

    Args:
        old: the entry that is there.
        new: the entry of this run.

    Raises:
        ValueError: there are no rounds, and nothing timed after as many epochs.
    """
    if new["rounds"]:
        return new
    if old is None or old["epochs_before_the_score"] != new["epochs_before_the_score"]:
        raise ValueError("--rounds 0 adds scores to what was timed before, after as many epochs; there is none.")
    for peer, entry in new["peers"].items():
        if peer in old["peers"]:
            old["peers"][peer].update({key: entry[key] for key in ("scores", "held_out") if key in entry})
    return {**old, "seeds": new["seeds"]}
