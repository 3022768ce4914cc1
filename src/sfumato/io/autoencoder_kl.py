"""Folders of diffusers' ``AutoencoderKL``: ``config.json`` and ``diffusion_pytorch_model.safetensors``.

Read as strictly as a model folder: json and safetensors only, every number typed and bounded, tensors compared with
what the configuration describes before anything is built, nothing fetched. diffusers itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from torch import Tensor

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.core.spec import Length, Positive, Range, Real, Size, checked, to_spec
from sfumato.io import store
from sfumato.io.folder import compare
from sfumato.io.store import DamagedError, explained, shown
from sfumato.io.tensors import pack, refuse_pickle, unpack
from sfumato.networks import KLDecoder, KLEncoder

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VERSION = "0.42.1"  # of diffusers, whose fields these are
MOST_BYTES = 2**33

Down = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Up = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
PLAIN_DOWN, ATTENTIVE_DOWN = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
PLAIN_UP, ATTENTIVE_UP = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
_PLACES = (("quant_conv.", "encoder.quant_conv."), ("post_quant_conv.", "decoder.post_quant_conv."))
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
Numbers = Annotated[tuple[Real, ...], Length(65_536)]
Side = Annotated[int, Range(1, 65_536)]


@dataclass(frozen=True)
class FirstStage:
    """The fields of diffusers' ``AutoencoderKL``, with its defaults.

    Args:
        in_channels: of the image.
        out_channels: of the image.
        down_block_types: one a size, from the image down.
        up_block_types: one a size, from the grid up.
        block_out_channels: widths, from the image down.
        layers_per_block: residual blocks at each size; the decoder has one more.
        act_fn: of the residual blocks.
        latent_channels: of the grid.
        norm_num_groups: of the group normalisation.
        sample_size: the usual side of the image, or (height, width).
        scaling_factor: what pipelines multiply latents by.
        shift_factor: what some pipelines subtract before.
        latents_mean: for each latent channel.
        latents_std: for each latent channel.
        force_upcast: pipelines in half precision run the autoencoder in float32.
        use_quant_conv: a 1x1 convolution after the encoder.
        use_post_quant_conv: a 1x1 convolution before the decoder.
        mid_block_add_attention: attention at the smallest size.
    """

    in_channels: Size = 3
    out_channels: Size = 3
    down_block_types: Annotated[tuple[Down, ...], Length(256)] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Up, ...], Length(256)] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Size, ...], Length(16)] = (64,)
    layers_per_block: Annotated[int, Range(1, 64)] = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Size = 4
    norm_num_groups: Size = 32
    sample_size: Side | Annotated[tuple[Side, ...], Length(2)] = 32
    scaling_factor: Positive = 0.18215
    shift_factor: Real | None = None
    latents_mean: Numbers | None = None
    latents_std: Numbers | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def factor(self) -> int:
        """How many times smaller the grid is than the image."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def size(self) -> tuple[int, int]:
        """``sample_size`` as (height, width)."""
        size = self.sample_size
        return (size, size) if isinstance(size, int) else (size[0], size[-1])

    def networks(self, size: tuple[int, int]) -> tuple[KLEncoder, KLDecoder]:
        """Return encoder and decoder, with fresh weights, for images of (height, width)."""
        height, width = size
        latent = self.latent_channels * (height // self.factor) * (width // self.factor)
        attends = tuple(kind == ATTENTIVE_DOWN for kind in self.down_block_types)
        shared: dict[str, Any] = {
            "widths": self.block_out_channels,
            "layers": self.layers_per_block,
            "middle_attention": self.mid_block_add_attention,
            "groups": self.norm_num_groups,
            "activation": "silu" if self.act_fn == "swish" else self.act_fn,
        }
        encoder = KLEncoder(
            (self.in_channels, height, width), (2, latent), attention=attends, mix=self.use_quant_conv, **shared
        )
        attends = tuple(kind == ATTENTIVE_UP for kind in reversed(self.up_block_types))
        shape = (1, self.out_channels, height, width)
        decoder = KLDecoder((latent,), shape, attention=attends, mix=self.use_post_quant_conv, **shared)
        return encoder, decoder

    def to_config(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"_class_name": "AutoencoderKL", "_diffusers_version": VERSION, **plain}


def first_stage_of(encoder: KLEncoder, decoder: KLDecoder, **more: Any) -> FirstStage:
    """Return the configuration of two networks; ``more`` are the fields that they do not know.

    Raises:
        UserError: the two differ in what ``AutoencoderKL`` has one number for.
    """
    one, other = to_spec(encoder), to_spec(decoder)
    for name in ("widths", "layers", "groups", "activation", "middle_attention"):
        if one[name] != other[name]:
            raise UserError(
                f"AutoencoderKL has one '{name}' for encoder and decoder; got {one[name]} and {other[name]}. "
                "Train with the same for both."
            )
    attends = [tuple(spec["attention"]) or (False,) * len(one["widths"]) for spec in (one, other)]
    channels, height, width = decoder.out_shape[-3:]
    return FirstStage(
        in_channels=encoder.conv_in.in_channels,
        out_channels=channels,
        down_block_types=tuple(ATTENTIVE_DOWN if flag else PLAIN_DOWN for flag in attends[0]),  # type: ignore[misc]
        up_block_types=tuple(ATTENTIVE_UP if flag else PLAIN_UP for flag in reversed(attends[1])),  # type: ignore[misc]
        block_out_channels=tuple(one["widths"]),
        layers_per_block=one["layers"],
        act_fn=one["activation"],
        latent_channels=encoder.grid[0],
        norm_num_groups=one["groups"],
        sample_size=height if height == width else (height, width),
        use_quant_conv=one["mix"],
        use_post_quant_conv=other["mix"],
        mid_block_add_attention=one["middle_attention"],
        **more,
    )


def read_first_stage(path: str | Path) -> tuple[FirstStage, dict[str, Tensor], dict[str, Tensor]]:
    """Read a folder of ``AutoencoderKL``, or the ``vae`` in the folder of a pipeline.

    Returns:
        configuration, tensors of the encoder, tensors of the decoder, in float32, with the names of our networks.

    Raises:
        UserError: another class, an unknown field, a value out of its range, a pickle, tensors that do not fit.
        DamagedError: a file is missing.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise UserError(f"{shown(path)} is not a folder. Give the folder of an AutoencoderKL, with {CONFIG}.")
    if (path / "model_index.json").is_file() and (path / "vae" / CONFIG).is_file():
        path = path / "vae"
    source = shown(path / CONFIG)
    stage = parse_config(strict_json.parse(_read(path, CONFIG, strict_json.MAX_BYTES), source), source)
    if not (path / WEIGHTS).exists():
        for name in _PICKLES:
            if (path / name).exists():
                refuse_pickle(b"\x80", shown(path / name))
    tensors = renamed(unpack(_read(path, WEIGHTS, MOST_BYTES), shown(path / WEIGHTS)), shown(path / WEIGHTS))
    with torch.device("meta"):
        outline = _joined(*stage.networks((stage.factor, stage.factor)))
    compare(outline, tensors, shown(path / WEIGHTS))
    parts: list[dict[str, Tensor]] = [
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    ]
    return stage, parts[0], parts[1]


def parse_config(content: Any, source: str) -> FirstStage:
    """Return the configuration in the content of a ``config.json``.

    Raises:
        UserError: see :func:`read_first_stage`.
    """
    name = content.get("_class_name") if isinstance(content, dict) else None
    if name != "AutoencoderKL":
        got = f"'{str(name)[:80]}'" if name else "something else"
        raise UserError(f"{source} should describe an AutoencoderKL; it describes {got}. Give the folder of one.")
    hints = get_type_hints(FirstStage, include_extras=True)
    given: dict[str, Any] = {}
    for key, value in content.items():
        if key.startswith("_"):
            continue
        if key == "double_z":
            if value is not True:
                raise UserError(f"{source}: without double_z there is no log-variance, so no VAE. Use another model.")
            continue
        if key not in hints:
            raise UserError(
                f"{source} has the field '{key[:80]}', which AutoencoderKL of diffusers {VERSION} does not. "
                "Take it out if the weights do not depend on it."
            )
        given[key] = checked(_written(key, value), hints[key], f"{source}: {key}")
    stage = FirstStage(**given)
    sizes = len(stage.block_out_channels)
    for key in ("down_block_types", "up_block_types"):
        if len(getattr(stage, key)) != sizes:
            raise UserError(
                f"{source}: {key} should have one entry for each of {sizes} block_out_channels; got "
                f"{len(getattr(stage, key))}. Give as many."
            )
    for key in ("latents_mean", "latents_std"):
        numbers = getattr(stage, key)
        if numbers is not None and len(numbers) != stage.latent_channels:
            raise UserError(
                f"{source}: {key} should have one number for each of {stage.latent_channels} latent channels; got "
                f"{len(numbers)}. Give as many."
            )
    if not sizes:
        raise UserError(f"{source}: block_out_channels should have at least one entry; got none. Use the original.")
    return stage


def _written(key: str, value: Any) -> Any:
    """Return a value in our spelling: diffusers takes a prefix before blocks, and capitals in activations."""
    if key in ("down_block_types", "up_block_types") and isinstance(value, list):
        return [kind.removeprefix("UNetRes") if isinstance(kind, str) else kind for kind in value]
    return value.lower() if key == "act_fn" and isinstance(value, str) else value


def write_first_stage(
    path: str | Path,
    stage: FirstStage,
    encoder: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor],
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Write a folder that ``AutoencoderKL.from_pretrained`` loads; ``config.json`` last, so a part of it is not loaded.

    Args:
        path: the folder, made if it is not there.
        stage: the configuration.
        encoder: tensors of our encoder, by name.
        decoder: tensors of our decoder.
        more: other files, name -> content.
    """
    path = Path(path)
    tensors = {f"encoder.{name}": value for name, value in encoder.items()}
    tensors |= {f"decoder.{name}": value for name, value in decoder.items()}
    theirs = {_to_theirs(name): value for name, value in tensors.items()}
    files = {WEIGHTS: pack(dict(sorted(theirs.items()))), **(more or {}), CONFIG: strict_json.dump(stage.to_config())}
    with explained(path):
        store.make_folder(path.absolute())
    for name, data in files.items():
        store.write_file(path / name, data)


def renamed(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return diffusers' tensors under our names, in float32; attention may have the names of its first releases."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{source}: '{name[:200]}' should hold real numbers; it holds {kind}. Use the original.")
        own = name
        for theirs, ours in _PLACES:
            if name.startswith(theirs):
                own = ours + name.removeprefix(theirs)
        words = own.split(".")
        if "attentions" in words[:-1] and len(words) > 2 and words[-2] in _OLD_NAMES:
            own = ".".join([*words[:-2], _OLD_NAMES[words[-2]], words[-1]])
        if own in found:
            raise UserError(f"{source} has the tensor '{own[:200]}' twice, under two names. Use the original.")
        found[own] = tensor.float()
    return found


def _to_theirs(name: str) -> str:
    for theirs, ours in _PLACES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _joined(encoder: KLEncoder, decoder: KLDecoder) -> dict[str, Tensor]:
    """Return the tensors of both, by name."""
    parts = (("encoder", encoder), ("decoder", decoder))
    return {f"{part}.{name}": tensor for part, network in parts for name, tensor in network.state_dict().items()}


def _read(path: Path, name: str, most: int) -> bytes:
    if not (path / name).exists():
        there = ", ".join(sorted(item.name for item in path.iterdir())[:6]) or "nothing"
        raise DamagedError(f"{shown(path / name)} is missing (there: {there}). Give the folder of an AutoencoderKL.")
    return store.read_foreign(path / name, most)
