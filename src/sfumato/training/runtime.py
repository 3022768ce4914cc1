"""Devices, precision and processes. The only file that imports accelerate.

accelerate tells which device and which process this is. It never holds state and never sees a loader: the batch is a
function of (seed, epoch, position).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Runtime:
    """Where and how the training steps are computed.

    Args:
        device: the device of this process.
        bf16: whether the steps run under bf16 autocast.
        rank: the number of this process.
        processes: how many there are.
    """

    device: torch.device
    bf16: bool
    rank: int = 0
    processes: int = 1

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a training step's forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def describe(self) -> str:
        """Return e.g. ``2 CPU cores, float32``."""
        where = f"{torch.get_num_threads()} CPU cores" if self.device.type == "cpu" else str(self.device)
        return f"{where}, {'bf16' if self.bf16 else 'float32'}"


def open_runtime(precision: str) -> Runtime:
    """Return the runtime of this process for ``precision`` (auto, float32 or bf16)."""
    from accelerate import PartialState

    state = PartialState()
    device = torch.device(state.device)
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return Runtime(device, bf16, state.process_index, state.num_processes)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bf16 (emulation was measured at a third of float32's speed)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
