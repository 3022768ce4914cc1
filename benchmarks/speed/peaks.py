"""How fast this machine multiplies matrices, by each of torch's ways: the peaks that a training is measured by."""

from __future__ import annotations

import time

import torch

from sfumato.training.engine import onednn_products

SIZE = 2_048
TIMES = 8


def rate(dtype: torch.dtype) -> float:
    """Return the operations a second of a product of two square matrices, the best of some."""
    a, b = torch.randn(SIZE, SIZE).to(dtype), torch.randn(SIZE, SIZE).to(dtype)
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * SIZE**3 / min(times[1:])


def peaks() -> dict[str, float]:
    """Return name -> operations a second."""
    found = {"float32": rate(torch.float32)}
    with onednn_products():  # on a processor with AMX they would be bf16 inside
        found["float32_onednn"] = rate(torch.float32)
    return {**found, "bf16": rate(torch.bfloat16)}
