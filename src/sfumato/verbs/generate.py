"""``sfumato sample``, ``reconstruct``, ``interpolate`` and ``decode``: what a model makes, as pictures or numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.spec import Count, NonNegative, Size, checked
from sfumato.data import Columns
from sfumato.data.arrays import read_npy
from sfumato.models import Model
from sfumato.verbs.encode import level_names
from sfumato.verbs.opening import Opened, as_numpy, in_parts, open_model
from sfumato.verbs.writing import output_path, result_path, write_arrays, write_picture, write_table

EACH_CLASS = 8
PLAIN = 64
CHOICE = 0x63686F696365  # "choice": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class Made:
    """Examples that a model made.

    Args:
        x: in raw units, (n, *shape); interpolations (paths, steps, *shape).
        label: class numbers (n,), -1 where there is none.
        files: what was written.
    """

    x: NDArray[Any]
    label: NDArray[np.int64]
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        files = ", ".join(map(str, self.files)) or "nothing written"
        return f"Made({len(self.x):,} examples; {files})"


def sample(
    source: str | Path,
    n: int | None = None,
    *,
    label: str | int | None = None,
    temperature: float | Sequence[float] = 1.0,
    draw: bool | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    arrays: str | Path | None = None,
    force: bool = False,
) -> Made:
    """Generate.

    Args:
        source: a run or a model folder.
        n: how many; by default 64, or 8 of each class.
        label: the name or number of a class; None: a conditional model makes all of them, a row each.
        temperature: multiplies the standard deviation of the prior; of a ladder also one for each level, top first.
        draw: draw from p(x | z) instead of taking its mean; by default not for images, and for anything else.
        seed: the same seed, the same samples.
        out: the file, by its ending a picture, arrays or a table; by default ``samples`` in the current folder.
        arrays: another file, with the arrays x and label.
        force: allow the files to be there.
    """
    opened = open_model(source)
    path, extra = _paths(opened, out, "samples", arrays, force)
    model = opened.model
    wanted = model.label(label)
    if isinstance(temperature, int | float):
        temperature = checked(temperature, NonNegative, "--temperature")
    else:
        temperature = tuple(checked(each, NonNegative, "--temperature") for each in temperature)
    seed = checked(seed, Count, "--seed")
    count = checked(n, Size, "-n") if n is not None else None
    if model.model.num_classes and wanted is None:
        count = EACH_CLASS * model.model.num_classes if count is None else count
        labels = np.sort(np.arange(count) % model.model.num_classes)
    else:
        labels = np.full(PLAIN if count is None else count, -1 if wanted is None else wanted)
    draw = not opened.is_images if draw is None else draw
    parts = []
    for number, (part,) in enumerate(in_parts(labels)):
        asked = part.tolist() if part[0] >= 0 else None
        noise = seed_for(CHOICE, seed, number)
        parts.append(model.sample(len(part), asked, temperature, draw=draw, generator=noise))
    x = as_numpy(torch.cat(parts))
    if model.model.num_classes and wanted is None:
        rows = [(name, x[labels == number]) for number, name in enumerate(_names(opened)) if (labels == number).any()]
    else:
        side = 8 if len(x) <= PLAIN else 16
        rows = [("", x[start : start + side]) for start in range(0, len(x), side)]
    return _write(opened, x, labels, rows, path, extra)


def reconstruct(
    source: str | Path,
    data: Any = None,
    *,
    n: int = 16,
    split: str | None = None,
    out: str | Path | None = None,
    arrays: str | Path | None = None,
    force: bool = False,
) -> Made:
    """Encode and decode again: the expected data at the posterior mean.

    Args:
        source: a run or a model folder.
        data: what to reconstruct, in place of the data of the run.
        n: how many examples the picture shows, spread evenly; arrays and tables hold all of them.
        split: of the data of the run, by default test.
        out: the file; by default ``reconstructions`` in the current folder.
        arrays: another file, with the arrays x, reconstruction and label.
        force: allow the files to be there.
    """
    opened = open_model(source)
    path, extra = _paths(opened, out, "reconstructions", arrays, force)
    n = checked(n, Size, "-n")
    x, y = opened.examples(data, split or ("test" if data is None else None))
    parts = [opened.model.reconstruct(raw, labels) for raw, labels in in_parts(x, opened.seen(y))]
    made = np.concatenate(parts)
    chosen = np.unique(np.linspace(0, len(x) - 1, min(n, len(x))).round().astype(int))
    rows = []
    for start in range(0, len(chosen), 8):
        part = chosen[start : start + 8]
        rows += [("original", x[part]), ("reconstructed", made[part])]
    return _write(opened, made, y, rows, path, extra, x)


def interpolate(
    source: str | Path,
    data: Any = None,
    *,
    start: int | None = None,
    end: int | None = None,
    n: int = 6,
    steps: int = 10,
    split: str | None = None,
    path: Literal["spherical", "linear"] = "spherical",
    seed: int = 0,
    out: str | Path | None = None,
    arrays: str | Path | None = None,
    force: bool = False,
) -> Made:
    """Decode the way from one example to another.

    Args:
        source: a run or a model folder.
        data: where the examples come from, in place of the data of the run.
        start: the number of the first example in its split.
        end: the number of the last one; without both, ``n`` pairs are chosen by the seed.
        n: how many pairs.
        steps: points on each way, both ends included.
        split: of the data of the run, by default test.
        path: spherical or linear.
        seed: chooses the pairs.
        out: the file; by default ``interpolations`` in the current folder.
        arrays: another file, with the array x.
        force: allow the files to be there.
    """
    if (start is None) != (end is None):
        raise UserError("--from and --to belong together; got one of them. Give both, or none for random pairs.")
    if path not in ("spherical", "linear"):
        raise UserError(
            f"--path should be spherical or linear; got '{path}'. {did_you_mean(path, ('spherical', 'linear'))}"
        )
    opened = open_model(source)
    place, extra = _paths(opened, out, "interpolations", arrays, force)
    steps, n = checked(steps, Size, "--steps"), checked(n, Size, "-n")
    x, y = opened.examples(data, split or ("test" if data is None else None))
    model = opened.model
    if start is None or end is None:
        firsts, lasts = _pairs(y, n, seed, together=model.model.labels_reach_networks)
    else:
        firsts, lasts = (
            np.array([_number(value, len(x), f"--{word}")]) for value, word in ((start, "from"), (end, "to"))
        )
    made = model.interpolate(x[firsts], x[lasts], steps, path, opened.seen(y[firsts])).swapaxes(0, 1)
    rows = [("", way) for way in made]
    if place.suffix == ".csv":
        made = made.reshape(-1, *made.shape[2:])
    return _write(opened, made, np.full(len(made), -1), rows, place, extra)


def decode(
    source: str | Path,
    latents: str | Path | NDArray[Any],
    *,
    label: str | int | None = None,
    out: str | Path | None = None,
    arrays: str | Path | None = None,
    force: bool = False,
) -> Made:
    """Decode latent vectors: the expected data of p(x | z).

    Args:
        source: a run or a model folder.
        latents: (n, latent_dim); or a ``.npy``, or a ``.npz`` with the array z or mean, or of a ladder mean_1, mean_2,
            ..., as ``encode`` writes it.
        label: the class for a decoder that sees labels; by default the array label of the ``.npz``.
        out: the file; by default ``decoded`` in the current folder.
        arrays: another file, with the arrays x and label.
        force: allow the files to be there.
    """
    opened = open_model(source)
    model = opened.model
    path, extra = _paths(opened, out, "decoded", arrays, force)
    z, y = (latents, None) if isinstance(latents, np.ndarray) else _read_latents(Path(latents), model.model)
    dims = model.model.latent_dim
    if z.ndim != 2 or z.shape[1] != dims:
        raise UserError(
            f"the latent vectors should have the shape (n, {dims}); got {z.shape}. Give those of this model."
        )
    wanted = model.label(label)
    labels = np.full(len(z), wanted) if wanted is not None else y if y is not None else np.full(len(z), -1)
    if len(labels) != len(z) or labels.max(initial=-1) >= max(1, model.model.num_classes):
        labels = np.full(len(z), -1)
    made = np.concatenate([as_numpy(model.decode(*part)) for part in in_parts(z, opened.seen(labels))])
    side = 8 if len(made) <= PLAIN else 16
    rows = [("", made[start : start + side]) for start in range(0, len(made), side)]
    return _write(opened, made, labels, rows, path, extra)


def _paths(
    opened: Opened, out: str | Path | None, stem: str, arrays: str | Path | None, force: bool
) -> tuple[Path, Path | None]:
    path = result_path(opened, out, stem, force)
    return path, None if arrays is None else output_path(arrays, "", (".npz",), force)


def _write(
    opened: Opened,
    x: NDArray[Any],
    label: NDArray[np.int64],
    rows: Sequence[tuple[str, NDArray[Any]]],
    path: Path,
    extra: Path | None,
    original: NDArray[Any] | None = None,
) -> Made:
    """Write what was made in the form that the ending asks for, and again as arrays where asked."""
    content = {"x": x, "label": label}
    if original is not None:
        content = {"x": original[:], "reconstruction": x, "label": label}
    files = []
    if path.suffix.lower() == ".png":
        files.append(write_picture(path, rows, opened.model.preprocessing))
    elif path.suffix.lower() == ".csv":
        names = [*_names(opened), ""]
        classes = [names[number] for number in label.tolist()] if (label >= 0).any() else None
        preprocessing = opened.model.preprocessing
        kinds = preprocessing.columns if isinstance(preprocessing, Columns) else None
        files.append(write_table(path, opened.columns, x, classes, kinds))
    else:
        files.append(write_arrays(path, **content))
    if extra is not None:
        files.append(write_arrays(extra, **content))
    return Made(x, label, tuple(files))


def _names(opened: Opened) -> tuple[str, ...]:
    count = max(opened.model.model.num_classes, len(opened.model.class_names))
    return (*opened.model.class_names, *map(str, range(len(opened.model.class_names), count)))


def _pairs(y: NDArray[np.int64], n: int, seed: int, together: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pairs of examples; of one class where the networks see it, else of two where there are classes."""
    with fixed_noise(seed_for(CHOICE, seed)):
        order = torch.randperm(len(y)).numpy()
    firsts, lasts = [], []
    for position in range(n):
        first = order[position % len(order)]
        same = y[order] == y[first]
        wanted = same if together else ~same
        others = order[wanted & (order != first)]
        others = order[order != first] if not len(others) else others
        firsts.append(first)
        lasts.append(others[(7 * position) % len(others)] if len(others) else first)
    return np.array(firsts), np.array(lasts)


def _number(value: int, count: int, option: str) -> int:
    if not 0 <= value < count:
        raise UserError(f"{option} must be the number of an example, from 0 to {count - 1:,}; got {value:,}.")
    return value


def _read_latents(path: Path, model: Model) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    if not path.exists():
        raise UserError(
            f"'{path}' does not exist. Give latent vectors as .npz (as `sfumato encode` writes them) or .npy."
        )
    if path.suffix.lower() == ".npy":
        return read_npy(path).x, None
    if path.suffix.lower() != ".npz":
        raise UserError(f"{path.name} should hold latent vectors as .npz or .npy. Make one with: sfumato encode")
    try:
        with np.load(path, allow_pickle=False) as archive:
            label = archive["label"] if "label" in archive.files else None
            if len(model.level_shapes) > 1 and set(level_names(model)) <= set(archive.files):
                levels = [np.asarray(archive[name], dtype=np.float32) for name in level_names(model)]
                return np.concatenate([level.reshape(len(level), -1) for level in levels], 1), label
            names = [name for name in ("z", "mean", "x") if name in archive.files] or archive.files
            return np.asarray(archive[names[0]], dtype=np.float32), label
    except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.name} should hold an array named z or mean ({error}). Make it again.") from None
