"""What the model shows of itself: each function makes the content of one section, or None without anything to show.

Everything follows from the weights, the data and fixed seeds, so the same grid can be watched while training goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.numerics import fixed_noise
from sfumato.data import Dataset, InMemory
from sfumato.evaluation.latents import Latents, find_latents
from sfumato.evaluation.measuring import measuring
from sfumato.models import Model
from sfumato.models.packaged import PackagedModel
from sfumato.report import figures, pictures
from sfumato.report.numbers import class_name

SEED = 0
_MOST_CLASSES = 24
_MOST_COLUMNS = 24
_CELL, _LARGEST = 84, 128
_TRAVERSALS = np.linspace(-2.5, 2.5, 11)


@dataclass(frozen=True, eq=False)
class View:
    """A model and the examples it is shown on.

    Args:
        packaged: the model.
        dataset: the data.
        split: where the examples come from.
        raw: examples, (n, *shape), raw units.
        y: class numbers, (n,), -1 where unknown; None without classes.
        latents: their posteriors.
        again: the reconstructions, (n, *shape), raw units.
        error: root mean square error of each reconstruction in the model's units, (n,).
    """

    packaged: PackagedModel
    dataset: Dataset
    split: str
    raw: Tensor
    y: Int64[Tensor, " n"] | None
    latents: Latents
    again: Tensor
    error: Float[NDArray[Any], " n"]

    @property
    def model(self) -> Model:
        """The model without preprocessing."""
        return self.packaged.model

    @property
    def classes(self) -> list[str]:
        """The names of the classes that the data have."""
        return list(self.packaged.class_names or self.dataset.class_names)

    def labels(self, rows: Sequence[int]) -> Tensor | None:
        """Return the class numbers of ``rows`` for networks that see labels, else None."""
        return self.y[list(rows)] if self.y is not None and self.model.labels_reach_networks else None

    def picture(self, raw: Tensor, rows: int) -> dict[str, Any]:
        """Return images (rows * columns, ...) in raw units as a grid: ``uri``, ``width`` and ``height`` in pixels."""
        images = pictures.shrink(pictures.to_uint8(raw, self.packaged.preprocessing), _LARGEST)
        cells = images.reshape(rows, -1, *images.shape[1:])
        scale = pictures.cell_scale(images.shape[2], images.shape[3], _CELL)
        picture = pictures.grid(cells, scale, gap=4)
        return {"uri": pictures.png_uri(picture), "width": picture.width, "height": picture.height}


@contextmanager
def looking(packaged: PackagedModel, dataset: Dataset, split: str, n: int) -> Iterator[View | None]:
    """Yield a view of up to ``n`` examples spread over a split, the model in evaluation mode; None without examples."""
    rows = dataset.rows(split)
    if not len(rows):
        yield None
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int))]
    y = None if dataset.y is None else torch.from_numpy(dataset.y[rows])
    examples = InMemory(torch.from_numpy(dataset.x[rows]), y)
    with measuring(packaged.model), fixed_noise(SEED):
        latents = find_latents(packaged.model, examples, packaged.preprocessing, seed=SEED)
        seen = y if packaged.model.labels_reach_networks else None
        parts = []
        for start in range(0, len(rows), 250):
            x = packaged.preprocessing.expected(examples.x[start : start + 250])
            made = packaged.model.reconstruct(x, None if seen is None else seen[start : start + 250])
            error = (made - x).flatten(1).square().mean(1).sqrt()
            parts.append((packaged.preprocessing.inverse(made), error))
        again, errors = (torch.cat(column) for column in zip(*parts, strict=True))
        yield View(packaged, dataset, split, examples.x, y, latents, again, errors.double().numpy())


def samples(view: View) -> dict[str, Any] | None:
    """Return generated images: a row for each class of a conditional model, with the same noise in every row."""
    if not view.dataset.is_images:
        return None
    columns = _columns(view)
    if not view.model.num_classes:
        raw = view.packaged.sample(5 * columns, generator=SEED)
        return {"rows": [{"name": None, "picture": view.picture(raw, 5)}], "left_out": 0}
    rows = [
        {
            "name": class_name(view.classes, number),
            "picture": view.picture(view.packaged.sample(columns, number, generator=SEED), 1),
        }
        for number in range(min(view.model.num_classes, _MOST_CLASSES))
    ]
    return {"rows": rows, "left_out": view.model.num_classes - len(rows)}


def reconstructions(view: View) -> list[dict[str, Any]] | None:
    """Return originals above reconstructions: the best, the middle and the worst by error."""
    if not view.dataset.is_images:
        return None
    columns = min(_columns(view), len(view.raw))
    order = np.argsort(view.error, kind="stable")
    middle = max(0, len(order) // 2 - columns // 2)
    groups = {"best": order[:columns], "median": order[middle : middle + columns], "worst": order[-columns:]}
    return [
        {
            "name": name,
            "error": float(np.median(view.error[rows])),
            "picture": view.picture(torch.cat([view.raw[rows], view.again[rows].to(view.raw.dtype)]), 2),
        }
        for name, rows in groups.items()
    ]


def interpolations(view: View, pairs: int = 5) -> dict[str, Any] | None:
    """Return decoded paths between pairs of real images, which stand at both ends."""
    if not view.dataset.is_images or len(view.raw) < 2:
        return None
    within = view.labels([0]) is not None  # networks that see a label see one label for the whole path
    chosen = _pairs(view.y, len(view.raw), pairs, within)
    if not chosen:
        return None
    first, second = (list(column) for column in zip(*chosen, strict=True))
    start, end = (view.packaged.preprocessing.expected(view.raw[rows]) for rows in (first, second))
    path = view.model.interpolate(start, end, _columns(view) - 2, view.labels(first))
    made = view.packaged.preprocessing.inverse(path).transpose(0, 1).to(view.raw.dtype)
    rows = torch.cat([view.raw[first].unsqueeze(1), made, view.raw[second].unsqueeze(1)], 1)
    return {"picture": view.picture(rows.flatten(0, 1), len(first)), "within": within}


@dataclass(frozen=True, eq=False)
class Map:
    """A map that was drawn.

    Args:
        ax: where.
        y: the classes of its points, (n,), -1 where unknown; None without classes.
        marked: whether the means of the classes are in it.
        n: how many points there are.
    """

    ax: Axes
    y: Int64[NDArray[Any], " n"] | None
    marked: bool
    n: int


def draw_latent_map(view: View, ax: Axes | None = None) -> Map | None:
    """Draw the posterior means in the plane of their two main directions; None with fewer than two or three of them."""
    means = view.latents.mean.double()
    good = means.isfinite().all(1)
    if means.shape[1] < 2 or int(good.sum()) < 3:
        return None
    kept = good.nonzero().squeeze(1)
    centre, axes, shares = principal_axes(means[kept])
    points = ((means[kept] - centre) @ axes).numpy()
    y = None if view.y is None else view.y[kept].numpy()
    marks = {}
    class_means = getattr(view.model.prior, "means", None)
    if isinstance(class_means, Tensor) and len(class_means) <= _MOST_CLASSES:
        places = (class_means.detach().cpu().double().flatten(1) - centre) @ axes
        marks = {class_name(view.classes, number): place.tolist() for number, place in enumerate(places)}
    thumbnails = []
    if view.dataset.is_images:
        spread = _spread(points, 22)
        images = pictures.shrink(pictures.to_uint8(view.raw[kept[spread]], view.packaged.preprocessing), 56)
        shown = images if images.shape[1] in (3, 4) else images[:, :1]
        thumbnails = [(row, image.transpose(1, 2, 0)) for row, image in zip(spread, shown, strict=True)]
    return Map(figures.latent_map(points, y, marks, thumbnails, shares, ax), y, bool(marks), len(points))


def latent_map(view: View) -> dict[str, Any] | None:
    """Return the map of :func:`draw_latent_map` as SVG, with a legend."""
    found = draw_latent_map(view)
    if found is None:
        return None
    numbers = [] if found.y is None else np.unique(found.y).tolist()
    present = [number for number in numbers if number < _MOST_CLASSES]
    legend = [(figures.class_colour(number), class_name(view.classes, number)) for number in present]
    return {"svg": figures.to_svg(found.ax, "latent map"), "legend": legend, "marks": found.marked, "n": found.n}


def traversals(view: View, most: int = 8) -> dict[str, Any] | None:
    """Return what the most active dimensions do: one image's z, with one number at a time moved across the prior."""
    if not view.dataset.is_images:
        return None
    found = view.latents
    activity = found.variance_of_mean if found.kl is None else found.kl
    order = activity.nan_to_num().argsort(descending=True, stable=True)[:most].tolist()
    base = int(np.argsort(view.error, kind="stable")[len(view.error) // 2])
    z = view.model.whitened(found.mean[base])
    centre = torch.zeros_like(z)
    class_means = getattr(view.model.prior, "means", None)
    if isinstance(class_means, Tensor) and view.y is not None and int(view.y[base]) >= 0:
        centre = class_means.detach().cpu()[int(view.y[base])].flatten()
    moved = z.repeat(len(order), len(_TRAVERSALS), 1)
    for row, dimension in enumerate(order):
        moved[row, :, dimension] = centre[dimension] + torch.from_numpy(_TRAVERSALS).float()
    flat = view.model.coloured(moved.reshape(-1, *view.model.prior.latent_shape))
    label = view.labels([base])
    raw = view.packaged.decode(flat, None if label is None else label.expand(len(flat)))
    cells = raw.reshape(len(order), len(_TRAVERSALS), *raw.shape[1:])
    rows = [
        {
            "dimension": dimension,
            "kl": None if found.kl is None else float(found.kl[dimension]),
            "picture": view.picture(cells[row], 1),
        }
        for row, dimension in enumerate(order)
    ]
    return {"rows": rows, "original": view.picture(view.raw[[base]], 1), "conditional": bool(centre.any())}


def table(view: View) -> dict[str, Any] | None:
    """Return original against reconstructed and real against generated values, by column, for data without pictures."""
    if view.dataset.is_images:
        return None
    real, again = (values.flatten(1).double().numpy() for values in (view.raw, view.again))
    made = view.packaged.sample(len(real), draw=True, generator=SEED).flatten(1).double().numpy()
    names = list(view.dataset.columns) or [str(number) for number in range(real.shape[1])]
    rows: list[dict[str, Any]] = []
    charts: list[dict[str, str]] = []
    for column in range(min(len(names), _MOST_COLUMNS)):
        one, two = real[:, column], again[:, column]
        varies = one.std() > 0 and two.std() > 0 and np.isfinite(two).all()
        rows.append(
            {
                "name": names[column],
                "real": (one.mean(), one.std()),
                "made": (made[:, column].mean(), made[:, column].std()),
                "error": float(np.sqrt(np.square(one - two).mean())),
                "correlation": float(np.corrcoef(one, two)[0, 1]) if varies else None,
            }
        )
        if varies and len(charts) < 8:
            ax = figures.scatter(one[:400], two[:400])
            charts.append({"name": names[column], "svg": figures.to_svg(ax, f"column {column + 1}")})
    return {"rows": rows, "charts": charts, "left_out": len(names) - len(rows), "n": len(real)}


def principal_axes(
    points: Float[Tensor, "n D"],
) -> tuple[Float[Tensor, " D"], Float[Tensor, "D 2"], list[float]]:
    """Return the mean, the two main directions, and the share of the variance along each.

    The sign of a direction is such that its largest entry is positive.
    """
    centre = points.mean(0)
    _, sizes, directions = torch.linalg.svd(points - centre, full_matrices=False)
    axes = directions[:2].T
    largest = axes.abs().argmax(0, keepdim=True)
    axes = axes * axes.gather(0, largest).sign()
    total = float(sizes.square().sum())
    return centre, axes, [float(size.square()) / total if total else 0.0 for size in sizes[:2]]


def _columns(view: View) -> int:
    """Return how many pictures fit into a row: 10, fewer of wide ones."""
    height, width = view.dataset.shape[1:]
    return max(3, min(10, round(10 * height / width)))


def _pairs(y: Tensor | None, n: int, pairs: int, within: bool) -> list[tuple[int, int]]:
    """Return rows to walk between: of different classes, or ``within`` one, where there are classes."""
    result = []
    step = max(1, n // (2 * pairs))
    for start in range(0, n - 1, step):
        others = np.arange(start + 1, n)
        if y is not None:
            same = (y[others] == y[start]).numpy()
            others = others[same if within else ~same]
        if len(others):
            result.append((start, int(others[len(others) // 2])))
    return result[:pairs]


def _spread(points: Float[NDArray[Any], "n 2"], count: int) -> list[int]:
    """Return rows far from each other, each new one farthest from those before; the first is nearest to the middle."""
    distance = np.square(points - points.mean(0)).sum(1)
    chosen = [int(distance.argmin())]
    nearest = np.square(points - points[chosen[0]]).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(1))
    return chosen
