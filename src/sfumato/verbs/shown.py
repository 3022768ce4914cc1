"""What a finished run shows of itself in Python: its line, its small table, its metrics, its plots, its explorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sfumato.core import html
from sfumato.core.errors import UserError
from sfumato.data import Dataset
from sfumato.io.run import RunFolder
from sfumato.models import PackagedModel
from sfumato.report import figures, panels, pictures
from sfumato.report.numbers import estimate_text, label, per_dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADLINES = ("bits_per_dim", "evidence_bound", "elbo", "elbo_given_label")


class Shown:
    """The face of a run; a record with ``path``, ``model``, ``evaluation`` and ``verdict`` is under it."""

    path: Path
    model: PackagedModel
    evaluation: dict[str, Any] | None
    verdict: tuple[str, ...]
    dataset: Dataset | None

    def __repr__(self) -> str:
        kind = type(self.model.model).__name__
        parts = [f"{kind}, latent {self.model.model.latent_dim}", *self._headline(), *self._active()]
        return f"Run({self.path.name}: {', '.join(parts if self.evaluation else [*parts, 'unfinished'])})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, Any]] = [("folder", self.path), ("model", self.model)]
        values = (self.evaluation or {}).get("values") or {}
        rows += [(label(name).name, " ".join(self._words(values[name]))) for name in HEADLINES if name in values]
        rows += [("latents", text) for text in self._active()]
        return html.table(f"Run {self.path.name}", [*rows, *(("verdict", text) for text in self.verdict)])

    @property
    def metrics(self) -> Any:
        """The logged lines as a pandas DataFrame: step, split, and means in nats."""
        if find_spec("pandas") is None:
            raise UserError("metrics come as a frame of pandas, which is not installed. Run: pip install pandas")
        import pandas

        return pandas.DataFrame(RunFolder(self.path).metrics.read())

    @property
    def plot(self) -> Plot:
        """The pictures of the report, each with ``ax=``."""
        return Plot(self)

    def explore(self, **words: Any) -> Any:
        """Open the explorer: inline in a notebook, in a tab of the browser elsewhere."""
        place = import_module("sfumato.app.python")  # the explorer stands above the verbs: found when it is asked for
        return place.explore(self, **words)

    def _words(self, entry: Mapping[str, Any]) -> list[str]:
        value, error, unit = estimate_text(entry)
        return [value, *(["±", error] if error else []), unit]

    def _headline(self) -> list[str]:
        values = (self.evaluation or {}).get("values") or {}
        return [" ".join(self._words(values[name])) for name in HEADLINES if name in values][:1]

    def _active(self) -> list[str]:
        units = (self.evaluation or {}).get("active_units") or {}
        return [f"{units['value']}/{units['of']} active"] if units.get("value") is not None else []


class Plot:
    """The pictures of a run. Every one takes ``ax``, None for a new figure, and returns the Axes.

    Args:
        run: what was trained.
    """

    def __init__(self, run: Shown) -> None:
        self.run = run

    def __repr__(self) -> str:
        return f"Plot({self.run.path.name}: curves, kl, latent, reconstructions, samples)"

    def curves(self, quantity: str = "elbo", ax: Axes | None = None) -> Axes:
        """Draw a quantity of the metrics over the steps, in nats unless its name says otherwise."""
        ax = figures.curves(RunFolder(self.run.path).metrics.read(), quantity, ax)
        ax.set_title(label(quantity).name)
        return ax

    def kl(self, ax: Axes | None = None) -> Axes:
        """Draw the KL of each latent dimension, nats, largest first."""
        found = per_dimension(self.run.evaluation)
        if not found:
            raise UserError("this run has no KL for each dimension yet. Train it to its end.")
        return figures.kl_per_dimension(found, ax=ax)

    def latent(self, n: int = 1_000, ax: Axes | None = None) -> Axes:
        """Draw the posterior means of ``n`` test examples in the plane of their two main directions."""
        with self._view(n) as view:
            found = panels.draw_latent_map(view, ax)
        if found is None:
            raise UserError("a map needs two latent dimensions and three examples or more; this run has fewer.")
        return found.ax

    def reconstructions(self, n: int = 8, ax: Axes | None = None) -> Axes:
        """Draw ``n`` test examples above their reconstructions; of tables every value against its reconstruction."""
        with self._view(n if self._images else 400) as view:
            if not self._images:
                x, again = (self.run.model.preprocessing(raw).flatten().numpy() for raw in (view.raw, view.again))
                ax = figures.scatter(x, again, ax)
                ax.set_xlabel("original, scaled")
                ax.set_ylabel("reconstructed, scaled")
                return ax
            both = torch.cat([view.raw, view.again.to(view.raw.dtype)])
        return self._picture(both, len(view.raw), ("original", "again"), ax)

    def samples(self, n: int = 32, label: str | int | None = None, seed: int = 0, ax: Axes | None = None) -> Axes:
        """Draw ``n`` new images, of one class by name or number if asked."""
        if not self._images:
            raise UserError(
                "samples can be drawn of images; this model makes rows. Use run.model.sample(n, draw=True)."
            )
        return self._picture(self.run.model.sample(n, label, generator=seed), min(n, 8), None, ax)

    @property
    def _images(self) -> bool:
        return len(self.run.model.preprocessing.shape) == 3

    @contextmanager
    def _view(self, n: int) -> Iterator[panels.View]:
        from sfumato.verbs.opening import open_model

        dataset = open_model(self.run.path).dataset if self.run.dataset is None else self.run.dataset
        prepared = self.run.model.preprocessing.prepare(dataset)
        with panels.looking(self.run.model, prepared, "test", n) as view:
            if view is None:
                raise UserError("there are no test examples to show. Choose another --split.")
            yield view

    def _picture(self, raw: torch.Tensor, columns: int, captions: tuple[str, ...] | None, ax: Axes | None) -> Axes:
        page = pictures.image_grid(raw, columns, captions, self.run.model.preprocessing)
        ax = figures.new_axes((page.width / 100, page.height / 100)) if ax is None else ax
        ax.imshow(page, cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        return ax
