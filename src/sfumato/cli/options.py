"""Options that commands share, and how their values are read: wrong ones get a sentence, before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Count, NonNegative, Positive, Range, Size, checked
from sfumato.verbs.words import seconds_of, shares_of, size_of

BUILT_IN = ("fashion-mnist", "fashion-mnist-mini", "dsprites", "dsprites-mini")
LIKELIHOODS = (
    "bernoulli",
    "gaussian",
    "logistic",
    "categorical",
    "poisson",
    "negative-binomial",
    "zero-inflated-negative-binomial",
    "continuous-bernoulli",
    "laplace",
    "student-t",
    "ordinal",
    "mixture-of-logistics",
    "mixed",
)
BINARISE = ("none", "fixed", "dynamic")
CONDITIONS = ("prior", "decoder", "encoder", "both")
PRIORS = ("gaussian-mixture", "class-mixture", "coupling", "autoregressive", "spline", "second-stage", "codes")
ENGINES = ("auto", "eager", "compiled")
RECIPES = ("mlp", "article", "conv-small", "conv-large", "autoencoder-kl", "ladder")
PAPERS = (
    "vae",
    "ae",
    "sigma-vae",
    "beta-vae",
    "disentangled-beta-vae",
    "factor-vae",
    "beta-tc-vae",
    "dip-vae",
    "iwae",
    "miwae",
    "ciwae",
    "piwae",
    "miwae-missing",
    "vampprior",
    "exemplar",
    "flow-prior",
    "mixture-prior",
    "two-stage-vae",
    "vae-linnf",
    "vae-iaf",
    "hvae",
    "rhvae",
    "s-vae",
    "poincare-vae",
    "lvae",
    "vq-vae",
    "hrq-vae",
    "wae-mmd",
    "info-vae",
    "aae",
    "rae-l2",
    "rae-gp",
    "rae-sn",
    "vae-gan",
    "msssim-vae",
    "m2",
)
Many = Annotated[int, Range(1, 10**12)]
SPLITS = ("train", "validation", "test")


def number(option: str, hint: Any) -> Callable[[str], Any]:
    """Return a reader of numbers in the range that ``hint`` allows."""

    def read(text: Any) -> Any:
        value = text
        if isinstance(text, str):
            for kind in (int, float):
                try:
                    value = kind(text)
                    break
                except ValueError:
                    continue
        return checked(value, hint, option)

    return read


def choice(option: str, names: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of one of ``names``."""

    def read(text: str) -> str:
        if text in names:
            return text
        raise UserError(f"{option} does not know '{text}'.  {did_you_mean(text, names)} ({', '.join(names)})")

    return read


def source(text: str) -> str:
    """Return what was typed as DATA, when it exists or is built in."""
    if text not in BUILT_IN:
        from sfumato.core.paths import check_exists

        check_exists(text, BUILT_IN)
    return text


def option(names: str, hint: Any, help: str, metavar: str = "N") -> Any:
    """Return a typer option for a number; ``names`` are separated by spaces, the last is used in sentences."""
    flags = names.split()
    return typer.Option(*flags, parser=number(flags[-1], hint), metavar=metavar, help=help, show_default=False)


def chosen(name: str, names: Sequence[str], help: str, metavar: str = "") -> Any:
    """Return a typer option for one of some names, which the help lists unless they have a ``metavar``."""
    metavar = metavar or "|".join(names)
    return typer.Option(name, parser=choice(name, names), metavar=metavar, help=help, show_default=False)


def written(metavar: str, help: str) -> Any:
    """Return a typer option for where to write."""
    return typer.Option("--out", "-o", metavar=metavar, help=help, show_default=False)


def lasting(help: str) -> Any:
    """Return a typer option for a time."""
    return typer.Option("--time", parser=seconds_of, metavar="TIME", help=help, show_default=False)


Data = Annotated[
    str | None,
    typer.Argument(
        parser=source,
        metavar="DATA",
        help="A folder of images (sub-folders are classes), .npy, .npz, .csv, .parquet, or a built-in name: "
        + ", ".join(BUILT_IN),
        show_default=False,
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run.")]
Model = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, or a model folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as json.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and the result.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Seed = Annotated[int, option("--seed", Count, "Fixes all random numbers.  [default: 0]")]
Out = Annotated[Path | None, written("FILE", "Where to write.")]
Arrays = Annotated[
    Path | None, typer.Option("--arrays", metavar="FILE.npz", help="Write the arrays as well.", show_default=False)
]
Split = Annotated[str | None, chosen("--split", SPLITS, "Which part of the data of the run.")]
ClassName = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="The name or number of a class.", show_default=False)
]
ImageSize = Annotated[
    Any,
    typer.Option(
        "--size",
        parser=size_of,
        metavar="SIDE",
        help="Resize images: 64, or height x width: 48x64.",
        show_default=False,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="NAME", help="The column (or array of an .npz) with the classes.", show_default=False
    ),
]
Shares = Annotated[
    Any,
    typer.Option(
        "--split",
        parser=shares_of,
        metavar="A,B,C",
        help="Shares of train, validation, test.  [default: 0.8,0.1,0.1]",
        show_default=False,
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out damaged images and rows with missing values.")]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Read examples when they are needed, not before; default where they would take much memory.",
        show_default=False,
    ),
]
Likelihood = Annotated[str | None, chosen("--likelihood", LIKELIHOODS, "p(x | z); by default chosen from the data.")]
Binarise = Annotated[
    str | None, chosen("--binarise", BINARISE, "Grey values to 0 and 1: not, once, or anew each epoch.")
]
Recipe = Annotated[
    str | None,
    chosen("--recipe", RECIPES + PAPERS, "Networks or a paper, see sfumato recipes; by default from the data.", "NAME"),
]
Condition = Annotated[
    str | None, chosen("--condition", CONDITIONS, "Who sees the class besides the prior: prior is nobody.")
]
Conditional = Annotated[
    bool | None,
    typer.Option(
        "--conditional/--no-conditional",
        help="Every class owns a learned mean; default where there are classes.",
        show_default=False,
    ),
]
LatentDim = Annotated[int | None, option("--latent-dim", Size, "Dimensions of z.")]
Levels = Annotated[int | None, option("--levels", Size, "Levels of z above each other, with --recipe ladder.")]
Beta = Annotated[float | None, option("--beta", NonNegative, "Weight of the KL term.  [default: 1]", "X")]
Epochs = Annotated[float | None, option("--epochs", Positive, "Passes over the training data.")]
Steps = Annotated[int | None, option("--steps", Many, "Optimizer steps.")]
Time = Annotated[float | None, lasting("How long to train: 30s, 10m, 1h.")]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="Model, objective, training: json or yaml, or a run.json.", show_default=False
    ),
]
Batch = Annotated[int | None, option("--batch", Size, "Examples a step.")]
Rate = Annotated[float | None, option("--lr", Positive, "Learning rate of Adam at its peak.", "X")]
Engine = Annotated[
    str | None, chosen("--engine", ENGINES, "How a step is computed.  [default: auto, the fastest by measurement]")
]
Shard = Annotated[
    bool, typer.Option("--shard", help="Spread the weights over the processes (FSDP2), for models that do not fit.")
]
TrainingSeed = Annotated[int | None, option("--seed", Count, "Fixes splits, weights, order and noise.  [default: 0]")]
