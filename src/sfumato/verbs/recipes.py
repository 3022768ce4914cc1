"""``sfumato recipes``: everything that ``train --recipe`` takes."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.recipes import LADDERS, RECIPES
from sfumato.recipes.papers import PAPERS


@dataclass(frozen=True)
class Entry:
    """A recipe.

    Args:
        name: what ``--recipe`` takes.
        kind: networks, ladder or paper.
        about: what it is.
        reference: of a paper: authors, year, where; else empty.
    """

    name: str
    kind: str
    about: str
    reference: str = ""


def recipes() -> list[Entry]:
    """Return all recipes: networks for the VAE, ladders, papers."""
    return [
        *(Entry(name, "networks", recipe.about) for name, recipe in RECIPES.items()),
        *(Entry(name, "ladder", about) for name, about in LADDERS.items()),
        *(Entry(name, "paper", paper.about, paper.reference) for name, paper in PAPERS.items()),
    ]
