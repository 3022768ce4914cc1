"""``sfumato units``: the losses of papers and repositories, converted and put into words. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.core.errors import UserError, did_you_mean
from sfumato.verbs.conversion import Converted, Loss, from_theirs, to_theirs


@dataclass(frozen=True)
class Preset:
    """The loss of a well-known repository, read in its source.

    Args:
        loss: its form; ``dims``, ``latent_dim`` and ``batch`` are its defaults, which may be replaced.
        weight: its factor on the KL term.
        source: repository, file and commit.
        note: what the formula leaves out.
    """

    loss: Loss
    weight: float
    source: str
    note: str = ""


PRESETS: dict[str, Preset] = {
    "pytorch-examples": Preset(
        Loss("bce-total", "total", dims=784, latent_dim=20, batch=128),
        1.0,
        "pytorch/examples, vae/main.py at cd01f93",
        "Its pixels are grey: the cross-entropy of grey values is not a likelihood, and its value is not nats.",
    ),
    "keras": Preset(
        Loss("bce-sum", dims=784, latent_dim=2, batch=128),
        1.0,
        "keras-team/keras-io, examples/generative/vae.py at 09e02e1",
        "Its pixels are grey: the cross-entropy of grey values is not a likelihood, and its value is not nats.",
    ),
    "pytorch-vae": Preset(
        Loss("mse-mean", dims=12288, latent_dim=128, batch=64),
        0.00025,
        "AntixK/PyTorch-VAE, models/vanilla_vae.py at 2946d7a and configs/vae.yaml at a6896b9 (kld_weight)",
    ),
    "pytorch-vae-2020": Preset(
        Loss("mse-mean", dims=12288, latent_dim=128, batch=144),
        144 / 162_770,
        "AntixK/PyTorch-VAE, models/vanilla_vae.py at 2946d7a and experiment.py at 09c4451 (M_N = batch / images)",
        "162,770 is the number of training images of CelebA; for other data give --weight BATCH/IMAGES.",
    ),
    "pythae": Preset(
        Loss("mse-sum"),
        1.0,
        "clementchadebec/benchmark_VAE, src/pythae/models/vae/vae_model.py at 06d582a (reconstruction_loss mse)",
        "Its likelihood of new data pairs a squared error that is not halved with the constant of variance 1.",
    ),
    "beta-vae": Preset(
        Loss("bce-sum", latent_dim=10, batch=64),
        4.0,
        "1Konny/Beta-VAE, solver.py at 007fb99 and main.py at 1117b13 (objective H)",
    ),
    "disentangling-vae": Preset(
        Loss("mse-sum", reconstruction_weight=255.0),
        4.0,
        "YannDubs/disentangling-vae, disvae/models/losses.py at 0a38ac7 (betaH, rec_dist gaussian: (255 e)^2 / 255)",
    ),
    "diffusers": Preset(
        Loss("mse-sum", batch=4),
        1e-6,
        "huggingface/diffusers, examples/research_projects/autoencoderkl/train_autoencoderkl.py at 2e348b8",
        "Its perceptual loss is computed without gradient and changes nothing; its discriminator starts later.",
    ),
    "latent-diffusion": Preset(
        Loss("l1-sum", batch=12),
        1e-6,
        "CompVis/stable-diffusion, ldm/modules/losses/contperceptual.py at 555f13e, with logvar at its start, 0, and "
        "CompVis/latent-diffusion, configs/autoencoder/autoencoder_kl_8x8x64.yaml at b514737 (kl_weight)",
        "Without its perceptual and adversarial terms, which make the reconstruction weigh even more.",
    ),
}


def find_preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UserError: there is none of this name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset does not know '{name}'.  {did_you_mean(name, PRESETS)} ({', '.join(PRESETS)})")
    return PRESETS[name]


def table() -> list[tuple[str, str, str]]:
    """Return (name, loss in words, what it amounts to) of each preset."""
    rows = []
    for name, preset in PRESETS.items():
        first = from_theirs(preset.loss, preset.weight).readings[0]
        means = f"beta {first.beta:.4g}" + ("" if first.sigma is None else f", sigma {first.sigma:.4g}")
        rows.append((name, preset.loss.in_words(preset.weight), means))
    return rows


def weight_of(text: str | float) -> float:
    """Return the number of "0.00025", or of a fraction such as "64/162770" (batch / images).

    Raises:
        UserError: neither, or negative, or not finite.

    >>> weight_of("1/4")
    0.25
    """
    try:
        above, _, below = str(text).partition("/")
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"--weight must be a number of 0 or more, or a fraction such as 64/162770; got '{text}'.")
    return value


def described(found: Converted) -> list[str]:
    """Return the conversion in words, a line each."""
    lines = [f"theirs   {found.theirs.in_words(found.weight)}"]
    errors = {"mse": "|x - x^|^2 / (2 sigma^2)", "l1": "|x - x^| sqrt 2 / sigma"}
    ours = errors.get(found.theirs.error, "-log p(x | z)")
    lines.append(f"ours     {ours} + beta KL, summed over values and latents, nats an example; the same gradients with")
    for reading in found.readings:
        numbers = f"beta {reading.beta:<10.4g}"
        if reading.sigma is not None and reading.variance is not None:
            numbers += f" sigma {reading.sigma:<10.4g} sigma^2 {reading.variance:<10.4g}"
        lines.append(f"         {numbers} {reading.what}")
    if found.negative_elbo is not None:
        lines.append(f"loss     as an ELBO: {-found.negative_elbo:,.2f} nats an example")
    return lines + [f"note     {note}" for note in found.notes]


def units(given: Mapping[str, Any]) -> Converted:
    """Convert a preset, or a loss that is described; theirs to ours with ``weight``, ours to theirs with ``beta``.

    Args:
        given: name -> value of everything that was asked for: ``preset``, or fields of
            :class:`~sfumato.verbs.conversion.Loss`; and arguments of ``from_theirs`` and ``to_theirs``.

    Raises:
        UserError: too little, or two things that decide the same.
    """
    sizes = {name: given[name] for name in ("dims", "latent_dim", "batch") if given.get(name) is not None}
    shape = {
        name: given[name] for name in ("reconstruction", "kl", "reconstruction_weight") if given.get(name) is not None
    }
    weight, note = given.get("weight"), ""
    if given.get("preset") is not None:
        if shape:
            raise UserError(f"--preset and --{next(iter(shape)).replace('_', '-')} decide the same. Leave out one.")
        preset = find_preset(given["preset"])
        theirs = Loss(**{**asdict(preset.loss), **sizes})
        note = preset.note
        weight = preset.weight if weight is None and given.get("beta") is None else weight
    elif "reconstruction" in shape:
        theirs = Loss(**shape, **sizes)
    else:
        raise UserError(
            "units needs --preset NAME, or --reconstruction and --weight.  "
            "For instance: sfumato units --reconstruction mse-mean --weight 0.00025 --dims 12288"
        )
    if (weight is None) == (given.get("beta") is None):
        raise UserError("units needs --weight X (theirs to ours) or --beta X (ours to theirs), one of the two.")
    if weight is None:
        for name in ("rmse", "deviation", "loss"):
            if given.get(name) is not None:
                raise UserError(f"--{name} goes with --weight, not with --beta. Leave out one of the two.")
        return to_theirs(theirs, given["beta"], given.get("sigma"))
    if given.get("sigma") is not None:
        raise UserError("--sigma goes with --beta; with --weight it is what comes out. Leave it out.")
    more = {name: given.get(name) for name in ("rmse", "deviation", "loss")}
    return from_theirs(theirs, weight, note=note, **more)
