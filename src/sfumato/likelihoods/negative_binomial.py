"""Counts that spread more than their mean says, such as those of molecules in a cell."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Shape, register
from sfumato.likelihoods.counts import LOG_R_BOUNDS, Library, Means, counted, log_means

Dispersion = Literal["per_feature", "predicted"]
SPEED = 10.0  # log r over its parameter: Adam moves all alike, and log r has further to go than a weight


@final
@register("likelihood")
class NegativeBinomial(Likelihood):
    r"""Counts of mean m_i and variance m_i + m_i^2 / r_i: see :class:`~sfumato.distributions.NegativeBinomial`.

    Reference: Deep generative modeling for single-cell transcriptomics, Lopez et al., 2018,
    https://doi.org/10.1038/s41592-018-0229-2.

    Args:
        shape: the shape of one example.
        dispersion: where r comes from: ``per_feature``, one learned number for each value; ``predicted``, from the
            decoder, for each value of each example (2 numbers a value).
        library: where the total of an example comes from: ``decoded``, from z; ``observed``, from x, as in scVI: then a
            score of the counts given their total, and not of x.
        means: the mean of each value over the training data, where a fresh decoder starts; by default 1.

    Returns (call):
        a distribution of event shape ``shape`` over whole numbers.

    >>> import torch
    >>> NegativeBinomial((2,))(torch.zeros(1, 1, 2)).log_prob(torch.zeros(1, 2)).exp().detach()
    tensor([0.2500])
    """

    discrete: ClassVar[bool] = True
    log_means: Tensor

    def __init__(
        self,
        shape: Shape,
        dispersion: Dispersion = "per_feature",
        library: Library = "decoded",
        means: Means = (),
    ) -> None:
        super().__init__(shape)
        self.numbers_per_value = 2 if dispersion == "predicted" else 1
        self.library: Library = library
        self.register_buffer("log_means", log_means(means, self.shape, "NegativeBinomial"))
        self.log_r_scaled = nn.Parameter(torch.zeros(self.shape))

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return independent negative binomial counts."""
        numbers, *rest = parameters.unbind(-len(self.shape) - 1)
        own = SPEED * self.log_r_scaled
        log_r = soft_bound(own + rest[0] if rest else own, *LOG_R_BOUNDS)
        return counted(
            numbers, self.log_means, self.library, lambda log_mean: distributions.NegativeBinomial(log_mean, log_r)
        )
