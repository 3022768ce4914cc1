"""Small numerics that several rooms share. All natural logarithms."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def logmeanexp(values: Tensor, dim: int = 0) -> Tensor:
    """Return log(1/n sum exp(values)) over ``dim``, without overflow.

    What lies 60 below the largest is lost in the sum, in float64 too. Its weight in the gradient would be a denormal
    number, with which matrix products take up to ten times as long: it gets none.
    """
    floor = values.detach().amax(dim, keepdim=True) - 60
    return torch.logsumexp(torch.maximum(values, floor), dim) - math.log(values.shape[dim])


def sum_event(values: Tensor, event_dims: int) -> Tensor:
    """Sum over the last ``event_dims`` dimensions, whatever their number (none: unchanged)."""
    return values.flatten(values.ndim - event_dims).sum(-1) if event_dims else values


def soft_bound(values: Tensor, low: float, high: float) -> Tensor:
    """Squash smoothly into [low, high + exp(low - high)]; the identity inside, but for exp(-distance to the bound).

    Formula: low + softplus(u - low) with u = high - softplus(high - v). Any finite or infinite input gives a finite
    output, and the derivative is in [0, 1] everywhere.
    """
    upper = high - F.softplus(high - values)
    return low + F.softplus(upper - low)


def seed_for(*numbers: int) -> int:
    """Mix whole numbers (seed, step, rank, ...) into one 63-bit seed, the same on every machine (SplitMix64)."""
    mask = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + (number & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


@contextlib.contextmanager
def fixed_noise(seed: int | torch.Generator | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside the block all of torch's randomness follows from ``seed``; outside it nothing has changed.

    Args:
        seed: a whole number, or a generator that one number is drawn from, or None to leave torch's state alone.
        device: the device whose random state is used, and put back, beside the processor's.
    """
    if seed is None:
        yield
        return
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=seed, device=seed.device))
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # torch.manual_seed would seed every device there is, also those that are not put back
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
