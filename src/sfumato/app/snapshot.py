r"""What the explorer knows about one set of weights: where the training images lie, and the planes to see them in.

A plane is an orthonormal pair of directions a1, a2 of the latent space through a centre c; an example with posterior
mean m is drawn at (a1, a2)^T (m - c). Two planes, both by own linear algebra:

* variance: the first two principal components of the posterior means;
* classes: Fisher's discriminants, the two directions of the largest between-class against within-class variance,
  made orthonormal. Reference: The use of multiple measurements in taxonomic problems, Fisher, 1936,
  https://doi.org/10.1111/j.1469-1809.1936.tb02137.x.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.app.bodies import shown
from sfumato.app.model import Served
from sfumato.core.errors import SfumatoError
from sfumato.core.numerics import fixed_noise
from sfumato.data import Dataset, InMemory
from sfumato.evaluation.latents import Latents, find_latents
from sfumato.report.pictures import shrink
from sfumato.verbs.opening import Opened, in_parts

POINTS = 5_000
SEED = 0x6D6170  # "map": which examples are shown
MOST_POINTS = 250_000
THUMBNAIL = 32
ATLAS = 16_000_000  # pixels of all thumbnails: of very many points they are smaller
RIDGE = 1e-4  # of the mean within-class variance: directions in which nothing varies separate nothing
NUMBERS = 16_000_000  # of posterior means that the page gets; with very many dimensions there are fewer points
DIRECTIONS = 64  # in which planes of very many dimensions are looked for


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One set of weights and what follows from it.

    Args:
        version: counts up with every new set of weights.
        opened: the model.
        served: the same, for threads.
        x: raw examples on the map, (n, *shape); none for a model without data, then the map shows its own samples.
        y: their class numbers, -1 where unknown.
        rows: their numbers in the data set, or None for samples.
        items: their file names, or None.
        latents: their posteriors; of samples, the z they were made from.
        total: how many training examples there are.
    """

    version: int
    opened: Opened
    served: Served
    x: NDArray[Any]
    y: NDArray[np.int64]
    rows: NDArray[np.int64] | None
    items: tuple[str, ...] | None
    latents: Latents
    total: int = 0
    _made: dict[str, Any] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def once(self, name: str, make: Callable[[Snapshot], Any]) -> Any:
        """Return what ``make`` makes of this snapshot, made when it is first asked for; others who ask wait."""
        with self._making:
            if name not in self._made:
                self._made[name] = make(self)
            return self._made[name]

    @property
    def step(self) -> int | None:
        """The step of the weights."""
        return self.opened.step

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes of the examples, also where the model does not use them."""
        known = self.served.names or tuple((self.opened.decided or {}).get("data", {}).get("class_names") or ())
        return tuple(map(str, known))

    @property
    def means(self) -> NDArray[np.float32]:
        """Posterior means, (n, D)."""
        array: NDArray[np.float32] = self.latents.mean.numpy()
        return array

    def order(self) -> NDArray[np.int64]:
        """Return the latent dimensions from the most to the least used, by KL, or by the variance of the means."""
        used = self.latents.variance_of_mean if self.latents.kl is None else self.latents.kl
        return np.argsort(-used.numpy(), kind="stable")

    def planes(self) -> dict[str, NDArray[np.float32]]:
        """Return name -> (2, D), orthonormal."""
        means, back = _reduced(self.means)
        found = {"variance": principal_plane(means) @ back}
        if len(np.unique(self.y[self.y >= 0])) > 1:
            found["classes"] = class_plane(means, self.y) @ back
        return found

    def atlas(self) -> Image.Image | None:
        """Return all thumbnails in one picture, in rows of ``ceil(sqrt(n))``; None where examples are no images."""
        if len(self.served.shape) != 3:
            return None
        side = min(THUMBNAIL, math.isqrt(ATLAS // len(self.x)))
        parts = in_parts(self.x)
        small = np.concatenate([shrink(shown(x, self.served.packaged.preprocessing), side) for (x,) in parts])
        small = small if small.shape[1] in (1, 3) else small[:, :1]
        n, channels, height, width = small.shape
        columns = math.ceil(math.sqrt(n))
        cells = np.zeros((columns * -(-n // columns), channels, height, width), np.uint8)
        cells[:n] = small
        grid = cells.reshape(-1, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
        flat = grid.reshape(grid.shape[0] * height, columns * width, channels)
        return Image.fromarray(flat[..., 0] if channels == 1 else flat)


def take_snapshot(opened: Opened, version: int, points: int, previous: Snapshot | None = None) -> Snapshot:
    """Encode the training examples of the map; without data, draw samples in their place.

    Args:
        opened: the model.
        version: of the snapshot.
        points: how many at most, chosen once and for all; 0: none, for a service without a map.
        previous: of the same run; its examples are taken again, not read again.
    """
    served = Served(opened.model, previous.served.noise) if previous else Served(opened.model)
    if not points:
        nothing = np.empty((0, *served.shape), np.float32)
        empty = Latents(torch.empty(0, served.latent_dim), None, None, None, None, None)
        return Snapshot(version, opened, served, nothing, np.empty(0, np.int64), None, None, empty)
    if previous is not None and previous.rows is not None:
        x, y, rows, items, total = previous.x, previous.y, previous.rows, previous.items, previous.total
    else:
        points = max(2, min(points, NUMBERS // served.latent_dim))
        found = _examples(opened, points)
        if found is None:
            return _of_samples(opened, served, version, min(points, 2_000))
        x, y, rows, items, total = found
    labels = torch.from_numpy(y) if served.packaged.model.num_classes else None
    examples = InMemory(torch.from_numpy(x), labels)
    with served.noise:
        latents = find_latents(opened.model.model, examples, opened.model.preprocessing)
    return Snapshot(version, opened, served, x, y, rows, items, latents, total)


def _reduced(means: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the means in few directions, and these directions as rows; unchanged where there are few dimensions."""
    dims = means.shape[1]
    if dims <= 4 * DIRECTIONS:
        return means, np.eye(dims, dtype=np.float32)
    with fixed_noise(SEED):
        _, _, directions = torch.pca_lowrank(torch.from_numpy(means), min(DIRECTIONS, len(means)), niter=4)
    back = directions.T.contiguous().numpy()
    return means @ back.T, back


def principal_plane(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first two principal directions of ``means`` (n, D), (2, D); with one dimension the second is zero.

    >>> principal_plane(np.array([[0, 0, 0], [4, 0, 0], [2, 1, 0], [2, -1, 0]], np.float32)).round(3) + 0.0
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """
    centred = means.astype(np.float64) - means.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return _fixed(vectors[:, ::-1].T)


def class_plane(means: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the plane in which the classes are farthest apart, measured by their own spread, (2, D).

    With two classes there is one such direction; the second is the principal one of what is orthogonal to it.
    """
    known = y >= 0
    wide, y = means[known].astype(np.float64), y[known]
    dims = wide.shape[1]
    within, between = 1e-12 * np.eye(dims), np.zeros((dims, dims))
    centre = wide.mean(0)
    classes = np.unique(y)
    for number in classes:
        part = wide[y == number]
        own = part.mean(0)
        within += (part - own).T @ (part - own)
        between += len(part) * np.outer(own - centre, own - centre)
    root = np.linalg.inv(np.linalg.cholesky(within + RIDGE * np.trace(within) / dims * np.eye(dims)))
    _, vectors = np.linalg.eigh(root @ between @ root.T)
    directions = (root.T @ vectors[:, ::-1]).T[: min(2, len(classes) - 1)]
    directions = np.linalg.qr(directions.T)[0].T
    if len(directions) == 2 or dims == 1:
        return _fixed(directions)
    rest = wide - centre
    rest = rest - rest @ directions.T @ directions
    return _fixed(np.concatenate([directions, principal_plane(rest.astype(np.float32))[:1]]))


def _fixed(directions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the first two directions, the largest number of each positive, so that pictures repeat."""
    pair = np.zeros((2, directions.shape[1]))
    pair[: len(directions)] = directions[:2]
    largest = np.take_along_axis(pair, np.abs(pair).argmax(1, keepdims=True), 1)
    return (pair * np.where(largest < 0, -1, 1)).astype(np.float32)


def _examples(
    opened: Opened, points: int
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], tuple[str, ...] | None, int] | None:
    """Return training examples, in the order of their numbers, and how many there are; None where they are gone."""
    try:
        dataset: Dataset = opened.prepared
    except SfumatoError:
        return None
    rows = dataset.rows("train")
    total = len(rows)
    if total > points:
        rows = np.random.default_rng(SEED).choice(rows, points, replace=False)
    rows = np.sort(rows)
    x = np.ascontiguousarray(dataset.x[rows])
    y = np.full(len(rows), -1) if dataset.y is None else dataset.y[rows]
    items = None if dataset.items is None else tuple(str(dataset.items[row]) for row in rows.tolist())
    return x, y, rows, items, total


def _of_samples(opened: Opened, served: Served, version: int, n: int) -> Snapshot:
    z, y = served.draw(n)
    x = np.concatenate([served.decode(z[i : i + 250], y[i : i + 250] if y[0] >= 0 else None) for i in range(0, n, 250)])
    latents = Latents(torch.from_numpy(z), None, None, None, None, None)
    return Snapshot(version, opened, served, x, y, None, None, latents)
