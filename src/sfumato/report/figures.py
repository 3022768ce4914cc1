"""Charts, with matplotlib's objects alone: no pyplot, no window, rcParams as they were.

The colours of classes, the explorer's as well, were searched for the largest smallest difference between any two of
them, to normal and to colour-blind eyes, at a contrast of 2.25 to the light and to the dark ground; the order puts the
most different first. Those of curves are Petroff's (Accessible Color Sequences for Data Visualization, 2021,
https://arxiv.org/abs/2107.02270). :func:`to_svg` hands the neutral ones to the page's theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

INK, MUTED, LINE, PAPER = "#3b3a37", "#7a7872", "#bdbab2", "#fcfbf8"
TRAIN, VALIDATION = "#94a4a2", "#3f90da"
CLASSES = (
    "#346bff", "#7d7100", "#e4958a", "#0cb4ff", "#17786a", "#7c4336", "#84b300", "#6f3698", "#e00b69", "#a781ac",
)  # fmt: skip
UNKNOWN = "#9a9a9a"
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)"}
_MOST_POINTS = 400
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def class_colour(number: int) -> str:
    """Return the colour of a class, grey where it is unknown (-1); after ten they come again."""
    return UNKNOWN if number < 0 else CLASSES[number % len(CLASSES)]


def series(metrics: Sequence[Mapping[str, Any]], quantity: str, split: str) -> Float[NDArray[Any], "points 2"]:
    """Return (step, value) of every line of ``split`` that has the quantity as a finite number."""
    points = [
        (line["step"], float(line[quantity]))
        for line in metrics
        if line.get("split") == split
        and isinstance(line.get(quantity), int | float)
        and np.isfinite(line[quantity])
        and isinstance(line.get("step"), int)
    ]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def curves(metrics: Sequence[Mapping[str, Any]], quantity: str = "elbo", ax: Axes | None = None) -> Axes:
    """Draw one quantity over the steps: training as a thin line, validation with marks.

    The frame is that of the values after the first twentieth of the steps, so that the start does not flatten the rest.

    Args:
        metrics: the lines of ``metrics.jsonl``.
        quantity: a name in them.
        ax: where to; None: a new figure.
    """
    ax = new_axes((3.2, 1.95)) if ax is None else ax
    train, validation = (series(metrics, quantity, split) for split in ("train", "validation"))
    ax.plot(*_thin(train).T, color=TRAIN, linewidth=1.2, label="train")
    marker = "o" if len(validation) <= 40 else ""
    ax.plot(*_thin(validation).T, color=VALIDATION, linewidth=1.5, marker=marker, markersize=2.6, label="validation")
    _frame(ax, np.concatenate([train, validation]))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return _quiet(ax, grid="y")


def kl_per_dimension(kl: Sequence[float], active: Sequence[bool] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the KL of each latent dimension as bars, largest first, idle dimensions in grey.

    Args:
        kl: nats.
        active: which dimensions are active; None: all.
        ax: where to; None: a new figure.
    """
    ax = new_axes((8.4, 2.5)) if ax is None else ax
    values = np.nan_to_num(np.asarray(kl, dtype=np.float64))
    order = np.argsort(-values, kind="stable")
    mask = np.ones(len(values), bool) if active is None else np.asarray(active, bool)
    colours = [VALIDATION if mask[dimension] else TRAIN for dimension in order]
    ax.bar(np.arange(len(values)), values[order], width=0.78 if len(values) <= 128 else 1.0, color=colours)
    ax.set_xlim(-0.7, len(values) - 0.3)
    ax.set_ylabel("KL, nats")
    if len(values) <= 32:
        ax.set_xticks(np.arange(len(values)), [str(dimension) for dimension in order])
        ax.set_xlabel("latent dimension")
    else:
        ax.set_xlabel("latent dimensions, by KL")
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return _quiet(ax, grid="y")


def latent_map(
    points: Float[NDArray[Any], "n 2"],
    y: Int[NDArray[Any], " n"] | None = None,
    class_means: Mapping[str, Sequence[float]] | None = None,
    thumbnails: Sequence[tuple[int, UInt8[NDArray[Any], "height width c"]]] = (),
    shares: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a map of the latent space: one dot an example, in the colour of its class.

    Args:
        points: places in the plane.
        y: class numbers, -1 where unknown; None: no classes.
        class_means: class name -> place of its mean, which is marked.
        thumbnails: (row of ``points``, picture to put there).
        shares: the fraction of the variance along each of the two axes.
        ax: where to; None: a new figure.
    """
    ax = new_axes((8.4, 6.0)) if ax is None else ax
    labels = np.full(len(points), -1) if y is None else y
    colours = [VALIDATION if y is None else class_colour(int(label)) for label in labels]
    size = 9 if len(points) <= 1500 else 5
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colours, alpha=0.75, linewidths=0, rasterized=True)
    marks = class_means or {}
    places = np.concatenate([points, np.array(list(marks.values())).reshape(-1, 2)])
    span = float(np.ptp(places, axis=0).max()) or 1.0
    for row, picture in thumbnails:
        height, width = picture.shape[:2]
        half_x, half_y = (0.02 * span * side / max(height, width) for side in (width, height))
        x, y_ = points[row]
        box = (x - half_x, x + half_x, y_ - half_y, y_ + half_y)
        ax.imshow(picture, extent=box, interpolation="none", zorder=3, cmap="gray", vmin=0, vmax=255)
        corners = ((box[0], box[1], box[1], box[0], box[0]), (box[2], box[2], box[3], box[3], box[2]))
        ax.plot(*corners, color=colours[row], linewidth=1.3, zorder=3.1, solid_joinstyle="miter")
    for number, (name, place, offset) in enumerate(_label_offsets(marks, span)):
        ax.plot(*place, marker="D", markersize=6, color=class_colour(number), markeredgecolor=PAPER, zorder=4)
        side = "left" if offset[0] > 0 else "right"
        text = ax.annotate(
            name, (place[0], place[1]), offset, textcoords="offset points", ha=side, va="center", zorder=5
        )
        text.set(color=INK, fontsize=8.5, parse_math=False, gid=f"halo-{number}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.use_sticky_edges = False
    ax.margins(0.035)
    ax.update_datalim(places)
    ax.autoscale(True)
    for axis, label, share in zip((ax.xaxis, ax.yaxis), ("first", "second"), shares or (None, None), strict=True):
        part = "" if share is None else f", {share:.0%} of the variance"
        axis.set_label_text(f"{label} principal component{part}")
        axis.set_major_locator(MaxNLocator(6))
    return _quiet(ax, grid="both")


def scatter(original: Float[NDArray[Any], " n"], made: Float[NDArray[Any], " n"], ax: Axes | None = None) -> Axes:
    """Draw reconstructed over original values of one column; a perfect model lies on the line."""
    ax = new_axes((2.4, 2.1)) if ax is None else ax
    ends = [min(original.min(), made.min()), max(original.max(), made.max())]
    ax.plot(ends, ends, color=MUTED, linewidth=0.8)
    ax.scatter(original, made, s=5, c=VALIDATION, alpha=0.6, linewidths=0, rasterized=True)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    return _quiet(ax, grid="both")


def to_svg(ax: Axes, name: str) -> str:
    """Return the figure of ``ax`` as inline SVG, in the colours of the page (``--ink`` and so on).

    Args:
        ax: axes of a figure of their own.
        name: different for every figure of a page; what is drawn is the same for the same name.
    """
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has the fonts
        figure.savefig(buffer, format="svg", transparent=True, dpi=200, metadata=_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    body = text[text.index("<defs>") if "<defs>" in text else text.index("<g") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'id="halo-\d+"', 'class="halo"', body)
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body).replace("xlink:href", "href")
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}">\n{body}'


def new_axes(inches: tuple[float, float]) -> Axes:
    """Return axes in a figure of their own, which nobody else holds."""
    return Figure(figsize=inches, layout="constrained").add_subplot()


def _label_offsets(
    marks: Mapping[str, Sequence[float]], span: float
) -> Iterator[tuple[str, Sequence[float], tuple[float, float]]]:
    """Yield (name, place, offset in points), the label right or left of its mark, where it covers the others least."""
    scale = 430 / span  # points a unit, about
    taken: list[tuple[float, float, float, float]] = []
    for name, place in marks.items():
        best = None
        for dy in (0, 9, -9, 16, -16, 23, -23):
            for side in (1, -1):
                start = place[0] * scale + 7 * side
                left = min(start, start + side * 5.4 * len(name))
                box = (left, left + 5.4 * len(name), place[1] * scale + dy - 5.5, place[1] * scale + dy + 5.5)
                covered = sum(
                    max(0.0, min(box[1], other[1]) - max(box[0], other[0]))
                    * max(0.0, min(box[3], other[3]) - max(box[2], other[2]))
                    for other in taken
                )
                if best is None or covered < best[0]:
                    best = (covered, box, (7.0 * side, float(dy)))
        assert best is not None
        taken.append(best[1])
        yield name, place, best[2]


def _thin(points: Float[NDArray[Any], "n 2"]) -> NDArray[Any]:
    """Return every k-th point and the last, some hundreds."""
    if len(points) <= _MOST_POINTS:
        return points
    rows = np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)
    chosen: NDArray[Any] = points[rows]
    return chosen


def _frame(ax: Axes, points: Float[NDArray[Any], "n 2"]) -> None:
    """Limit the y axis to what comes after the first twentieth of the steps, where that leaves something."""
    if not len(points):
        return
    late = points[points[:, 0] >= 0.05 * points[:, 0].max(), 1]
    shown = late if len(late) >= 8 else points[:, 1]
    pad = 0.06 * float(np.ptp(shown)) or 0.05 * max(abs(float(shown[0])), 1e-3)
    ax.set_ylim(shown.min() - pad, shown.max() + pad)


def _quiet(ax: Axes, grid: Literal["both", "x", "y"]) -> Axes:
    """Leave only what is needed to read values."""
    ax.spines[:].set_visible(False)
    ax.grid(True, axis=grid, color=LINE, linewidth=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=MUTED, fontsize=8)
        axis.get_offset_text().set(color=MUTED, fontsize=8)
    return ax
