"""``sfumato claims``: the article, claim by claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.core.errors import UserError
from sfumato.core.spec import Size


def numbers(text: str) -> list[int]:
    """Return the numbers of "3,5".

    >>> numbers("3,5")
    [3, 5]
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--only must be numbers of claims, for instance 3,5; got '{text}'.") from None


Quick = Annotated[
    bool, typer.Option("--quick", help="Small and short: all ten in at most 15 minutes on 2 cores, on embedded data.")
]
Only = Annotated[
    str | None, typer.Option("--only", metavar="N,N", help="These claims.  [default: all]", show_default=False)
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Where results, figures and pages go; what is there already is not measured again.  "
        "[default: runs/claims, runs/claims-quick]",
        show_default=False,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        "--data",
        parser=options.source,
        metavar="DATA",
        help="Images with classes.  [default: fashion-mnist-mini]",
        show_default=False,
    ),
]
Docs = Annotated[
    Path | None,
    typer.Option("--docs", metavar="FOLDER", help="Write the pages and figures here as well.", show_default=False),
]
Many = Annotated[int | None, options.option("--seeds", Size, "Trainings of every arm.  [default: quick 6, else 10]")]
Workers = Annotated[int | None, options.option("--workers", Size, "Processes.  [default: one for each core]")]


@command(
    "claims",
    "sfumato claims --quick",
    "sfumato claims --quick --only 3,5",
    "sfumato claims --data fashion-mnist --out runs/article",
)
def claims(
    quick: Quick = False,
    only: Only = None,
    out: Folder = None,
    data: Images = None,
    seeds: Many = None,
    workers: Workers = None,
    docs: Docs = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is there.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Test the article's statements by experiment, and write what came out."""
    chosen = None if only is None else numbers(only)
    from sfumato.cli.printing import console, print_columns, show, show_json
    from sfumato.cli.progress import progress
    from sfumato.verbs.claims import claims as verb

    shown = progress(console(stderr=True), "img", quiet)
    try:
        summary = verb(
            out,
            quick=quick,
            only=chosen,
            data=data,
            seeds=seeds,
            workers=workers,
            docs=docs,
            force=force,
            tell=shown.on_measuring,
        )
    finally:
        shown.close()
    if json:
        show_json(summary)
        return 0
    from sfumato.claims import CLAIMS

    for number, found in summary["claims"].items():
        claim = CLAIMS[int(number)]
        rows = [(f"{number}. {claim.title.en}", found["verdict"], ", ".join(claim.statements))]
        print_columns(console(stderr=False), rows, dim=2)
        show(f"   {found['sentence']['en']}")
    folder = out or Path("runs") / ("claims-quick" if quick else "claims")
    show(f"pages    {(folder / 'article.md').resolve()}, article.zh.md")
    return 0
