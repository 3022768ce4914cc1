r"""What the likelihoods of counts share: where their means come from.

``decoded``: log m_i = log a_i + the decoder's number. How deep an example was counted is then part of what z says.
``observed``: m_i = l softmax(log a + the decoder's numbers)_i with the library size l = sum_i x_i, as in scVI; what is
scored is then the spread of the counts given their total, see :class:`~sfumato.distributions.GivenTotal`.
``means`` is a: the mean of each value over the training data, so that a fresh decoder starts there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from sfumato.core.errors import UserError
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Length, Positive
from sfumato.distributions import GivenTotal

Library = Literal["decoded", "observed"]
Means = Annotated[tuple[Positive, ...], Length(1_000_000)]
LOG_MEAN_BOUNDS = (-16.0, 16.0)
LOG_R_BOUNDS = (-14.0, 14.0)  # of the inverse dispersion: above, it is a Poisson


def log_means(means: tuple[float, ...], shape: tuple[int, ...], name: str) -> Tensor:
    """Return log a, (*shape); without ``means``, zeros."""
    if means and len(means) != math.prod(shape):
        raise UserError(
            f"{name} needs one mean for each of {math.prod(shape)} values; got {len(means)}. Give as many, or none."
        )
    return torch.tensor(means).log().reshape(shape) if means else torch.zeros(shape)


def counted(
    numbers: Tensor,
    log_means: Tensor,
    library: Library,
    counts: Callable[[Tensor], Distribution],
) -> Distribution:
    """Return p(x | z) of independent counts.

    Args:
        numbers: what the decoder says about the means, (..., *shape).
        log_means: log a, (*shape).
        library: where the total comes from.
        counts: log m -> the distribution of the counts.
    """
    dims, numbers = log_means.ndim, numbers + log_means

    def bounded(log_mean: Tensor) -> Distribution:
        return counts(soft_bound(log_mean, *LOG_MEAN_BOUNDS))

    if library == "observed":
        return GivenTotal(numbers, bounded, float(log_means.double().exp().sum()), dims)
    return Independent(bounded(numbers), dims, validate_args=False)
