"""Devices, precision and processes. The only file that imports accelerate.

accelerate tells which device and which process this is. It never holds state and never sees a loader: the batch is a
function of (seed, epoch, position).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from sfumato.core.processes import ALONE, Processes, lost

TIMEOUT = timedelta(minutes=30)  # of processes that wait for one that hangs, or for the report that the first one draws


@dataclass(frozen=True)
class Runtime:
    """Where and how the training steps are computed.

    Args:
        device: the device of this process.
        bf16: whether the steps run under bf16 autocast.
        processes: those that train together.
    """

    device: torch.device
    bf16: bool
    processes: Processes = ALONE

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a training step's forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def describe(self) -> str:
        """Return e.g. ``2 CPU cores, float32``."""
        where = f"{torch.get_num_threads()} CPU cores" if self.device.type == "cpu" else str(self.device)
        several = f", {self.processes.count} processes" if self.processes.several else ""
        return f"{where}, {'bf16' if self.bf16 else 'float32'}{several}"


def open_runtime(precision: str) -> Runtime:
    """Return the runtime of this process for ``precision`` (auto, float32 or bf16)."""
    device, processes = _opened()
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return Runtime(device, bf16, processes)


def open_processes() -> Processes:
    """Return the processes that this one was started with, by torchrun or accelerate launch; else it alone."""
    return _opened()[1]


def _opened() -> tuple[torch.device, Processes]:
    from accelerate import PartialState

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _several():
        with lost():
            _meet()
    state = PartialState(cpu=_several() and not torch.cuda.is_available())
    device = torch.device(state.device)
    if not _several():
        return device, ALONE
    return device, Processes(distributed.get_rank(), distributed.get_world_size(), device)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _meet() -> None:
    """Meet the other processes. Those that a launcher started again must not find the addresses of the first ones."""
    store, rank, count = next(distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = distributed.PrefixStore(f"attempt-{attempt}", store)  # type: ignore[attr-defined]
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=TIMEOUT)


def close_processes() -> None:
    """Part from the other processes, if there are any."""
    if _several():
        distributed.destroy_process_group()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bf16 (emulation was measured at a third of float32's speed)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
