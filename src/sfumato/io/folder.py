"""The model folder: ``config.json`` and ``model.safetensors``, enough to sample, encode, decode and score.

The configuration is the tree of class names and arguments (:mod:`sfumato.core.spec`). It is built on torch's meta
device first, which allocates nothing, and compared with the tensors of the file; only what agrees is built for real.
So a constructor may make tensors, but not read their values.
Nothing executable is loaded and nothing is fetched.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.core.spec import from_spec, to_spec
from sfumato.io import store
from sfumato.io.store import DamagedError, explained, shown
from sfumato.io.tensors import pack, refuse_pickle, unpack

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT_VERSION = 1
MAX_UNSAVED_BYTES = 2**28
_RESERVED = ("format_version", "library", "model")
_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_model(path: str | Path, module: nn.Module, *, card: Mapping[str, Any], replace: bool = False) -> None:
    """Write a model folder, durably and whole.

    Args:
        path: the folder.
        module: a registered module.
        card: what else a reader should know, as plain json: preprocessing, class names, metrics.
        replace: allow a model folder at ``path``; at every moment the old or the new one can be loaded.

    Raises:
        UserError: ``path`` exists, or the module differs from what its configuration builds.
        NoRoom: the disk is full; what was there is still good.
    """
    reserved = [key for key in _RESERVED if key in card]
    if reserved:
        raise ValueError(f"the card may not name '{reserved[0]}'")
    tensors = module.state_dict()
    spec = to_spec(module)
    source = shown(Path(path) / CONFIG)
    compare(_outline(spec, getattr(module, "spec_kind", "model"), source), tensors, "the module to be saved")
    config = {
        "format_version": FORMAT_VERSION,
        "library": "sfumato",
        "model": spec,
        **card,
        "versions": {
            "sfumato": version("sfumato"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    data = strict_json.dump(config)
    strict_json.parse(data, source)  # what could not be read again is not written
    store.write_folder(path, {CONFIG: data, WEIGHTS: pack(tensors)}, replace=replace)


def load_model(path: str | Path, kind: str = "model") -> tuple[nn.Module, dict[str, Any]]:
    """Read a model folder. The rooms whose classes it names must have been imported by the caller.

    Args:
        path: the folder.
        kind: the room that the module comes from.

    Returns:
        module: on the CPU, in evaluation mode.
        card: what was given to :func:`save_model`, and "versions".

    Raises:
        UserError: not a model folder, a pickle, an unknown class or argument, another format version, a tensor that is
            missing, one too many, or of another shape or type than the configuration says.
        DamagedError: a file missing, cut or changed.
    """
    path = Path(path)
    _refuse_other_things(path)
    files = store.read_folder(path, (CONFIG, WEIGHTS))
    source = shown(path / CONFIG)
    config = _parse(files[CONFIG], source)
    tensors = unpack(files[WEIGHTS], shown(path / WEIGHTS))
    compare(_outline(config["model"], kind, source), tensors, shown(path / WEIGHTS))
    with fixed_noise(0):  # the random start is overwritten, and the caller's random numbers stay as they were
        module = _build(config["model"], kind, source)
    module.load_state_dict(tensors)
    return module.eval(), {key: value for key, value in config.items() if key not in _RESERVED}


def _parse(data: bytes, source: str) -> dict[str, Any]:
    try:
        config = strict_json.parse(data, source)
    except ValueError as error:  # a whole number of thousands of digits
        raise UserError(f"{source} is not valid json ({error}). Use the original file.") from None
    if not isinstance(config, dict) or config.get("library") != "sfumato" or "model" not in config:
        raise UserError(f"{source} does not describe a model of sfumato. Give a folder that sfumato wrote.")
    found = config.get("format_version")
    if type(found) is not int or found != FORMAT_VERSION:
        raise UserError(
            f"{source} has the format version {str(found)[:40]}; this sfumato reads {FORMAT_VERSION}. "
            "Use the sfumato that wrote it."
        )
    return config


def _outline(spec: Any, kind: str, source: str) -> dict[str, Tensor]:
    """Return the tensors that ``spec`` would have, with shape and type but without memory."""
    with torch.device("meta"), fixed_noise(0):
        module = _build(spec, kind, source)
        tensors = module.state_dict()
    unsaved = sum(buffer.nbytes for name, buffer in module.named_buffers() if name not in tensors)
    if unsaved > MAX_UNSAVED_BYTES:
        raise UserError(
            f"{source} asks for {unsaved / 1e6:,.0f} MB beside its weights; at most {MAX_UNSAVED_BYTES / 1e6:,.0f} are "
            "allowed. Use the original file."
        )
    return tensors


def _build(spec: Any, kind: str, source: str) -> nn.Module:
    """Build a module from what a file says; whatever a constructor objects to is the file's fault."""
    try:
        module = from_spec(spec, kind, f"{source}: model")
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(source) else f"{source}: {text}") from None
    except Exception as error:
        if "meta tensor" in str(error):
            raise UserError(
                f"{source}: a constructor reads the values of its tensors ({error}), so the sizes cannot be checked "
                "before memory is taken. Let it decide in plain Python numbers."
            ) from error
        raise UserError(f"{source} describes a model that cannot be built ({error}). Use the original file.") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{source}: {type(module).__name__} has no weights. Give a folder that sfumato wrote.")
    return module


def compare(outline: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError unless ``tensors`` have the names, shapes and types of ``outline``."""
    cure = "Use the configuration and the weights that were written together."
    for name in sorted(outline.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{source} has no tensor '{name}', which the configuration needs. {cure}")
        if name not in outline:
            raise UserError(f"{source} has the tensor '{name[:200]}', which the configuration does not know. {cure}")
        want, got = outline[name], tensors[name]
        if want.shape != got.shape or want.dtype != got.dtype:
            raise UserError(
                f"{source}: '{name}' should be {_text(want)} by the configuration; it is {_text(got)}. {cure}"
            )


def _text(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _refuse_other_things(path: Path) -> None:
    """Raise UserError for what people offer as a model and is none."""
    if path.is_file():
        with explained(path, "read"), path.open("rb") as file:
            head = file.read(16)
        refuse_pickle(b"\x80" if path.suffix.lower() in _PICKLE_SUFFIXES else head, shown(path))
        raise UserError(f"{shown(path)} is a file. Give the model folder that holds {CONFIG} and {WEIGHTS}.")
    if path.is_dir() and not (path / CONFIG).exists():
        with explained(path, "read"):
            pickles = sorted(item for item in path.iterdir() if item.suffix.lower() in _PICKLE_SUFFIXES)
        if pickles:
            refuse_pickle(b"\x80", shown(pickles[0]))
        raise DamagedError(f"{shown(path / CONFIG)} is missing. Give the model folder that holds it.")
