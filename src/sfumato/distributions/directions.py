r"""Distributions around a direction, on the unit sphere S^(d-1); densities are per unit of its area.

Both are symmetric around the direction mu: with w = cos(theta) = mu.z,

    z = cos(theta) mu + sin(theta) v,   v uniform on the unit sphere orthogonal to mu.

KL to the uniform distribution: log area - H.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, Distribution, constraints, register_kl
from torch.nn import functional as F

from sfumato.distributions.uniform_sphere import UniformSphere, log_area

NODES = 128
TRIES = 40  # proposals for each draw: that all are refused has a chance below 1e-15
LEAST = 1e-12


def _turned(direction: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return cos(theta) mu + sin(theta) v with a random v."""
    noise = torch.randn(*cosine.shape, direction.shape[-1], dtype=direction.dtype, device=direction.device)
    across = F.normalize(noise - (noise * direction).sum(-1, keepdim=True) * direction, dim=-1)
    return cosine.unsqueeze(-1) * direction + sine.unsqueeze(-1) * across


@final
class PowerSpherical(Distribution):
    r"""p(z) = (1 + mu.z)^kappa / N with N = 2^(a + b) pi^b Gamma(a) / Gamma(a + b), b = (d - 1) / 2, a = b + kappa.

    (1 + mu.z) / 2 is Beta(a, b): no rejection, and an entropy in closed form.

    Reference: The Power Spherical Distribution, De Cao and Aziz, 2020, https://arxiv.org/abs/2006.04437.

    Args:
        direction: mu, (*batch, d), of unit length.
        concentration: kappa > 0, (*batch).

    ``log_prob`` takes (..., *batch, d), all of unit length, and returns nats per unit of area.

    >>> north = torch.tensor([0.0, 0.0, 1.0])
    >>> PowerSpherical(north, torch.tensor(1.0)).log_prob(north).exp() * 4 * math.pi
    tensor(2.0000)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, direction: Tensor, concentration: Tensor) -> None:
        self.direction, self.concentration = direction, concentration
        super().__init__(direction.shape[:-1], direction.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean direction mu, on the sphere."""
        return self.direction

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        cosine = (self.direction * value).sum(-1)
        found = self.concentration * torch.log((1 + cosine).clamp(min=LEAST)) - self._log_constant()
        return found.to(value.dtype)

    def entropy(self) -> Tensor:
        """Return H, nats, (*batch)."""
        a, b = self._shapes()
        power = math.log(2) + torch.digamma(a) - torch.digamma(a + b)
        return (self._log_constant() - self.concentration * power).to(self.concentration.dtype)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of unit length, (*sample_shape, *batch, d)."""
        a, b = self._shapes()
        half = Beta(a, torch.full_like(a, b), validate_args=False).rsample(torch.Size(sample_shape))
        cosine, sine = 2 * half - 1, 2 * (half * (1 - half)).clamp(min=LEAST).sqrt()
        return _turned(self.direction, cosine.to(self.direction.dtype), sine.to(self.direction.dtype))

    def _shapes(self) -> tuple[Tensor, float]:
        b = (self.event_shape[0] - 1) / 2
        return self.concentration.double() + b, b

    def _log_constant(self) -> Tensor:
        a, b = self._shapes()
        return (a + b) * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b)


@final
class VonMisesFisher(Distribution):
    r"""p(z) = exp(kappa mu.z) / C with C = area(S^(d-2)) int_0^pi exp(kappa cos t) sin^(d-2) t dt.

    The integral is taken by Gauss and Legendre's rule in float64, where the mass is; so are its derivatives and the
    gradient of draws, which follows from the distribution function of theta: dtheta/dkappa = -(dF/dkappa) / F'.

    Reference: Hyperspherical Variational Auto-Encoders, Davidson et al., 2018, https://arxiv.org/abs/1804.00891;
    draws: Simulation of the von Mises Fisher Distribution, Wood, 1994; their gradient: Implicit Reparameterization
    Gradients, Figurnov et al., 2018, https://arxiv.org/abs/1805.08498.

    Args:
        direction: mu, (*batch, d), of unit length.
        concentration: kappa > 0, (*batch).

    ``log_prob`` takes (..., *batch, d), all of unit length, and returns nats per unit of area.

    >>> north = torch.tensor([0.0, 0.0, 1.0])
    >>> found = VonMisesFisher(north, torch.tensor(2.0)).log_prob(north).exp()
    >>> exact = 2.0 / (4 * math.pi * math.sinh(2.0)) * math.exp(2.0)
    >>> abs(float(found) - exact) < 1e-6
    True
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, direction: Tensor, concentration: Tensor) -> None:
        self.direction, self.concentration = direction, concentration
        super().__init__(direction.shape[:-1], direction.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean direction mu, on the sphere."""
        return self.direction

    @property
    def mean_cosine(self) -> Tensor:
        """E[mu.z], (*batch)."""
        return (1 - self._mean_gap()).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        gap = (self.direction * value).sum(-1).double() - 1
        return (self.concentration.double() * gap - self._log_constant()).to(value.dtype)

    def entropy(self) -> Tensor:
        """Return H, nats, (*batch)."""
        found = self._log_constant() + self.concentration.double() * self._mean_gap()
        return found.to(self.concentration.dtype)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of unit length, (*sample_shape, *batch, d)."""
        angle = self._angles(torch.Size(sample_shape)).to(self.direction.dtype)
        return _turned(self.direction, angle.cos(), angle.sin())

    def _integrand(self, angle: Tensor) -> Tensor:
        """Return log(exp(kappa (cos t - 1)) sin^(d-2) t), for t of (nodes, ..., *batch)."""
        power = self.event_shape[0] - 2
        sines = power * angle.sin().clamp(min=1e-300).log() if power else 0.0
        return sines - 2 * self.concentration.double() * (0.5 * angle).sin().square()

    def _nodes(self, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nodes of the rule on [0, end] and log of their weights, (nodes, *end.shape)."""
        places, weights = (torch.from_numpy(each).to(end.device) for each in _rule())
        shape = (NODES, *[1] * end.ndim)
        return end * places.reshape(shape), (end * weights.reshape(shape)).log()

    def _mass(self) -> tuple[Tensor, Tensor]:
        """Return nodes where the mass is and log of weight times integrand there, (nodes, *batch)."""
        kappa, dims = self.concentration.detach().double(), self.event_shape[0]
        enough = dims / 2 + 8 * math.sqrt(dims) + 40  # of kappa (1 - cos t), which is about Gamma((d - 1) / 2)
        end = 2 * (0.5 * enough / kappa).clamp(max=1.0).sqrt().asin()
        angle, log_weight = self._nodes(end)
        return angle, log_weight + self._integrand(angle)

    def _log_constant(self) -> Tensor:
        """Return log C - kappa."""
        return torch.logsumexp(self._mass()[1], 0) + log_area(self.event_shape[0] - 1)

    def _mean_gap(self) -> Tensor:
        """Return E[1 - mu.z]."""
        angle, log_mass = self._mass()
        return (log_mass.softmax(0) * 2 * (0.5 * angle).sin().square()).sum(0)

    def _angles(self, sample_shape: torch.Size) -> Tensor:
        """Return draws of theta, with their gradient in kappa."""
        with torch.no_grad():
            angle = self._drawn(sample_shape)
            inside, log_weight = self._nodes(angle)
            ratio = (log_weight + self._integrand(inside) - self._integrand(angle)).exp()
            slope = -(ratio * (self._mean_gap() - 2 * (0.5 * inside).sin().square())).sum(0)
        kappa = self.concentration.double()
        return angle + slope * (kappa - kappa.detach())

    def _drawn(self, sample_shape: torch.Size) -> Tensor:
        """Return draws of theta by Wood's rejection, of whose proposals there are always enough."""
        kappa, free = self.concentration.double(), self.event_shape[0] - 1.0
        bend = free / (2 * kappa + (4 * kappa.square() + free**2).sqrt())
        place = (1 - bend) / (1 + bend)
        level = kappa * place + free * torch.log1p(-place.square())
        half = kappa.new_full((TRIES, *sample_shape, *kappa.shape), free / 2)
        share = Beta(half, half, validate_args=False).sample()
        cosine = (1 - (1 + bend) * share) / (1 - (1 - bend) * share)
        chance = kappa * cosine + free * torch.log1p(-place * cosine) - level
        taken = (chance >= torch.rand_like(chance).log()).double().argmax(0, keepdim=True)
        return cosine.gather(0, taken).squeeze(0).clamp(-1, 1).acos()


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Return Gauss and Legendre's nodes and weights on [0, 1]."""
    places, weights = np.polynomial.legendre.leggauss(NODES)
    return 0.5 * (places + 1), 0.5 * weights


@register_kl(PowerSpherical, UniformSphere)  # type: ignore[no-untyped-call, untyped-decorator]
@register_kl(VonMisesFisher, UniformSphere)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_to_uniform(q: PowerSpherical | VonMisesFisher, p: UniformSphere) -> Tensor:
    return log_area(q.event_shape[0]) - q.entropy()
