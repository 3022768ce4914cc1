"""What posteriors that follow the gradient of the joint share: the gradient, and how the momentum cools."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def slope_of_joint(model: Any, x: Tensor, y: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return z -> d/dz log p(x, z | y), (..., batch, *latent); in training it has a gradient of its own."""

    def slope(z: Tensor) -> Tensor:
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            free = z if z.requires_grad else z.detach().requires_grad_()
            log_joint = model.decode(free, y).log_prob(x) + model.prior(y).log_prob(free)
            (found,) = torch.autograd.grad(log_joint.sum(), free, create_graph=training)
        return found

    return slope


def cooling(heat: Tensor, steps: int) -> list[Tensor]:
    """Return 1 / sqrt(beta_k), k = 0 ... K, = 1 + (1 / sqrt(beta_0) - 1) (1 - k^2 / K^2), with beta_0 = sigmoid(heat).

    The last is 1.
    """
    hottest = torch.rsqrt(torch.sigmoid(heat))
    return [1 + (hottest - 1) * (1 - (k / steps) ** 2) for k in range(steps + 1)]


def logit(probability: float) -> float:
    """Return the number whose sigmoid is ``probability``."""
    return math.log(probability / (1 - probability))
