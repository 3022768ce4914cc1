"""``sfumato claims``: the article's statements, each as a measured experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.claims import FULL, QUICK, Setting, run_claims, write_pages
from sfumato.core.spec import Size, checked


def claims(
    out: str | Path | None = None,
    *,
    quick: bool = False,
    only: Sequence[int] | None = None,
    data: str | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    docs: str | Path | None = None,
    force: bool = False,
    setting: Setting | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the claims, or go on with it, and write verdicts, figures and pages.

    Args:
        out: the folder; by default runs/claims, or runs/claims-quick.
        quick: all on the embedded data, in at most 15 minutes on 2 cores.
        only: numbers of claims; None: all.
        data: other labelled images.
        seeds: trainings of every arm.
        workers: processes; by default one for each core.
        docs: a folder where the pages and figures go as well.
        force: measure again what is there.
        setting: every number; by default that of ``quick``, or the full one.
        tell: called as tell(part, done, of) as the work goes on.

    Returns:
        what is in ``claims.json``.

    Raises:
        UserError: no such claim, data without classes, or results of another setting in ``out``.
    """
    chosen = setting or (QUICK if quick else FULL)
    if data is not None:
        chosen = replace(chosen, data=data)
    if seeds is not None:
        chosen = replace(chosen, seeds=checked(seeds, Size, "--seeds"))
    folder = Path(out).expanduser() if out is not None else Path("runs") / ("claims-quick" if quick else "claims")
    summary = run_claims(chosen, folder, only=only, force=force, workers=workers, tell=tell)
    if docs is not None:
        write_pages(summary, Path(docs).expanduser())
    return summary
