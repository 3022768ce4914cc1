"""``sfumato sample``, ``reconstruct``, ``encode``, ``decode``, ``interpolate``, ``impute``: what a model makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.cli.together import as_one
from sfumato.core.errors import UserError
from sfumato.core.spec import Count, NonNegative, Size

Number = Annotated[int | None, options.option("-n", Size, "How many.  [default: 64, or 8 of each class]")]
Shown = Annotated[int | None, options.option("-n", Size, "How many the picture shows.  [default: 16]")]
Pairs = Annotated[int | None, options.option("-n", Size, "How many pairs.  [default: 6]")]
Points = Annotated[int | None, options.option("--steps", Size, "Points on each way.  [default: 10]")]


def temperature_of(text: Any) -> Any:
    """Return one temperature, or one for each level of a ladder, "1,0.8,0.5"."""
    one = options.number("--temperature", NonNegative)
    return one(text) if not isinstance(text, str) or "," not in text else tuple(map(one, text.split(",")))


Temperature = Annotated[
    Any,
    typer.Option(
        "--temperature",
        parser=temperature_of,
        metavar="T",
        help="Times the deviation of the prior; of a ladder also one for each level: 1,0.8,0.5.  [default: 1]",
        show_default=False,
    ),
]
Draw = Annotated[
    bool | None,
    typer.Option(
        "--draw/--mean", help="Draw from p(x | z), or its mean; default: the mean for images.", show_default=False
    ),
]
From = Annotated[int | None, options.option("--from", Count, "Number of the first example in its split.")]
To = Annotated[int | None, options.option("--to", Count, "Number of the last example.")]
Way = Annotated[str | None, options.chosen("--path", ("spherical", "linear"), "The way in the latent space.")]
Tile = Annotated[
    int | None,
    options.option(
        "--tile", Size, "DATA is one image of any size, in tiles of this side (recipe autoencoder-kl).", "SIDE"
    ),
]
MoreData = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]", help="Other data than those of the run, in any form that train takes.", show_default=False
    ),
]
Table = Annotated[
    str, typer.Argument(metavar="DATA", help="A .csv or .parquet with missing cells.", show_default=False)
]
Draws = Annotated[int | None, options.option("--samples", Size, "Draws of z for each row.  [default: 500]")]
Latents = Annotated[
    str, typer.Argument(metavar="Z.npz", help="Latent vectors: .npz with z or mean, or .npy.", show_default=False)
]


@command(
    "sample",
    "sfumato sample runs/photos -o samples.png",
    "sfumato sample runs/photos --class star -n 64 -o stars.png --arrays stars.npz",
    "sfumato sample runs/people/model -n 1000 -o people.csv",
)
def sample(
    run: options.Model,
    n: Number = None,
    class_: options.ClassName = None,
    temperature: Temperature = None,
    draw: Draw = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    arrays: options.Arrays = None,
    force: options.Force = False,
) -> int:
    """Generate examples, of one class or a row of each."""
    from sfumato.verbs import generate

    made = generate.sample(
        run,
        n,
        label=class_,
        temperature=1.0 if temperature is None else temperature,
        draw=draw,
        seed=seed,
        out=out,
        arrays=arrays,
        force=force,
    )
    return _tell(made.files, f"{len(made.x):,} samples")


@command(
    "reconstruct",
    "sfumato reconstruct runs/photos -o again.png",
    "sfumato reconstruct runs/photos new-photos/ -o new.png",
    "sfumato reconstruct runs/photos large.png --tile 256 -o again.png",
)
def reconstruct(
    run: options.Model,
    data: MoreData = None,
    n: Shown = None,
    split: options.Split = None,
    label: options.Label = None,
    tile: Tile = None,
    out: options.Out = None,
    arrays: options.Arrays = None,
    force: options.Force = False,
) -> int:
    """Encode and decode: originals above what comes back."""
    from sfumato.verbs import generate

    model, source = _sorted(run, data)
    if tile is not None:
        return _reconstruct_tiled(model, source, tile, out, force)
    more = {} if n is None else {"n": n}
    made = generate.reconstruct(
        model, _with_label(source, label), split=split, out=out, arrays=arrays, force=force, **more
    )
    return _tell(made.files, f"{len(made.x):,} reconstructions")


@command(
    "encode", "sfumato encode runs/photos -o latents.npz", "sfumato encode runs/photos/model new-photos/ -o latents.npz"
)
def encode(
    run: options.Model,
    data: MoreData = None,
    split: options.Split = None,
    label: options.Label = None,
    out: options.Out = None,
    force: options.Force = False,
) -> int:
    """Write mean, log_variance and label of every example."""
    from sfumato.verbs.encode import encode as verb

    def work(first: bool) -> int:
        model, source = _sorted(run, data)
        arrays, path = verb(model, _with_label(source, label), split=split, out=out, force=force)
        shapes = " · ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items())
        return _tell([path], shapes) if first else 0

    return as_one(work)


@command("decode", "sfumato decode runs/photos latents.npz -o decoded.png")
def decode(
    run: options.Model,
    latents: Latents,
    class_: options.ClassName = None,
    out: options.Out = None,
    arrays: options.Arrays = None,
    force: options.Force = False,
) -> int:
    """Decode latent vectors."""
    from sfumato.verbs import generate

    model, source = _sorted(run, latents)
    made = generate.decode(model, str(source), label=class_, out=out, arrays=arrays, force=force)
    return _tell(made.files, f"{len(made.x):,} decoded")


@command(
    "interpolate",
    "sfumato interpolate runs/photos -o ways.png",
    "sfumato interpolate runs/photos --from 3 --to 17 --path linear -o way.png",
)
def interpolate(
    run: options.Model,
    data: MoreData = None,
    start: From = None,
    end: To = None,
    n: Pairs = None,
    steps: Points = None,
    path: Way = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    arrays: options.Arrays = None,
    force: options.Force = False,
) -> int:
    """Decode the way from one example to another."""
    from sfumato.verbs import generate

    model, source = _sorted(run, data)
    given: dict[str, Any] = {"n": n, "steps": steps, "path": path}
    more = {name: value for name, value in given.items() if value is not None}
    made = generate.interpolate(
        model, source, start=start, end=end, split=split, seed=seed, out=out, arrays=arrays, force=force, **more
    )
    return _tell(made.files, f"{len(made.x):,} ways")


@command("impute", "sfumato train people.csv --likelihood mixed", "sfumato impute runs/people people.csv -o whole.csv")
def impute(
    run: options.Model,
    data: Table,
    samples: Draws = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    force: options.Force = False,
) -> int:
    """Fill the missing cells of a table from what is there in their rows; nothing else changes."""
    from sfumato.verbs.impute import impute as verb

    model, source = _sorted(run, data)
    more = {} if samples is None else {"samples": samples}
    found = verb(model, str(source), seed=seed, out=out, force=force, **more)
    cells = sum(found.filled.values())
    return _tell([found.path], f"{cells:,} cells in {len(found.filled)} columns filled, {found.samples:,} draws a row")


def _reconstruct_tiled(model: str, image: str | None, tile: int, out: Path | None, force: bool) -> int:
    """Reconstruct one image of any size, and say what the tiles cost."""
    if image is None:
        raise UserError("--tile needs an image.  For instance: sfumato reconstruct runs/photos large.png --tile 256")
    from sfumato.cli.printing import show
    from sfumato.verbs.tiling import reconstruct_large

    made = reconstruct_large(model, image, tile=tile, out=out, force=force)
    if made.seam is None:
        show("seams    not measured: the image is too large to be computed at once")
    else:
        show(
            f"seams    rms {made.seam.rms:.2g}, largest {made.seam.largest:.2g} grey values from the whole image at "
            f"once, whose deviation is {made.seam.deviation:.3g}"
        )
    assert made.path is not None
    return _tell([made.path], f"{'x'.join(map(str, made.x.shape[1:]))} pixels")


def _sorted(first: str, second: str | None) -> tuple[str, str | None]:
    """Return the model first, in whatever order the two were given."""
    from sfumato.verbs.opening import is_model

    if second is not None and not is_model(first) and is_model(second):
        return second, first
    return first, second


def _with_label(source: str | None, label: str | None) -> Any:
    """Return DATA, read with the column of the classes where one was named."""
    if source is None or label is None:
        return source
    from sfumato.data import load_dataset

    return load_dataset(source, label=label, split=(1.0, 0.0, 0.0))


def _tell(files: Sequence[Path], what: str) -> int:
    from sfumato.cli.printing import say
    from sfumato.io.store import shown

    say(f"{what}   {' '.join(shown(path) for path in files)}")
    return 0
