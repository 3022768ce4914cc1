"""Named tensors to safetensors bytes and back, and an optimizer's state as tensors and json. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.io.store import FORMAT_VERSION

_PICKLES = (b"PK\x03\x04", b"\x80")


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return ``tensors`` as the bytes of a safetensors file.

    Args:
        tensors: name -> tensor, of any device and layout of strides; names that share memory are written apart.
        metadata: texts for the header, beside the library's own.
    """
    header = dict(metadata or {}) | {"format": "pt", "library": "sfumato", "format_version": str(FORMAT_VERSION)}
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        memory = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return _sorted_header(safetensors.torch.save(plain, header))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of ``tensors`` as a file holds them: for weights the one of ``model.safetensors``."""
    return hashlib.sha256(pack(tensors)).hexdigest()


def unpack(data: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Args:
        data: the bytes of the file.
        source: what to call the file in an error.

    Raises:
        UserError: a pickle, or anything else that is not a whole safetensors file.
    """
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, or what torch says to a header that lies
        refuse_pickle(data, source)
        raise UserError(f"{source} is not a whole safetensors file ({error}). Use an intact copy.") from None


def refuse_pickle(data: bytes, source: str) -> None:
    """Raise UserError when ``data`` begins as a pickle or a zip of pickles does; it is never opened."""
    if data.startswith(_PICKLES) and data[8:9] != b"{":  # safetensors: the length of a header, then the header
        raise UserError(
            f"{source} is a pickle (or a zip of them), which can run any program when opened, so it is not opened. "
            "Use a model folder written by sfumato (config.json and model.safetensors)."
        )


def _sorted_header(data: bytes) -> bytes:
    """Return the same file with its texts in the order of their names: the same tensors are then the same bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(data)[8 + size :]))


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split ``optimizer.state_dict()`` into tensors and json.

    Returns:
        tensors: "0.exp_avg", "0.step", ... for the state; "group.0.lr" where a setting is a tensor.
        json: {"state": {"0": {...}}, "param_groups": [{...}]}, all that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}

    def split(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
        tensors.update({f"{prefix}.{key}": value for key, value in values.items() if isinstance(value, Tensor)})
        rest = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in rest.items()}

    plain = {
        "state": {str(index): split(str(index), values) for index, values in state["state"].items()},
        "param_groups": [split(f"group.{index}", group) for index, group in enumerate(state["param_groups"])],
    }
    return tensors, plain


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what :func:`flatten_optimizer` split, ready for ``optimizer.load_state_dict``.

    Raises:
        UserError: a tensor that belongs to no parameter of ``plain``.
    """
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    groups = [
        {
            key: tuple(value) if isinstance(value, list) and key not in ("params", "param_names") else value
            for key, value in group.items()
        }
        for group in plain["param_groups"]
    ]
    for name, tensor in tensors.items():
        *place, key = name.split(".")
        try:
            owner = groups[int(place[1])] if place[0] == "group" else state[int(place[0])]
        except (IndexError, KeyError, ValueError):
            raise UserError(f"the optimizer's state has a tensor too many: '{name}'. Use an intact copy.") from None
        owner[key] = torch.as_tensor(tensor)
    return {"state": state, "param_groups": groups}
