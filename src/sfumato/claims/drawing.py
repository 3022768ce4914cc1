"""The look of the claims' figures: one file, matplotlib's objects alone, colours from the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike, NDArray

from sfumato.claims.statistics import mean_interval
from sfumato.report.figures import INK, LINE, MUTED

BLUE, ORANGE, RED, GREY, PURPLE, BROWN = "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59"
COLOURS = (BLUE, ORANGE, RED, PURPLE, BROWN, GREY)


def quiet(ax: Axes, title: str, x: str, y: str) -> Axes:
    """Give ``ax`` a title, axes with units, and leave only what is needed to read values."""
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    ax.set_xlabel(x, fontsize=8, color=MUTED)
    ax.set_ylabel(y, fontsize=8, color=MUTED)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(LINE)
    ax.grid(True, axis="y", color=LINE, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, labelsize=8, labelcolor=MUTED)
    return ax


def legend(ax: Axes) -> None:
    """Name the lines."""
    found = ax.legend(fontsize=8, frameon=False, labelcolor=INK)
    found.set_zorder(5)


def bars(ax: Axes, groups: Mapping[str, ArrayLike], colours: Sequence[str] = COLOURS) -> Axes:
    """Draw one bar an arm: the mean over seeds, its 95 % interval, and a dot for every seed.

    Args:
        ax: where to.
        groups: name of the arm -> (seeds,).
        colours: one for each.
    """
    for place, (name, values) in enumerate(groups.items()):
        array = np.asarray(values, dtype=np.float64)
        array = array[np.isfinite(array)]
        if not len(array):
            ax.text(place, 0, "no finite number", rotation=90, ha="center", va="bottom", fontsize=8, color=MUTED)
            continue
        found = mean_interval(array)
        ax.bar(place, found.value, width=0.62, color=colours[place % len(colours)], alpha=0.75, label=name)
        if len(array) > 1:
            ax.errorbar(place, found.value, found.value - found.low, color=INK, capsize=4, linewidth=1.2)
        spread = place + np.linspace(-0.15, 0.15, len(array))
        ax.scatter(spread, array, s=9, color=INK, alpha=0.6, linewidths=0, zorder=4)
    ax.set_xticks(range(len(groups)), list(groups))
    return ax


def dots(ax: Axes, groups: Mapping[str, ArrayLike], colours: Sequence[str] = COLOURS) -> Axes:
    """Draw each arm as :func:`bars` does, without the bar: for axes that do not begin at 0."""
    for place, (name, values) in enumerate(groups.items()):
        array = np.asarray(values, dtype=np.float64)
        array = array[np.isfinite(array)]
        colour = colours[place % len(colours)]
        ax.scatter(place + np.linspace(-0.18, 0.18, len(array)), array, s=16, color=colour, alpha=0.6, linewidths=0)
        if len(array):
            found = mean_interval(array)
            half = found.value - found.low if len(array) > 1 else 0.0
            ax.errorbar(place, found.value, half, color=INK, marker="_", markersize=16, capsize=4, linewidth=1.2)
            ax.plot([], [], color=colour, label=name)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.6, len(groups) - 0.4)
    return ax


def band(
    ax: Axes,
    x: ArrayLike,
    values: NDArray[np.float64],
    name: str,
    colour: str,
    style: str = "-",
) -> None:
    """Draw the mean over seeds of curves, (seeds, points), and the range of all seeds behind it."""
    places = np.asarray(x, dtype=np.float64)
    ax.plot(places, values.mean(0), style, color=colour, linewidth=1.7, label=name)
    ax.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)


def points(ax: Axes, x: Sequence[float], values: NDArray[np.float64], name: str, colour: str) -> None:
    """Draw the mean over seeds at each x, (seeds, points), with its 95 % interval."""
    found = [mean_interval(column) for column in values.T]
    middle = np.array([interval.value for interval in found])
    half = np.array([interval.high - interval.value for interval in found])
    half = np.where(np.isfinite(half), half, 0)
    ax.errorbar(x, middle, half, color=colour, marker="o", markersize=4, linewidth=1.5, capsize=3, label=name)


def panels(figure: Figure, count: int, ratios: Sequence[float] | None = None) -> list[Axes]:
    """Return ``count`` axes side by side."""
    axes = figure.subplots(1, count, squeeze=False, gridspec_kw={"width_ratios": ratios} if ratios else None)
    return list(axes[0])


def new_figure() -> Figure:
    """Return an empty figure of the width of the page."""
    figure = Figure(figsize=(10.4, 3.3), dpi=110, layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(wspace=0.07, w_pad=0.06, h_pad=0.06)
    return figure
