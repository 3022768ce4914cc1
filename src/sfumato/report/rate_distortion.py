"""The picture of a sweep: the rate-distortion curve over beta and, for several sizes of z, the evidence."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from sfumato.report.figures import INK, LINE, MUTED, PAPER, _quiet, class_colour

Row = Mapping[str, Any]


def sweep_picture(rows: Sequence[Row]) -> bytes:
    """Return a PNG.

    Args:
        rows: the settings that were measured: ``beta``, ``latent_dim``, and ``rate``, ``distortion`` and
            ``evidence_bound`` as estimates in plain json (the last may be None).
    """
    sizes = len({row["latent_dim"] for row in rows})
    figure = Figure(figsize=(9.6 if sizes > 1 else 5.6, 4.2), layout="constrained", facecolor=PAPER)
    axes = figure.subplots(1, 2 if sizes > 1 else 1, squeeze=False)[0]
    curve(rows, axes[0])
    if sizes > 1:
        evidence(rows, axes[1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def curve(rows: Sequence[Row], ax: Axes) -> Axes:
    """Draw distortion over rate, one line for each size of z, with standard errors; on a dashed line the ELBO is equal.

    Args:
        rows: as in :func:`sweep_picture`.
        ax: where to.
    """
    sizes = sorted({row["latent_dim"] for row in rows})
    for number, size in enumerate(sizes):
        own = sorted((row for row in rows if row["latent_dim"] == size), key=lambda row: float(row["beta"]))
        _with_errors(ax, own, "rate", "distortion", number, f"latent {size}")
        for row in own:
            place = (row["rate"]["value"], row["distortion"]["value"])
            ax.annotate(f"{row['beta']:g}", place, (4, 4), textcoords="offset points", fontsize=7, color=INK)
    best = min(rows, key=lambda row: float(row["rate"]["value"] + row["distortion"]["value"]))
    place = (best["rate"]["value"], best["distortion"]["value"])
    ax.margins(x=0.08)  # room for the number at the last point
    limits = ax.get_xlim(), ax.get_ylim()
    ax.axline(place, slope=-1, color=LINE, linestyle="--", linewidth=0.9, zorder=0)
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.set_xlabel("rate, nats")
    ax.set_ylabel("distortion, nats")
    ax.set_title("beta at each point; dashed: the best ELBO", fontsize=8, color=MUTED, loc="left")
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _quiet(ax, grid="both")


def evidence(rows: Sequence[Row], ax: Axes) -> Axes:
    """Draw the bound on log p(x) over the size of z, one line for each beta, with standard errors.

    Args:
        rows: as in :func:`sweep_picture`.
        ax: where to.
    """
    betas = sorted({float(row["beta"]) for row in rows})
    for number, beta in enumerate(betas):
        own = [row for row in rows if row["beta"] == beta and row["evidence_bound"]]
        own.sort(key=lambda row: int(row["latent_dim"]))
        shift = 1.03 ** (number - (len(betas) - 1) / 2)  # side by side, or their errors would hide each other
        moved = [{**row, "latent_dim": shift * row["latent_dim"]} for row in own]
        _with_errors(ax, moved, "latent_dim", "evidence_bound", number, f"beta {beta:g}")
    ax.set_xscale("log", base=2)
    sizes = sorted({row["latent_dim"] for row in rows})
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("latent dimensions")
    ax.set_ylabel("log p(x) at least, nats")
    ax.set_title("bars: one standard error over examples", fontsize=8, color=MUTED, loc="left")
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _quiet(ax, grid="y")


def _with_errors(ax: Axes, rows: Sequence[Row], across: str, up: str, number: int, label: str) -> None:
    def column(name: str, key: str) -> list[float]:
        entries = [row[name] if isinstance(row[name], Mapping) else {"value": row[name]} for row in rows]
        return [float(entry.get(key) or 0) for entry in entries]

    ax.errorbar(
        column(across, "value"),
        column(up, "value"),
        xerr=column(across, "standard_error"),
        yerr=column(up, "standard_error"),
        color=class_colour(number),
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
        label=label,
    )
