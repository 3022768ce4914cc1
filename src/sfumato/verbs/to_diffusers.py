r"""``sfumato export --to diffusers``: a first stage of latent diffusion as a folder that ``AutoencoderKL`` loads.

Weights go over as they are. diffusers' image lies in [-1, 1]: 2 x - 1 where ours lies in [0, 1]. What pipelines
multiply latents by is measured on the training data, over all their places, from the moments (m, s^2) of each posterior
and so without noise of its own:

    mean_c = E[m_c],   var_c = E[m_c^2 + s_c^2] - mean_c^2.

Reference: High-Resolution Image Synthesis with Latent Diffusion Models, Rombach et al., 2022,
https://arxiv.org/abs/2112.10752, appendix D.1 (the scale); Stable Diffusion XL, Podell et al., 2023,
https://arxiv.org/abs/2307.01952.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Levels, Standardise
from sfumato.io.autoencoder_kl import FirstStage, first_stage_of, write_first_stage
from sfumato.io.onnx import difference, quiet
from sfumato.likelihoods import DiscretizedLogistic, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import KLDecoder, KLEncoder
from sfumato.posteriors import ClampedGaussian

TOLERANCE = 1e-5
MOST = 10_000  # training examples that are measured
STREAM = 0x6C6174656E  # "laten": keeps these random numbers apart from others with the same seed
LATENTS = "latents.json"
ROWS = 64
Scaling = Literal["both", "factor", "channels"]
READ_BY = {
    "both": "scaling_factor by every pipeline; latents_mean and latents_std, of the scaled latents, by those of "
    "Stable Diffusion XL",
    "factor": "scaling_factor by every pipeline",
    "channels": "latents_mean and latents_std by those of Stable Diffusion XL; others would not scale at all",
}


@dataclass(frozen=True)
class LatentStatistics:
    """What z looks like over a data set.

    Args:
        n: examples.
        mean: of each channel of the grid.
        deviation: of each channel.
        overall: the deviation over all channels together, about their common mean.
        factor_error: the standard error of 1 / ``overall``.
    """

    n: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    overall: float
    factor_error: float

    @property
    def factor(self) -> float:
        """What z is multiplied by to have deviation 1: diffusers' ``scaling_factor``."""
        return 1 / self.overall

    def fields(self, scaling: Scaling) -> dict[str, Any]:
        """Return the fields of ``AutoencoderKL``.

        A pipeline of Stable Diffusion XL computes (z - latents_mean) scaling_factor / latents_std, an older one z
        scaling_factor. With "both" each gives deviation 1: latents_std is then the deviation of z scaling_factor.
        """
        if scaling == "factor":
            return {"scaling_factor": self.factor}
        if scaling == "channels":
            return {"scaling_factor": 1.0, "latents_mean": self.mean, "latents_std": self.deviation}
        relative = tuple(deviation * self.factor for deviation in self.deviation)
        return {"scaling_factor": self.factor, "latents_mean": self.mean, "latents_std": relative}


def parts_of(packaged: PackagedModel) -> tuple[KLEncoder, KLDecoder]:
    """Return encoder and decoder of a model that ``AutoencoderKL`` can be.

    Raises:
        UserError: another architecture, likelihood or preprocessing; names the recipe.
    """
    model, preprocessing = packaged.model, packaged.preprocessing
    encoder = model.posterior.moments if isinstance(model.posterior, ClampedGaussian) else model.posterior
    if not isinstance(model, VAE) or not isinstance(encoder, KLEncoder) or not isinstance(model.decoder, KLDecoder):
        network = getattr(model.decoder, "network", model.decoder)
        raise UserError(
            f"diffusers' AutoencoderKL has another architecture than this model, whose decoder is "
            f"{type(network).__name__}. Train one with --recipe autoencoder-kl."
        )
    unit = isinstance(model.likelihood, DiscretizedLogistic) and isinstance(preprocessing, Levels)
    signed = isinstance(model.likelihood, Gaussian) and isinstance(preprocessing, Standardise) and preprocessing.fixed
    centre = 0.5 if unit else 0.0
    fits = (encoder.centre, encoder.scale, model.decoder.scale) == (centre, 1.0 - centre, 1.0 - centre)
    if not (unit or signed) or not fits:
        raise UserError(
            f"AutoencoderKL gives the mean of pixels in [-1, 1], which {type(model.likelihood).__name__} after "
            f"{type(preprocessing).__name__} does not. Train with --recipe autoencoder-kl --likelihood logistic."
        )
    return encoder, model.decoder


def signed_pixels(packaged: PackagedModel, x: Tensor) -> Tensor:
    """Return the model's x (or its mean) as diffusers has it, in [-1, 1]."""
    return 2 * x - 1 if isinstance(packaged.preprocessing, Levels) else x


def measure_latents(packaged: PackagedModel, x: Any, seed: int = 0) -> LatentStatistics:
    """Measure z over raw examples; of more than 10,000 a random part.

    Args:
        packaged: a first stage.
        x: (n, *shape), raw.
        seed: of the choice.
    """
    encoder, _ = parts_of(packaged)
    rows = some_rows(len(x), MOST, seed)
    firsts, seconds = [], []
    for start in range(0, len(rows), ROWS):
        normal = as_normal(packaged.encode(np.asarray(x[rows[start : start + ROWS]])))
        assert normal is not None
        mean = normal.mean.double().reshape(-1, *encoder.grid)
        square = mean.square() + normal.variance.double().reshape(mean.shape)
        firsts.append(mean.mean((2, 3)))
        seconds.append(square.mean((2, 3)))
    first, second = torch.cat(firsts), torch.cat(seconds)  # (n, channels)
    mean, n = first.mean(0), len(first)
    deviation = (second.mean(0) - mean.square()).clamp(min=0).sqrt()
    centre = first.mean()
    each = (second - 2 * centre * first).mean(1) + centre.square()  # of each example, about the common mean
    overall = float(each.mean().sqrt())
    if not 0 < overall < math.inf or float(deviation.min()) <= 0:
        raise SfumatoError("the latents do not vary, so they cannot be scaled. Train longer.")
    error = float(each.std()) / math.sqrt(n) / (2 * overall**3) if n > 1 else math.nan
    return LatentStatistics(n, tuple(mean.tolist()), tuple(deviation.tolist()), overall, error)


def some_rows(count: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the numbers of ``count`` rows, rising, or of a random part of them where there are more than ``most``."""
    if count <= most:
        return np.arange(count)
    with fixed_noise(seed_for(STREAM, seed)):
        return np.sort(torch.randperm(count)[:most].numpy())


def write_folder(
    packaged: PackagedModel,
    out: Path,
    statistics: LatentStatistics | None,
    known: Mapping[str, Any],
    scaling: Scaling = "both",
    data: Mapping[str, Any] | None = None,
) -> FirstStage:
    """Write the folder.

    Args:
        packaged: a first stage.
        out: where to.
        statistics: what was measured, or None for an imported model without data.
        known: fields of a folder that the model was imported from.
        scaling: which of the measured numbers are written; see :meth:`LatentStatistics.fields`.
        data: what they were measured on, for ``latents.json``.
    """
    encoder, decoder = parts_of(packaged)
    more = dict(known)
    extra: dict[str, bytes] = {}
    if statistics is not None:
        more = {key: value for key, value in more.items() if key in ("sample_size", "force_upcast")}
        more |= statistics.fields(scaling)
        measured = {
            "n": statistics.n,
            "mean": list(statistics.mean),
            "std": list(statistics.deviation),
            "std_overall": statistics.overall,
            "scaling_factor": {"value": statistics.factor, "standard_error": _finite(statistics.factor_error)},
            "written": scaling,
            "read_by": READ_BY[scaling],
            **(data or {}),
        }
        extra[LATENTS] = strict_json.dump(measured)
    size = more.pop("sample_size", None)
    stage = first_stage_of(encoder, decoder, **more)
    stage = stage if size is None else replace(stage, sample_size=size)
    own = dict(decoder.state_dict())
    channels = decoder.out_shape[-3]
    for name in ("conv_out.weight", "conv_out.bias"):  # the first number of each value is its mean
        own[name] = own[name][:channels].clone()
    write_first_stage(out, stage, encoder.state_dict(), own, extra)
    return stage


def check(out: Path, packaged: PackagedModel, x: NDArray[Any]) -> dict[str, float] | None:
    """Return how far diffusers' outputs are from ours on raw examples; None where diffusers is not installed.

    Differences are divided by the largest value of an output where that is above 1.

    Raises:
        SfumatoError: a difference above 1e-5.
    """
    try:
        with quiet():
            from diffusers import AutoencoderKL
    except ImportError:
        return None
    _, decoder = parts_of(packaged)
    with quiet(), torch.no_grad():
        kind: Any = AutoencoderKL
        theirs = kind.from_pretrained(out, local_files_only=True, low_cpu_mem_usage=False).eval()
        prepared = packaged.preprocessing.expected(torch.as_tensor(x))
        moments = theirs.encode(signed_pixels(packaged, prepared)).latent_dist
        picture = theirs.decode(moments.mean).sample
        own = packaged.model.posterior(prepared)
        z = moments.mean.flatten(1)
        values = decoder(z)[:, 0] / decoder.scale
    normal = as_normal(own)
    assert normal is not None
    ours = {"mean": normal.mean, "log_variance": 2 * normal.scale.log(), "decode": values}
    shaped = {"mean": z, "log_variance": moments.logvar.flatten(1), "decode": picture}
    found = {name: difference({name: ours[name]}, {name: shaped[name].numpy()}) for name in ours}
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= TOLERANCE:
        raise SfumatoError(
            f"diffusers' {worst} differs by {found[worst]:.1e}, more than {TOLERANCE:g}. Please report this with the "
            "run.json."
        )
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
