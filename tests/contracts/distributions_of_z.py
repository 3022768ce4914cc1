"""Examples of the distributions that priors and posteriors return: (dtype, scale) -> (distribution, value)."""

from __future__ import annotations

import math

import torch
from contract import numbers
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.gaussians import independent_normal
from sfumato.distributions import (
    CodeSequence,
    Flowed,
    GaussianMixture,
    Marginal,
    OneHot,
    PoincareNormal,
    PowerSpherical,
    UniformSphere,
    VonMisesFisher,
    WithMomentum,
)


def mixture(dtype: torch.dtype, scale: float):
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=dtype).log()
    means, widths = numbers(3, 2, dtype=dtype, scale=scale), numbers(3, 2, dtype=dtype, seed=2).exp()
    return GaussianMixture(weights, means, widths), numbers(5, 4, 2, dtype=dtype, scale=scale, seed=3)


def full_mixture(dtype: torch.dtype, scale: float):
    weights = torch.tensor([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.3, 0.7]], dtype=dtype).log()
    lower = torch.eye(2, dtype=dtype) + 0.5 * numbers(2, 2, 2, dtype=dtype, seed=2).tril(-1)
    means = numbers(2, 2, dtype=dtype, scale=scale)
    return GaussianMixture(weights, means, scale_tril=lower), numbers(5, 4, 2, dtype=dtype, scale=scale, seed=3)


def flowed(dtype: torch.dtype, scale: float):
    def there(u: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * u, torch.full_like(u[..., 0], 2 * math.log(2))

    def back(z: Tensor) -> tuple[Tensor, Tensor]:
        return z / 2, torch.full_like(z[..., 0], -2 * math.log(2))

    base = independent_normal(numbers(4, 2, dtype=dtype, scale=scale), numbers(4, 2, dtype=dtype, seed=2))
    return Flowed(base, there, back), numbers(5, 4, 2, dtype=dtype, scale=scale, seed=3)


def directions(dtype: torch.dtype, *shape: int) -> Tensor:
    return F.normalize(numbers(*shape, seed=3), dim=-1).to(dtype)


def sphere(dtype: torch.dtype, scale: float):
    return UniformSphere(torch.zeros(3, dtype=dtype)), None


def around(cls: type):
    def make(dtype: torch.dtype, scale: float):
        concentration = (numbers(4, dtype=dtype, seed=2) * 2).exp()
        return cls(directions(dtype, 4, 3), concentration), directions(dtype, 5, 4, 3)

    return make


def poincare(dtype: torch.dtype, scale: float):
    centre, value = (torch.tanh(numbers(*shape, 2, dtype=dtype)) / 2 for shape in ((4,), (5, 4)))
    return PoincareNormal(centre, numbers(4, 2, dtype=dtype, seed=2).exp()), value


def one_hot(dtype: torch.dtype, scale: float):
    value = F.one_hot(torch.tensor([[0, 2], [1, 1], [2, 0], [0, 0]]), 3).to(dtype)
    return OneHot(numbers(4, 2, 3, dtype=dtype, scale=scale)), value


def turned(z: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor, float]:
    return momentum, -z, 0.0


def with_momentum(dtype: torch.dtype, scale: float):
    base = independent_normal(numbers(4, 2, dtype=dtype, scale=scale), numbers(4, 2, dtype=dtype, seed=2))
    return WithMomentum(base, turned), None


def code_sequence(dtype: torch.dtype, scale: float):
    def conditionals(codes: Tensor) -> Tensor:
        seen = F.pad(codes.cumsum(-1), (1, 0)).to(dtype)
        return seen.unsqueeze(-1) * numbers(3, dtype=dtype, scale=scale)

    value = numbers(5, 4, 2, dtype=dtype, seed=3)
    found = CodeSequence(
        conditionals, lambda codes: codes.to(dtype) - 1, lambda z: z.round().clamp(-1, 1) + 1, 2, 3, (2,)
    )
    return found, value


def marginal(dtype: torch.dtype, scale: float):
    loading = numbers(3, 2, dtype=dtype)

    def encoder(z: Tensor):
        return independent_normal(z @ loading / 8, torch.zeros_like(z[..., :2]))

    value = numbers(5, 4, 3, dtype=dtype, scale=scale, seed=3)
    return Marginal(lambda u: u @ loading.T, numbers(3, dtype=dtype, seed=2), encoder, (2, 3), 4), value


OF_Z = {
    "CodeSequence": {"": code_sequence},
    "Flowed": {"": flowed},
    "GaussianMixture": {"": mixture, "full": full_mixture},
    "Marginal": {"": marginal},
    "OneHot": {"": one_hot},
    "PoincareNormal": {"": poincare},
    "PowerSpherical": {"": around(PowerSpherical)},
    "UniformSphere": {"": sphere},
    "VonMisesFisher": {"": around(VonMisesFisher)},
    "WithMomentum": {"": with_momentum},
}
