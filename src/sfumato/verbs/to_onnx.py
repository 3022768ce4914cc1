r"""``sfumato export --to onnx``: encoder, decoder and sampler as graphs that need no sfumato, on raw data.

    encoder   x [, label]     -> mean, log_variance of q(z | x)
    decoder   z [, label]     -> the mean of p(x | z)
    sampler   noise [, label] -> the same for z = m + s noise, the prior's mean and deviation

The levels of a ladder lie in one row, top first: the encoder's moments are those of q(z_1 | x), and of q(z_l | x, z_<l)
at the means of the levels above; the sampler's z_l = m_l(z_<l) + s_l(z_<l) noise_l.

Raw units on both sides, images with channels last; what the encoder takes is what files hold (uint8 where values are
8-bit). The noise of the sampler is its input, so results repeat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.gaussians import as_normal, stated_normal
from sfumato.core.interfaces import Prior
from sfumato.core.spec import to_spec
from sfumato.io.onnx import BATCH, difference, run_onnx, to_onnx
from sfumato.models import VAE, HierarchicalVAE, PackagedModel
from sfumato.models.joint import Chain
from sfumato.models.model import Model
from sfumato.report.pictures import display_range

FORMAT_VERSION = "1"
TOLERANCE = 1e-4
CHECKED = 256  # examples
PARTS = ("encoder", "decoder", "sampler")


@dataclass(frozen=True)
class Graph:
    """A part of a model as ONNX.

    Args:
        name: encoder, decoder or sampler.
        data: the file.
        takes: what goes in, in words.
        gives: what comes out, in words.
        module: the same in torch.
    """

    name: str
    data: bytes
    takes: str
    gives: str
    module: nn.Module


class _Part(nn.Module):
    """What the three graphs share."""

    def __init__(self, packaged: PackagedModel) -> None:
        super().__init__()
        self.model, self.preprocessing = packaged.model, packaged.preprocessing
        self.is_images = len(packaged.preprocessing.shape) == 3

    def picture(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return the mean of p(x | z) in raw units, (batch, *shape)."""
        return self.preprocessing.unrounded(self.model.expectation(self.model.decode(z, label)))

    def shown(self, x: Tensor) -> Tensor:
        """Return images with channels last."""
        return x.movedim(1, -1) if self.is_images else x


class EncoderGraph(_Part):
    """Raw data to the moments of q(z | x)."""

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return mean and log_variance, (batch, latent_dim); the mean alone for a posterior without variance."""
        raw = x.movedim(-1, 1) if self.is_images else x
        posterior = self.model.encode(self.preprocessing.expected(raw), label)
        levels: Sequence[Distribution] = (posterior,)
        if isinstance(posterior, Chain):
            levels = posterior.walk(lambda _, conditional: conditional.mean)
        normals = [normal for normal in map(as_normal, levels) if normal is not None]
        if len(normals) < len(levels):
            return (posterior.mean,)
        mean, scale = (
            torch.cat([getattr(normal, name).flatten(1) for normal in normals], 1) for name in ("loc", "scale")
        )
        return mean, 2 * scale.log()


class DecoderGraph(_Part):
    """z to the mean of p(x | z), in raw units."""

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return x, (batch, *shape), images with channels last."""
        return (self.shown(self.picture(z, label)),)


class SamplerGraph(_Part):
    """Standard normal noise to a sample, in raw units."""

    def forward(self, noise: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return x, (batch, *shape), images with channels last."""
        prior = self.model.prior(label)
        if isinstance(prior, Chain):
            z = prior.coloured(noise)
        else:
            normal = stated_normal(prior)
            if normal is None:
                raise UserError(no_sampler(self.model))
            z = normal.loc + normal.scale * noise
        return (self.shown(self.picture(z, label if self.model.decoder.sees_label else None)),)


class ImageGraph(_Part):
    """z to 8-bit images."""

    def __init__(self, packaged: PackagedModel) -> None:
        super().__init__(packaged)
        self.low, self.high = display_range(packaged.preprocessing)

    def forward(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return image, uint8 (batch, height, width, channels)."""
        unit = (self.picture(z, label) - self.low) / (self.high - self.low)
        return (self.shown((unit.clamp(0, 1) * 255).round()).to(torch.uint8),)


def graphs(packaged: PackagedModel, only: Sequence[str] = PARTS) -> tuple[Graph, ...]:
    """Return encoder, decoder and, where the prior is a normal, sampler; or ``only`` some of them.

    Raises:
        UserError: the extra ``onnx`` is not installed, or the model is of another kind.
    """
    model, preprocessing = packaged.model, packaged.preprocessing
    if not isinstance(model, VAE | HierarchicalVAE):
        raise UserError(f"ONNX graphs are made of a VAE or a ladder; got {type(model).__name__}. Use another --to.")
    packaged.eval()
    z, label = torch.zeros(BATCH, *model.prior.latent_shape), torch.zeros(BATCH, dtype=torch.int64)
    raw = preprocessing.inverse(torch.zeros(BATCH, *preprocessing.shape))
    raw = raw.movedim(1, -1).contiguous() if len(preprocessing.shape) == 3 else raw
    latent = "x".join(map(str, model.prior.latent_shape))
    kind = {torch.uint8: "uint8", torch.int64: "int64"}.get(raw.dtype, "float32")
    what = "image" if len(preprocessing.shape) == 3 else "row" if len(preprocessing.shape) == 1 else "array"
    data = f"{what} (batch, {', '.join(map(str, raw.shape[1:]))})"
    encoder = EncoderGraph(packaged)
    with torch.no_grad():
        moments = ("mean", "log_variance")[: len(encoder(raw, label))]
    plans: list[tuple[str, nn.Module, dict[str, Tensor], tuple[str, ...], bool, str, str]] = [
        (
            "encoder",
            encoder,
            {"x": raw},
            moments,
            model.posterior.sees_label,
            f"{kind} {data}",
            f"{', '.join(moments)} (batch, {latent})",
        ),
        ("decoder", DecoderGraph(packaged), {"z": z}, ("x",), model.decoder.sees_label, f"z (batch, {latent})", data),
    ]
    if _normal_prior(model):
        labelled = bool(model.num_classes)
        plans.append(
            ("sampler", SamplerGraph(packaged), {"noise": z}, ("x",), labelled, f"noise (batch, {latent})", data)
        )
    found = []
    for name, module, inputs, outputs, labelled, takes, gives in plans:
        if name not in only:
            continue
        more = {"label": label} if labelled else {}
        text = f"{takes} and label (batch,)" if labelled else takes
        described = about(packaged, f"{name}: {text} to {gives}")
        found.append(Graph(name, to_onnx(module, {**inputs, **more}, outputs, described), text, gives, module))
    return tuple(found)


def decoder_to_image(packaged: PackagedModel) -> bytes:
    """Return the decoder alone as an ONNX file: z (batch, latent_dim) to 8-bit images.

    The output ``image`` is uint8 (batch, height, width, channels), black and white where the report has them. A
    decoder that sees the class has a second input, label (batch,), int64.

    Raises:
        UserError: the model does not make images, or the extra ``onnx`` is not installed.
    """
    if len(packaged.preprocessing.shape) != 3:
        raise UserError("this model makes no images, so there is no image to decode to. Use export --to onnx.")
    inputs = {"z": torch.zeros(BATCH, *packaged.model.prior.latent_shape)}
    if packaged.model.decoder.sees_label:
        inputs["label"] = torch.zeros(BATCH, dtype=torch.int64)
    described = about(packaged, "decoder: z to an 8-bit image")
    return to_onnx(ImageGraph(packaged.eval()), inputs, ("image",), described)


def about(packaged: PackagedModel, description: str) -> dict[str, str]:
    """Return the metadata of a file."""
    model = packaged.model
    content: dict[str, Any] = {
        "description": description,
        "library": "sfumato",
        "version": metadata.version("sfumato"),
        "format_version": FORMAT_VERSION,
        "task": "variational autoencoder",
        "latent_dim": model.latent_dim,
        "likelihood": type(model.likelihood).__name__,
        "level_shapes": [list(shape) for shape in model.level_shapes],
        "class_names": list(packaged.class_names),
        "input_range": list(display_range(packaged.preprocessing)),
        "config": to_spec(packaged),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}


def check(
    found: tuple[Graph, ...], packaged: PackagedModel, x: NDArray[Any], y: NDArray[np.int64], seed: int = 0
) -> dict[str, float]:
    """Return the largest difference between onnxruntime and torch for each graph, on real examples.

    Differences are divided by the largest value of an output where that is above 1.

    Args:
        found: the graphs.
        packaged: the model.
        x: raw examples, (n, *shape), as the model takes them.
        y: class numbers (n,), -1 where unknown.
        seed: of the noise.

    Raises:
        SfumatoError: a difference above 1e-4.
    """
    raw = torch.as_tensor(x)
    own = packaged.preprocessing.inverse(torch.zeros(1, *packaged.preprocessing.shape)).dtype
    raw = raw.to(own).movedim(1, -1).contiguous() if len(packaged.preprocessing.shape) == 3 else raw.to(own)
    noise = torch.randn(len(raw), *packaged.model.prior.latent_shape, generator=torch.Generator().manual_seed(seed))
    label = torch.as_tensor(y)
    results: dict[str, float] = {}
    latent = noise
    for graph in found:
        inputs = {"encoder": {"x": raw}, "decoder": {"z": latent}, "sampler": {"noise": noise}}[graph.name]
        if "label" in graph.takes:  # the sampler and the decoder need a class
            inputs = {**inputs, "label": label if graph.name == "encoder" else label.clamp(min=0)}
        with torch.no_grad():
            ours = graph.module(**inputs)
        theirs = run_onnx(graph.data, {name: tensor.numpy() for name, tensor in inputs.items()})
        results[graph.name] = difference(dict(zip(theirs, ours, strict=True)), theirs)
        if graph.name == "encoder":
            latent = ours[0]
        if not results[graph.name] <= TOLERANCE:
            raise SfumatoError(
                f"{graph.name}.onnx differs from torch by {results[graph.name]:.1e}, more than {TOLERANCE:g}. "
                "Please report this with the run.json."
            )
    return results


def write(folder: Path, found: tuple[Graph, ...]) -> list[Path]:
    """Write the graphs, and return their paths."""
    from sfumato.verbs.writing import write as write_file

    return [write_file(folder / f"{graph.name}.onnx", graph.data) for graph in found]


def no_sampler(model: Model) -> str:
    """Return why there is no sampler."""
    return f"{type(_top(model)).__name__} is no normal distribution, so noise alone does not give its samples"


def _normal_prior(model: Model) -> bool:
    label = torch.zeros(1, dtype=torch.int64) if model.num_classes else None
    return stated_normal(_top(model)(label)) is not None


def _top(model: Model) -> Prior:
    """Return the prior of the uppermost level; those of the others are normal."""
    return model.top if isinstance(model, HierarchicalVAE) else model.prior


__all__ = ["Graph", "about", "check", "decoder_to_image", "graphs", "no_sampler", "write"]
