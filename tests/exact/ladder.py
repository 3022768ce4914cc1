"""A ladder of two levels whose evidence is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from sfumato.core.gaussians import independent_normal
from sfumato.core.terms import Level, Terms


class Ladder(nn.Module):
    """Two levels: z1 ~ N(0, 1), z2 | z1 ~ N(a z1, s), x | z2 ~ N(c z2, v I), all known, c a vector.

    The posterior is exact and goes up: q(z1 | x) first, then q(z2 | z1, x). Given u = c.x / |c|^2 the evidence depends
    on x through a normal of one dimension, so every conditional is a formula.

    Args:
        shift: moves the posterior means away from the exact ones.
    """

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.a, self.s, self.v = 0.8, 0.6, 0.4
        self.c = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
        self.shift = shift

    def evidence(self) -> MultivariateNormal:
        """Return p(x)."""
        spread = self.a**2 + self.s
        eye = torch.eye(3, dtype=torch.float64)
        return MultivariateNormal(
            torch.zeros(3, dtype=torch.float64), spread * torch.outer(self.c, self.c) + self.v * eye
        )

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1) -> Terms:
        """Return the terms, z a tuple of two levels of shape (samples, batch, 1)."""
        square = self.c @ self.c
        u = (x @ self.c / square).unsqueeze(-1)  # sufficient: u | z2 ~ N(z2, noise)
        noise = self.v / square
        total = self.a**2 + self.s + noise
        top_mean = self.a * u / total + self.shift
        top_variance = (1 - self.a**2 / total).expand_as(u)
        top = independent_normal(top_mean, top_variance.log())
        z1 = top.rsample((samples,))
        gain = self.s / (self.s + noise)
        low_mean = self.a * z1 + gain * (u - self.a * z1) + self.shift
        low = independent_normal(low_mean, (self.s * (1 - gain)).log().expand_as(low_mean))
        z2 = low.rsample()
        zero = torch.zeros(1, dtype=torch.float64)
        prior = independent_normal(self.a * z1, torch.tensor(self.s, dtype=torch.float64).log().expand_as(z1))
        levels = (Level(z1, top, independent_normal(zero, zero)), Level(z2, low, prior))
        log_v = torch.tensor(self.v, dtype=torch.float64).log()
        observation = independent_normal(z2 * self.c, log_v.expand(3))
        return Terms(x, y, levels, observation)
