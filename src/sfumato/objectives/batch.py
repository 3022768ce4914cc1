"""What objectives that compare the examples of a batch share: one draw of z for each, in one row of numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.terms import Level, Terms


def codes(terms: Terms) -> Float[Tensor, "batch latent"]:
    """Return the first draw of z, all levels in one row."""
    return torch.cat([level.z[0].flatten(1) for level in terms.levels], 1)


def prior_codes(terms: Terms, name: str) -> Float[Tensor, "batch latent"]:
    """Return as many new draws of p(z | y), all levels in one row.

    Raises:
        UserError: ``terms`` are not of a model, so that nobody can draw.
    """
    if terms.draw_prior is None:
        raise UserError(f"{name} needs draws from the prior, and these terms know no model. Use terms of a model.")
    return terms.draw_prior().flatten(1)


def normal_of(level: Level, name: str) -> Normal:
    """Return the posterior of a level.

    Raises:
        UserError: it is not Gaussian.
    """
    normal = as_normal(level.posterior)
    if normal is None:
        raise UserError(f"{name} needs Gaussian posteriors; this one is not. Use DiagonalGaussian.")
    return normal


def normals(level: Level, name: str) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
    """Return mean and deviation of the posterior, given the first draw of the levels above, in one row."""
    normal = normal_of(level, name)
    both = (part.expand(normal.batch_shape) for part in (normal.loc, normal.scale))
    mean, deviation = (part[0] if part.ndim == level.z.ndim else part for part in both)
    return mean.flatten(1), deviation.flatten(1)


def for_each(value: Float[Tensor, ""], own: int, whole: int) -> Float[Tensor, " batch"]:
    """Return a number of the whole batch as one for each of this process's ``own`` examples.

    Added up over all processes with 1 / ``whole`` for each example, they give the number, and the gradients that the
    processes have by their own rows give its gradient.
    """
    if own != whole:
        value = value.detach() + (value - value.detach()) * (whole / own)
    return value.expand(own)
