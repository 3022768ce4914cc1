"""From a folder to an application that is bound to a port: what the commands and Python share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.app.application import build
from sfumato.app.guard import Guard
from sfumato.app.server import Place, place
from sfumato.app.snapshot import POINTS
from sfumato.app.watching import watch


def open_explorer(run: str | Path, *, points: int = POINTS, **where: Any) -> tuple[Guard, Place]:
    """Return the explorer of a run or a model, and where it will listen.

    Args:
        run: its folder.
        points: how many training examples the map shows at most.
        where: see :func:`~sfumato.app.server.place`.

    Raises:
        UserError: not a run, or not a place.
    """
    watched = watch(run, points)
    bound = place(**where)
    return build(watched, bound.house, page=True), bound


def open_service(run: str | Path, **where: Any) -> tuple[Guard, Place]:
    """Return the service of a run or a model, without the page, and where it will listen."""
    watched = watch(run, 0)
    bound = place(**where)
    return build(watched, bound.house, page=False), bound
