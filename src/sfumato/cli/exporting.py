"""``sfumato export``, ``import`` and ``cite``: models for other software, and from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command

TARGETS = ("onnx", "diffusers", "hub", "site")
SCALINGS = ("both", "factor", "channels")

To = Annotated[str | None, options.chosen("--to", TARGETS, "The form.  [default: onnx]")]
Repo = Annotated[
    str | None, typer.Argument(metavar="[OWNER/NAME]", help="The model on the Hub, with --to hub.", show_default=False)
]
Place = Annotated[Path | None, options.written("FOLDER", "Where to write.  [default: export in the run]")]
Check = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check", help="Compare with torch on test data; default where there are data.", show_default=False
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Other data than those of the run.", show_default=False),
]
Scaling = Annotated[
    str | None, options.chosen("--scaling", SCALINGS, "How diffusers gets the scale of latents.  [default: both]")
]
Private = Annotated[bool, typer.Option("--private", help="A repository that is made is private.")]
Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of diffusers' AutoencoderKL.")]
Images = Annotated[
    str | None,
    typer.Argument(
        parser=options.source,
        metavar="[DATA]",
        help="8-bit images: measures the decoder's variance, and evaluates.",
        show_default=False,
    ),
]
RunOut = Annotated[Path | None, options.written("RUN", "Where to write.  [default: runs/NAME]")]


@command(
    "export",
    "sfumato export runs/photos",
    "sfumato export runs/photos --to onnx --check -o graphs/",
    "sfumato export runs/photos --to diffusers",
    "sfumato export runs/photos --to hub ada/photos --private",
    "sfumato export runs/photos --to site -o site/",
)
def export(
    run: options.Model,
    repo: Repo = None,
    to: To = None,
    out: Place = None,
    check: Check = None,
    data: Data = None,
    scaling: Scaling = None,
    private: Private = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> int:
    """Write a model for ONNX, diffusers, the Hugging Face Hub, or as a page that needs no server."""
    if to == "site":
        from sfumato.cli.serving import export_site

        unused = {
            "OWNER/NAME": repo,
            "--check": check,
            "--data": data,
            "--scaling": scaling,
            "--private": private or None,
        }
        return export_site(run, out, force, json, unused)
    from sfumato.cli.printing import console, print_columns, say, show, show_json
    from sfumato.verbs.export import export as verb

    given: dict[str, Any] = {"scaling": scaling or "both", "private": private, "force": force, "seed": seed}
    made = verb(run, to or "onnx", repo, data=data, out=out, check=check, **given)  # type: ignore[arg-type]
    if json:
        show_json(made.to_dict())
        return 0
    show(made.place)
    rows = [(name, _bytes(size), what) for name, size, what in made.files]
    print_columns(console(stderr=False), rows, indent=2)
    if made.differences:
        kind = f"{made.split} examples" if made.split else "examples"
        largest = max(made.differences.values())
        other = "diffusers against sfumato" if made.to == "diffusers" else "onnxruntime against torch"
        show(f"  checked on {made.checked:,} {kind}, {other}: largest difference {largest:.1e}")
    for note in made.notes:
        show(f"  {note}")
    say(f'next:  python -c "{made.snippet}"')
    return 0


@command(
    "import",
    "sfumato import vae/ -o runs/imported",
    "sfumato import vae/ photos/ --size 64",
)
def import_(
    folder: Folder,
    data: Images = None,
    size: options.ImageSize = None,
    label: options.Label = None,
    split: options.Shares = None,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: RunOut = None,
    quiet: options.Quiet = False,
) -> int:
    """Read diffusers' AutoencoderKL as a model; with DATA, evaluate it."""
    from sfumato.cli.printing import console, next_block, print_columns, say, show
    from sfumato.cli.progress import progress
    from sfumato.io.store import shown
    from sfumato.verbs.from_diffusers import import_first_stage as verb

    reading: dict[str, Any] = {"label": label, "skip_bad": skip_bad} if data is not None else {}
    if data is not None and split is not None:
        reading["split"] = split
    bar = progress(console(stderr=True), "img", quiet)
    try:
        made = verb(folder, data, out=out, size=size, seed=seed, tell=bar.on_measuring, **reading)
    finally:
        bar.close()
    place = shown(made.path)
    shape = "x".join(map(str, made.model.preprocessing.shape))
    show(f"{place}   images {shape}, {made.model.model.latent_dim:,} latent dimensions")
    if made.sigma is None:
        show("  the decoder's variance is not measured: give DATA, or train on")
        say(next_block(["sample", place, "-o", "samples.png"]))
        return 0
    show(f"  the decoder's standard deviation is {made.sigma:.3g} grey values, measured")
    if made.evaluation is not None:
        from sfumato.cli.talk import evaluation_rows

        print_columns(console(stderr=False), evaluation_rows(made.evaluation, short=True), indent=2, dim=2)
    begin = ["train", str(data), "--from", place, "--epochs", "5", "--out", f"{place}-tuned"]
    say(next_block(["evaluate", place], begin))
    return 0


@command("cite", "sfumato cite runs/photos")
def cite(run: options.Model) -> int:
    """Print the BibTeX of what a run used."""
    from sfumato.cli.printing import show
    from sfumato.verbs.cite import cite as verb

    show(verb(run).rstrip())
    return 0


def _bytes(size: int) -> str:
    """Return a number of bytes as people read it."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
