"""``sfumato inspect``: what data are, and what would be done with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core import html
from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.data import Dataset, Decision, Inspection, build_preprocessing
from sfumato.recipes import Options, foresee
from sfumato.verbs.train import read
from sfumato.verbs.writing import output_path, write_picture

SHEET = 64


@dataclass(frozen=True, eq=False)
class Inspected:
    """What :func:`inspect` found.

    Args:
        dataset: the data.
        facts: about them.
        decisions: what a training would decide from them.
        options: what was asked for.
    """

    dataset: Dataset
    facts: Inspection
    decisions: tuple[Decision, ...]
    options: Options

    def __repr__(self) -> str:
        return repr(self.dataset)

    def _repr_html_(self) -> str:
        rows: list[tuple[str, Any]] = [("examples", f"{len(self.dataset):,}"), ("shape", self.facts.shape)]
        rows += [("classes", ", ".join(f"{name} {count:,}" for name, count in self.facts.classes.items()))]
        rows += [(decision.name, f"{decision.value}, because {decision.because}") for decision in self.decisions]
        return html.table(f"Data {self.dataset.name}", [(name, value) for name, value in rows if value != ""])

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> how many files or rows were not taken."""
        return dict(Counter(why for _, why in self.dataset.left_out).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for json."""
        return {
            "name": self.dataset.name,
            "facts": self.facts.to_dict(),
            "left_out": [list(pair) for pair in self.dataset.left_out],
            "decisions": [decision.to_dict() for decision in self.decisions],
            "fingerprint": self.dataset.fingerprint,
        }

    def write_sheet(self, path: str | Path, force: bool = False) -> Path:
        """Write a PNG of training images as the network will see them.

        Raises:
            UserError: the data are no images, or the file is there.
        """
        if not self.dataset.is_images:
            raise UserError(f"--sheet is for images; {self.facts.source} holds none. Leave it out.")
        place = output_path(path, "", (".png",), force)
        preprocessing = build_preprocessing(self.facts, self.decisions, self.dataset, self.options.seed)
        images = self.dataset.array("train")
        chosen = np.unique(np.linspace(0, len(images) - 1, SHEET).round().astype(int))
        with fixed_noise(self.options.seed), torch.no_grad():
            seen = preprocessing.inverse(preprocessing(torch.from_numpy(images[chosen]))).numpy()
        rows = [("", seen[start : start + 8]) for start in range(0, len(seen), 8)]
        return write_picture(place, rows, preprocessing)


def inspect(source: Any, *, options: Options = Options(), **reading: Any) -> Inspected:  # noqa: B008 - immutable
    """Read data and say what is in there and what would be decided.

    Args:
        source: what :func:`~sfumato.data.load_dataset` takes, or a data set.
        options: what was asked for.
        reading: more arguments for ``load_dataset``.
    """
    dataset = source if isinstance(source, Dataset) else read(source, options, reading)
    facts, decisions = foresee(dataset, options)
    return Inspected(dataset, facts, tuple(decisions), options)
