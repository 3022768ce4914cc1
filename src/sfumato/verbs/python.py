"""The Python face: what ``import sfumato`` offers under the names of the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.core.spec import Count, NonNegative, Positive, Size, checked
from sfumato.recipes import Options, Run
from sfumato.recipes.vae import Condition
from sfumato.training import Listener
from sfumato.training.config import Steps
from sfumato.training.engine import Choice
from sfumato.verbs import inspect as _inspect
from sfumato.verbs import train as _train
from sfumato.verbs.config import combined, read_config, seed_of
from sfumato.verbs.conversion import Converted
from sfumato.verbs.start import Start, read_start
from sfumato.verbs.units import units as _units
from sfumato.verbs.words import seconds_of

DEMO_DATA, DEMO_OUT = "fashion-mnist-mini", Path("runs") / "demo"
DEMO: dict[str, Any] = {"conditional": True, "binarise": "dynamic", "time": "150s"}


def inspect(
    data: Any,
    *,
    recipe: str | None = None,
    latent_dim: int | None = None,
    levels: int | None = None,
    conditional: bool | None = None,
    likelihood: str | None = None,
    binarise: str | None = None,
    size: int | tuple[int, int] | None = None,
    label: str | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    skip_bad: bool = False,
    stream: bool | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> _inspect.Inspected:
    """Read data and say what is in there and what would be decided.

    Args:
        data: a folder of images, ``.npy``, ``.npz``, ``.csv``, ``.parquet``, a built-in name, an array, or (x, y); a
            frame (pandas, polars, Arrow), an AnnData, an xarray ``DataArray``, a Hugging Face dataset, a torch
            ``Dataset`` or ``DataLoader``.
        recipe: see :func:`train`, as all that a training would decide otherwise.
        latent_dim: see :func:`train`.
        levels: see :func:`train`.
        conditional: see :func:`train`.
        likelihood: see :func:`train`.
        binarise: see :func:`train`.
        size: the side of the images, or (height, width).
        label: the column that holds the classes; of AnnData one of ``obs``, of a ``DataArray`` a coordinate.
        split: the shares of train, validation and test.
        skip_bad: leave out damaged images and examples with missing values.
        stream: read examples when they are needed; None: where they would take more than an eighth of the memory.
        layer: of AnnData, in place of ``X``.
        seed: of the splits.
    """
    reading = {"size": size, "label": label, "split": split, "skip_bad": skip_bad, "stream": stream, "layer": layer}
    options = Options(recipe, latent_dim, levels, conditional, likelihood=likelihood, binarise=binarise, seed=seed)
    return _inspect.inspect(data, options=options, **reading)


def train(
    data: Any,
    *,
    out: str | Path | None = None,
    latent_dim: int | None = None,
    levels: int | None = None,
    conditional: bool | None = None,
    condition: Condition = "prior",
    likelihood: str | None = None,
    binarise: str | None = None,
    beta: float | None = None,
    recipe: str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    time: str | float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    engine: str | None = None,
    shard: bool = False,
    seed: int | None = None,
    size: int | tuple[int, int] | None = None,
    label: str | None = None,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    skip_bad: bool = False,
    stream: bool | None = None,
    layer: str | None = None,
    careful: bool | None = None,
    config: str | Path | None = None,
    start: str | Path | None = None,
    listener: Listener | None = None,
    on_decided: Callable[[Run, Path], None] | None = None,
) -> _train.TrainedRun:
    """Inspect, decide, train, evaluate, report: ``sfumato train`` with the same words.

    Args:
        data: what :func:`inspect` takes, or what it returned.
        out: the folder of the run, by default ``runs/<name of the data>``.
        latent_dim: the number of dimensions of z; of a ladder those of one level, half of them in each above.
        levels: of a ladder.
        conditional: whether every class owns a learned mean; None: where there are classes.
        condition: who sees the class besides the prior: prior (nobody), decoder, encoder, both.
        likelihood: bernoulli, gaussian, logistic, categorical.
        binarise: none, fixed, dynamic.
        beta: the weight of the KL term, by default 1, or what the recipe says.
        recipe: the networks: mlp, article, conv-small, conv-large, autoencoder-kl, ladder.
        epochs: passes over the training split.
        steps: optimizer steps.
        time: how long training may take: "10m", or seconds.
        batch: examples a step, by default a ``DataLoader``'s own.
        lr: Adam's learning rate at its peak.
        engine: eager, compiled, or auto, the default: the fastest by measurement, in trainings long enough to measure.
        shard: of several processes each keeps a part of the weights (FSDP2), for models that do not fit.
        seed: of splits, weights, order and noise, by default 0.
        size: see :func:`inspect`.
        label: see :func:`inspect`.
        split: see :func:`inspect`.
        skip_bad: see :func:`inspect`.
        stream: see :func:`inspect`.
        layer: see :func:`inspect`.
        careful: free bits, a longer warm-up, half the rate, more patience: against collapse and non-finite steps.
        config: a configuration file.
        start: a run or a model folder whose weights the training begins with (``--from``).
        listener: told what happens.
        on_decided: called with the plan and the folder of the run before the first step.
    """
    return _train.train(**_asked(dict(locals())))


def demo(out: str | Path = DEMO_OUT) -> _train.TrainedRun:
    """Train the conditional VAE on the images that come with sfumato, in a few minutes."""
    return train(DEMO_DATA, out=out, **DEMO)


def units(preset: str | None = None, **words: Any) -> Converted:
    """Convert the loss of a paper or repository to ours, and back.

    Args:
        preset: the loss of a well-known repository: ``pytorch-vae``, ...
        words: what ``sfumato units`` takes, with underscores: a loss by ``reconstruction``, ``kl``,
            ``reconstruction_weight``, ``dims``, ``latent_dim``, ``batch``; its ``weight`` on the KL, or our ``beta``
            (and ``sigma``); what is known of the data by ``rmse``, ``deviation``; a value of theirs by ``loss``.

    Raises:
        UserError: too little, or two things that decide the same.

    >>> f"{units(reconstruction='mse-mean', beta=1, sigma=0.1, dims=12288).weight:.3g}"
    '1.63e-06'
    """
    return _units({"preset": preset, **words})


def training(data: Any, **words: Any) -> _train.Talk:
    """Begin what :func:`train` does with the same words, and leave the training itself to the caller."""
    defaults = train.__kwdefaults__ or {}
    strange = words.keys() - defaults.keys()
    if strange:
        raise TypeError(f"train has no argument {sorted(strange)[0]!r}")
    return _train.training(**_asked({"data": data, **defaults, **words}))


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the verb for those of :func:`train`."""
    if sum(given[name] is not None for name in ("epochs", "steps", "time")) > 1:
        raise UserError("--epochs, --steps and --time each say how long to train. Give one of them.")
    tree = {} if given["config"] is None else read_config(given["config"])

    def read(name: str, hint: Any, option: str = "") -> Any:
        value = given[name]
        return None if value is None else checked(value, hint, option or f"--{name}")

    options = Options(
        **{name: given[name] for name in ("recipe", "latent_dim", "levels", "conditional", "condition")},
        likelihood=given["likelihood"],
        binarise=given["binarise"],
        beta=read("beta", NonNegative),
        epochs=read("epochs", Positive),
        steps=read("steps", Steps),
        seconds=None if given["time"] is None else seconds_of(given["time"]),
        batch_size=read("batch", Size),
        learning_rate=read("lr", Positive),
        engine=checked(given["engine"] or "auto", Choice, "--engine"),
        shard=bool(given["shard"]),
        seed=seed_of(tree) if given["seed"] is None else read("seed", Count),
        careful=bool(given["careful"]),
    )
    data = given["data"]
    start = None if given["start"] is None else _begin(given)
    if start is not None and given["size"] is None and isinstance(data, str | Path) and Path(data).is_dir():
        given["size"] = start.size
    return {
        "source": data.dataset if isinstance(data, _inspect.Inspected) else data,
        "options": combined(options, tree),
        "reading": {name: given[name] for name in ("size", "label", "split", "skip_bad", "stream", "layer")},
        "config": tree,
        "start": start,
        **{name: given[name] for name in ("out", "listener", "on_decided")},
    }


def _begin(given: Mapping[str, Any]) -> Start:
    """Return what to begin with; refuse what would not be heeded."""
    if any(given[name] is not None for name in ("recipe", "latent_dim", "levels", "likelihood", "binarise")):
        raise UserError(
            "--from takes recipe, latent size, likelihood and binarisation from the model. Leave them out, or train "
            "anew."
        )
    if given["epochs"] is None and given["steps"] is None:
        raise UserError("--from needs to know how long to train. Add --epochs N or --steps N.")
    return read_start(given["start"])
