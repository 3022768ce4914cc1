"""Densities integrate to one and match their samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

BINS = 20


def cell_masses(log_prob: Callable[[Tensor], Tensor], dims: int, low: float, high: float, cells: int) -> Tensor:
    """Return the mass of every cell by the midpoint rule, (cells,) * dims."""
    width = (high - low) / cells
    centres = low + width * (torch.arange(cells, dtype=torch.float64) + 0.5)
    grid = torch.stack(torch.meshgrid(*[centres] * dims, indexing="ij"), -1).reshape(-1, dims)
    return (log_prob(grid).detach().exp() * width**dims).reshape(*[cells] * dims)


def density_matches_samples(distribution: Distribution, low: float, high: float, samples: int = 40_000) -> None:
    """The mass of a density of event shape (1,) or (2,) and batch shape () is one, and where its samples fall."""
    (dims,) = distribution.event_shape
    cells = 2000 if dims == 1 else 400
    masses = cell_masses(distribution.log_prob, dims, low, high, cells)
    assert abs(float(masses.sum()) - 1.0) < 1e-6
    draws = distribution.sample((samples,)).double()
    assert draws.shape == (samples, dims)
    for axis in range(dims):
        marginal = masses.sum([other for other in range(dims) if other != axis]) if dims > 1 else masses
        expected = marginal.reshape(BINS, -1).sum(-1)
        found = torch.histc(draws[:, axis], BINS, low, high) / samples
        frequencies_agree(found, expected, samples)
    if dims == 2:
        centres = low + (high - low) / cells * (torch.arange(cells, dtype=torch.float64) + 0.5)
        product = float((masses * centres[:, None] * centres[None, :]).sum())
        products = draws.prod(-1)
        assert abs(float(products.mean()) - product) < 5 * float(products.std()) / math.sqrt(samples)


def frequencies_agree(found: Tensor, expected: Tensor, samples: int) -> None:
    """Every frequency lies within five standard errors of its mass."""
    error = (expected * (1 - expected) / samples).clamp(min=0).sqrt() + 1 / samples
    assert ((found - expected).abs() < 5 * error).all(), (found, expected)
