r"""The only place of units other than nats.

For x = f(raw), continuous, log p(raw) = log p(x) + log|det df/draw|. Discrete data carry masses, which no change of
variables alters: there bits/dim = -log P(x) / (D log 2), and only there, for a density has no bits until somebody cuts
the line into bins.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sfumato.evaluation.estimate import Estimate


def bits_per_dim(log_mass: Estimate, dims: int, *, discrete: bool) -> Estimate | None:
    """Return -log P(x) in bits for each dimension; None for continuous data.

    Args:
        log_mass: mean log P(x), in nats.
        dims: D, the number of values of an example.
        discrete: whether the likelihood gives masses.

    >>> str(bits_per_dim(Estimate(-math.log(256) * 12, 0.0, 1, "nats"), 12, discrete=True))
    '8.00 ± 0.00 bits/dim'
    """
    return log_mass.affine(-1 / (dims * math.log(2)), 0.0, "bits/dim") if discrete else None


def raw_log_density(log_density: Float[Tensor, " batch"], log_abs_dets: Float[Tensor, " batch"]) -> Tensor:
    """Return log p(raw) in nats from log p(x), the densities of the data before and after preprocessing.

    Args:
        log_density: log p(x) of each example, in nats.
        log_abs_dets: log|det df/draw| of each, in nats: the same for all, unless cells are missing.
    """
    return log_density + log_abs_dets
