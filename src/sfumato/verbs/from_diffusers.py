"""``sfumato import``: a folder of diffusers' ``AutoencoderKL`` as a model of sfumato.

The decoder's output becomes the mean of a normal over pixels in [-1, 1]. What the folder does not say is the variance
of that normal: with data it is the mean squared error of reconstructions at draws from the posterior, which is what
maximises the likelihood (sigma-VAE, Rybkin et al., 2021, https://arxiv.org/abs/2006.13202); without, it is 1 until
somebody trains on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Dataset, Standardise, inspect_dataset, load_dataset
from sfumato.io.autoencoder_kl import FirstStage, read_first_stage
from sfumato.io.folder import save_model
from sfumato.io.run import RunFolder
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.objectives import ELBO
from sfumato.posteriors import ClampedGaussian
from sfumato.priors import StandardNormal
from sfumato.recipes import Run
from sfumato.training import TrainingConfig
from sfumato.verbs.to_diffusers import some_rows
from sfumato.verbs.train import description, finish_untrained

HALF_RANGE = 127.5  # of 8-bit values
MOST = 2_000  # training examples that the variance is measured on
ROWS = 16
STREAM = 0x696D706F7274  # "import": keeps these random numbers apart from others with the same seed
KEPT = (
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
)


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        path: a run, or without data a model folder.
        model: the model.
        stage: what the folder said.
        sigma: the decoder's standard deviation in raw units, measured; None without data.
        evaluation: on the test split, or None without data.
    """

    path: Path
    model: PackagedModel
    stage: FirstStage
    sigma: float | None = None
    evaluation: dict[str, Any] | None = None


def import_first_stage(
    folder: str | Path,
    data: Any = None,
    *,
    out: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    tell: Callable[[str, int, int], None] | None = None,
    **reading: Any,
) -> Imported:
    """Read a folder of ``AutoencoderKL``.

    Args:
        folder: config.json and diffusion_pytorch_model.safetensors, or a pipeline's folder with ``vae`` in it.
        data: images; with them the variance is measured and the model evaluated, and the result is a run.
        out: where to; by default ``runs/NAME``.
        size: the side of images, or (height, width); by default that of the folder, its ``sample_size``.
        seed: of noise and splits.
        tell: called as tell(part, done, of) as the evaluation goes on.
        reading: more arguments for ``load_dataset``: label, split, skip_bad.

    Raises:
        UserError: not such a folder; data of another number of channels; something is at ``out``.
    """
    stage, encoder, decoder = read_first_stage(folder)
    name = Path(folder).expanduser().resolve().name
    place = Path(out).expanduser() if out is not None else Path("runs") / name
    RunFolder(place).refuse_existing()
    sides = (size, size) if isinstance(size, int) else size or stage.size
    dataset: Dataset | None = None
    if data is not None:
        if size is not None or (isinstance(data, str | Path) and Path(data).is_dir()):
            reading["size"] = sides
        dataset = data if isinstance(data, Dataset) else load_dataset(data, seed=seed, **reading)
        _check_data(dataset, stage)
        sides = (dataset.shape[1], dataset.shape[2])
    packaged = build(stage, encoder, decoder, sides, dataset.class_names if dataset else ())
    known = {key: _plain(getattr(stage, key)) for key in KEPT}
    if dataset is None:
        save_model(place, packaged, card={"data": name, "columns": [], "first_stage": known})
        return Imported(place, packaged, stage)
    sigma = fit_variance(packaged, dataset, seed)
    run = _run(packaged, dataset, seed)
    decided = description(run, place.name) | {"imported": {"from": name, **known}}
    done = finish_untrained(RunFolder(place), decided, packaged, dataset, tell, step=0)
    return Imported(place, packaged, stage, sigma, done.evaluation)


def build(
    stage: FirstStage,
    encoder: dict[str, torch.Tensor],
    decoder: dict[str, torch.Tensor],
    size: tuple[int, int],
    class_names: tuple[str, ...] = (),
) -> PackagedModel:
    """Return the model of a folder that was read, for images of (height, width)."""
    if stage.in_channels != stage.out_channels:
        raise UserError(
            f"this AutoencoderKL takes {stage.in_channels} channels and gives {stage.out_channels}, so it does not "
            "model its input. Use one with as many of both."
        )
    first, last = stage.networks(size)
    shape = (stage.out_channels, *size)
    latent = math.prod(first.grid)
    model = VAE(StandardNormal(latent), ClampedGaussian(first), last, Gaussian(shape, "optimal"))
    first.load_state_dict(encoder)
    last.load_state_dict(decoder)
    return PackagedModel(model, Standardise(shape, HALF_RANGE, HALF_RANGE), class_names).eval()


@torch.no_grad()
def fit_variance(packaged: PackagedModel, dataset: Dataset, seed: int = 0) -> float:
    """Set the decoder's variance to its best value on the training split; return the deviation in raw units."""
    model, likelihood = packaged.model, packaged.model.likelihood
    assert isinstance(likelihood, Gaussian)
    rows = dataset.rows("train")
    rows = rows[some_rows(len(rows), MOST, seed)]
    total, count = 0.0, 0
    with fixed_noise(seed_for(STREAM, seed)):
        for start in range(0, len(rows), ROWS):
            x = packaged.preprocessing.expected(torch.as_tensor(np.asarray(dataset.x[rows[start : start + ROWS]])))
            mean = model.decode(model.encode(x).sample()).mean
            total += float((x - mean).double().square().sum())
            count += x.numel()
    if not total > 0:
        raise SfumatoError("the reconstructions are exact, so there is no variance to measure. Give other data.")
    likelihood.log_variance.fill_(math.log(total / count))
    return math.sqrt(total / count) * HALF_RANGE


def _check_data(dataset: Dataset, stage: FirstStage) -> None:
    if not dataset.is_images or dataset.shape[0] != stage.in_channels:
        raise UserError(
            f"this AutoencoderKL takes images of {stage.in_channels} channels; got examples of shape {dataset.shape}. "
            "Give other data."
        )
    facts = inspect_dataset(dataset)
    if facts.top != 255 and not (facts.low >= 0 and facts.high <= 255 and facts.dtype == "uint8"):
        raise UserError(
            f"{facts.source} should hold 8-bit images, 0 to 255; got {facts.low:g} to {facts.high:g}. Rescale."
        )


def _run(packaged: PackagedModel, dataset: Dataset, seed: int) -> Run:
    config = TrainingConfig(steps=1, batch_size=min(16, len(dataset.rows("train"))), seed=seed)
    return Run(packaged.model, ELBO(), packaged.preprocessing, config, dataset, inspect_dataset(dataset), ())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


__all__ = ["Imported", "build", "fit_variance", "import_first_stage"]
