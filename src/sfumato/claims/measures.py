"""What the claims measure about a model. Plain numbers; nats, grey range 0 to 1, or no unit.

Fréchet distances are those of the judge's features (see ``evaluation.distances``), so they are no FID, and they are to
the same test images for every arm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.claims.bench import Bench
from sfumato.core.gaussians import as_normal
from sfumato.core.numerics import fixed_noise
from sfumato.evaluation import elbo_terms, importance_bound
from sfumato.evaluation.distances import frechet_of_gaussians
from sfumato.evaluation.features import judge_features
from sfumato.models import VAE

BLOCK = 500


def averages(model: VAE, x: Tensor, y: Tensor | None = None, seed: int = 0) -> dict[str, float]:
    """Return the means over ``x`` of what every objective reports, nats (sigma in units of z)."""
    rows = [elbo_terms(model, part, label, seed=seed) for part, label in parts(x, y)]
    return {name: float(torch.cat([row[name] for row in rows]).double().mean()) for name in rows[0]}


def evidence(model: VAE, x: Tensor, samples: int, seed: int = 0) -> float:
    """Return the mean importance bound on log p(x), nats."""
    return float(importance_bound(model, x, samples=samples, seed=seed).mean())


@torch.no_grad()
def posterior_of(model: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return posterior means and variances, (n, D) each."""
    found = [model.encode(part) for part, _ in parts(x)]
    means = torch.cat([posterior.mean for posterior in found])
    normals = [as_normal(posterior) for posterior in found]
    variances = [normal.scale.square() for normal in normals if normal is not None]
    return means, torch.cat(variances) if variances else torch.zeros_like(means)


def reconstruction_error(model: VAE, x: Tensor, *, noise: bool, seed: int = 0) -> float:
    """Return the mean squared error of a value, in units of the grey range squared; ``noise``: z is drawn."""
    made = model.reconstruct(x, noise=noise, generator=seed)
    return float((made - x).double().square().mean())


def detail(images: Tensor) -> float:
    """Return the mean square of the images' Laplacian: their fine detail, in units of the grey range squared.

    The four neighbours minus four times the pixel; blurred pictures have little of it.
    """
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=images.dtype)
    channels = images.shape[1]
    edges = F.conv2d(images, kernel.expand(channels, 1, 3, 3), groups=channels)
    return float(edges.double().square().mean())


def sharpness(images: Tensor, real: Tensor) -> float:
    """Return the detail of ``images`` over that of ``real``: 1 is as sharp as the data, less is blurred."""
    return detail(images) / detail(real)


def frechet(bench: Bench, images: Tensor) -> float:
    """Return the Fréchet distance of ``images`` to the test images, in the judge's features; squared features.

    NaN for pictures that are not finite.
    """
    if not bool(images.isfinite().all()):
        return math.nan
    extract = judge_features(bench.material.judge).apply
    return frechet_distance(*(torch.cat([extract(part) for part, _ in parts(x)]) for x in (images, bench.test)))


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance of the normals fitted to two sets of vectors, (n, D) each."""
    (mean_1, cov_1), (mean_2, cov_2) = ((rows.mean(0), rows.T.cov()) for rows in (one.double(), other.double()))
    return frechet_of_gaussians(mean_1, cov_1, mean_2, cov_2)


def prior_samples(model: VAE, n: int, seed: int) -> Tensor:
    """Return the pictures of n draws from the prior."""
    return model.sample(n, generator=seed)


@torch.no_grad()
def decoded(model: VAE, z: Tensor) -> Tensor:
    """Return the pictures of z, (n, D)."""
    return torch.cat([model.expectation(model.decode(part)) for part, _ in parts(z)])


def draws(means: Tensor, variances: Tensor, seed: int) -> Tensor:
    """Return one draw from each normal."""
    with fixed_noise(seed):
        return means + variances.sqrt() * torch.randn_like(means)


def parts(x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor | None]]:
    """Return ``x`` and ``y`` in pieces of some hundred rows."""
    starts = range(0, len(x), BLOCK)
    return [(x[start : start + BLOCK], None if y is None else y[start : start + BLOCK]) for start in starts]
