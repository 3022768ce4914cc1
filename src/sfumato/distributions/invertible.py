r"""Invertible maps of z with log|det| of their Jacobian: the steps of simple flows.

Each takes z (..., d) and its numbers p (..., n), and returns (g(z), log|det dg/dz|); each has an inverse.

    planar       g(z) = z + u tanh(w.z + b)                    p = (w, u, b)
    radial       g(z) = z + beta (z - c) / (alpha + |z - c|)   p = (c, alpha, beta)
    householder  g(z) = z - 2 v (v.z) / |v|^2                  p = v

u and beta are bent so that g is invertible whatever p is. References: Variational Inference with Normalizing Flows,
Rezende and Mohamed, 2015, https://arxiv.org/abs/1505.05770, appendix A; Improving Variational Auto-Encoders using
Householder Flow, Tomczak and Welling, 2016, https://arxiv.org/abs/1611.09630.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

HALVINGS = 60  # of an interval: to the last digit of float64
LEAST = 1e-6

Moved = tuple[Tensor, Tensor]


class Step(NamedTuple):
    """A kind of map.

    Args:
        there: (z, p) to (g(z), log|det|).
        back: its inverse, (z, p) to (g^-1(z), log|det| of the inverse).
        numbers: how many p has, from d.
    """

    there: Callable[[Tensor, Tensor], Moved]
    back: Callable[[Tensor, Tensor], Moved]
    numbers: Callable[[int], int]


def _planar_numbers(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return w, the u for which w.u > -1, b, and w.u."""
    dims = z.shape[-1]
    w, free, b = p[..., :dims], p[..., dims : 2 * dims], p[..., -1]
    along = (w * free).sum(-1)
    product = F.softplus(along) - 1 + LEAST
    u = free + ((product - along) / (w.square().sum(-1) + LEAST**2)).unsqueeze(-1) * w
    return w, u, b, (w * u).sum(-1)


def planar(z: Tensor, p: Tensor) -> Moved:
    """Bend z along a plane."""
    w, u, b, product = _planar_numbers(z, p)
    bend = torch.tanh((w * z).sum(-1) + b)
    return z + u * bend.unsqueeze(-1), torch.log1p(product * (1 - bend.square()))


def planar_inverse(z: Tensor, p: Tensor) -> Moved:
    """Solve a + (w.u) tanh(a + b) = w.z for a by halving an interval, then by a step of Newton's with gradients."""
    w, u, b, product = _planar_numbers(z, p)
    target = (w * z).sum(-1)
    with torch.no_grad():
        low, high = target - product.abs(), target + product.abs()
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            above = middle + product * torch.tanh(middle + b) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    found = 0.5 * (low + high)
    bend = torch.tanh(found + b)
    slope = (1 + product * (1 - bend.square())).detach()
    bend = torch.tanh(found - (found + product * bend - target) / slope + b)
    return z - u * bend.unsqueeze(-1), -torch.log1p(product * (1 - bend.square()))


def _radial_numbers(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c, alpha > 0 and beta > -alpha."""
    centre, (alpha, beta) = p[..., : z.shape[-1]], p[..., z.shape[-1] :].unbind(-1)
    alpha = F.softplus(alpha) + LEAST
    return centre, alpha, F.softplus(beta) * (1 - LEAST) - alpha * (1 - LEAST)


def _radial_slope(radius: Tensor, alpha: Tensor, beta: Tensor, dims: int) -> Tensor:
    """Return log|det|: (1 + beta h)^(d-1) (1 + beta h + beta h' r) with h = 1 / (alpha + r)."""
    h = 1 / (alpha + radius)
    return (dims - 1) * torch.log1p(beta * h) + torch.log1p(beta * alpha * h.square())


def radial(z: Tensor, p: Tensor) -> Moved:
    """Draw z to a point, or push it away."""
    centre, alpha, beta = _radial_numbers(z, p)
    radius = (z - centre).norm(dim=-1)
    moved = z + (beta / (alpha + radius)).unsqueeze(-1) * (z - centre)
    return moved, _radial_slope(radius, alpha, beta, z.shape[-1])


def radial_inverse(z: Tensor, p: Tensor) -> Moved:
    """Solve r + beta r / (alpha + r) = |z - c|, a quadratic equation."""
    centre, alpha, beta = _radial_numbers(z, p)
    far = (z - centre).norm(dim=-1)
    half = 0.5 * (alpha + beta - far)
    root = (half.square() + alpha * far).sqrt()
    # of the two forms of the root the one without cancellation
    radius = torch.where(half > 0, alpha * far / (root + half), root - half)
    back = centre + (z - centre) / (1 + beta / (alpha + radius)).unsqueeze(-1)
    return back, -_radial_slope(radius, alpha, beta, z.shape[-1])


def householder(z: Tensor, p: Tensor) -> Moved:
    """Reflect z in the plane through 0 whose normal is p; its own inverse."""
    along = (p * z).sum(-1, keepdim=True) / (p.square().sum(-1, keepdim=True) + LEAST**2)
    return z - 2 * along * p, torch.zeros_like(z[..., 0])


STEPS = {
    "planar": Step(planar, planar_inverse, lambda dims: 2 * dims + 1),
    "radial": Step(radial, radial_inverse, lambda dims: dims + 2),
    "householder": Step(householder, householder, lambda dims: dims),
}
