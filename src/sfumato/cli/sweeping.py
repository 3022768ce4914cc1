"""``sfumato sweep``: the rate-distortion curve, and a size of z."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.core.errors import UserError
from sfumato.core.spec import NonNegative, Size

if TYPE_CHECKING:
    from sfumato.verbs.sweep import Sweep


def several(option: str, hint: Any) -> Callable[[str], tuple[Any, ...]]:
    """Return a reader of numbers with commas between them."""
    read = options.number(option, hint)

    def read_all(text: Any) -> tuple[Any, ...]:
        return tuple(read(part.strip()) for part in text.split(",")) if isinstance(text, str) else tuple(text)

    return read_all


def listed(name: str, hint: Any, metavar: str, help: str) -> Any:
    """Return a typer option for several numbers."""
    return typer.Option(name, parser=several(name, hint), metavar=metavar, help=help, show_default=False)


Betas = Annotated[
    Any,
    listed("--beta", NonNegative, "X,Y,...", "Weights of the KL term.  [default: 0.5,1,2,4; 1 with --latent-dim]"),
]
Sizes = Annotated[Any, listed("--latent-dim", Size, "N,M,...", "Sizes of z.  [default: decided from the data]")]
SweepOut = Annotated[Path | None, options.written("FOLDER", "Where to.  [default: runs/NAME-sweep]")]
Samples = Annotated[
    int | None, options.option("--samples", Size, "K of the bound on log p(x), exactly.  [default: 100]")
]
Each = Annotated[float | None, options.lasting("How long to train each run: 30s, 10m, 1h.")]


@command(
    "sweep",
    "sfumato sweep photos/ --beta 0.5,1,2,4 --epochs 20",
    "sfumato sweep photos/ --latent-dim 2,4,8,16 --time 5m",
    "sfumato sweep people.csv --beta 1,2 --latent-dim 2,4 --out runs/people-sizes",
)
def sweep(
    data: options.Data = None,
    beta: Betas = None,
    latent_dim: Sizes = None,
    out: SweepOut = None,
    samples: Samples = None,
    time: Each = None,
    epochs: options.Epochs = None,
    steps: options.Steps = None,
    conditional: options.Conditional = None,
    condition: options.Condition = None,
    likelihood: options.Likelihood = None,
    binarise: options.Binarise = None,
    recipe: options.Recipe = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    seed: options.TrainingSeed = None,
    size: options.ImageSize = None,
    label: options.Label = None,
    split: options.Shares = None,
    skip_bad: options.SkipBad = False,
    config: options.Config = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a run for each beta and size of z: the rate-distortion curve. Called again, it goes on with the rest."""
    if data is None:
        raise UserError("sweep needs DATA.  For instance: sfumato sweep photos/ --beta 0.5,1,2,4")
    wishes = {
        "time": time,
        "epochs": epochs,
        "steps": steps,
        "conditional": conditional,
        "condition": condition,
        "likelihood": likelihood,
        "binarise": binarise,
        "recipe": recipe,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "size": size,
        "label": label,
        "split": split,
        "skip_bad": skip_bad or None,
        "config": config,
        "samples": samples,
    }
    given = {name: value for name, value in wishes.items() if value is not None}
    from sfumato.cli.printing import console, say, show_json
    from sfumato.cli.progress import progress
    from sfumato.cli.turns import Turn, Turns

    turns = Turns(lambda: progress(console(stderr=True), "examples", quiet))

    def begin(setting: Any, number: int, of: int) -> Turn:
        turns.pause()
        if not quiet:
            say(f"run {number} of {of}: {_words(setting)}")
        return Turn(turns)

    if not quiet:
        from sfumato import __version__

        say(f"sfumato {__version__} · {data}")
    from sfumato.verbs.sweep import sweep as verb

    try:
        found = verb(data, beta=beta, latent_dim=latent_dim, out=out, on_setting=begin, **given)
    except KeyboardInterrupt:
        turns.close()
        if not quiet:
            say("interrupted; the same command goes on with what is missing")
        return 130
    finally:
        turns.close()
    if json:
        show_json(found.to_dict())
    if found.signal is None and not json:
        _print(found, quiet)
    elif found.signal is not None and not quiet:
        say(f"interrupted, {len(found.missing)} runs to go; the same command goes on with them")
    if found.signal is not None:
        return 128 + found.signal
    return 3 if found.failed else 0


def _words(setting: Any) -> str:
    size = "" if setting.latent_dim is None else f", latent {setting.latent_dim}"
    return f"beta {setting.beta:g}{size}"


def _print(found: Sweep, quiet: bool) -> None:
    """Print the table, the suggestion, and where everything is."""
    from sfumato.cli.printing import console, next_block, print_columns, say, show
    from sfumato.io.store import shown
    from sfumato.verbs.sweep import SPLIT

    if found.points:
        bounds = "log p(x | class)" if found.points[0].given_label else "log p(x)"
        n = found.points[0].rate.n
        show(f"{shown(found.path)}, {n:,} examples of the {SPLIT} split, nats ± standard error")
        head = ("beta", "latent", "rate", "distortion", "ELBO", f"log p(x) ≥ (K = {found.samples:,})", "active")
        rows = [
            (
                f"{point.beta:g}",
                f"{point.latent_dim}",
                *(_plain(value) for value in (point.rate, point.distortion, point.elbo, point.evidence)),
                f"{point.active_units}/{point.latent_dim}",
            )
            for point in found.points
        ]
        print_columns(console(stderr=False), [head, *rows], indent=2, keep=2)
        if bounds != "log p(x)":
            show(f"  rate, distortion and ELBO are about {bounds}")
    for run, why in found.failed.items():
        show(f"  {run} has no numbers: {why}")
    if found.suggestion is not None:
        size = found.suggestion.latent_dim
        show(f"suggested latent size: {'none' if size is None else size}. {found.suggestion.because}")
    if quiet or not found.points:
        return
    say(f"picture  {(found.path / 'sweep.png').resolve()}")
    chosen = None if found.suggestion is None else (found.suggestion.latent_dim, found.suggestion.beta)
    best = next((point for point in found.points if (point.latent_dim, point.beta) == chosen), found.points[0])
    say(next_block(["info", shown(found.path / best.run)], ["sample", shown(found.path / best.run)]))


def _plain(value: Any) -> str:
    return "-" if value is None else str(value).removesuffix(" nats")
