"""Counts without more spread than their mean asks for."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor
from torch.distributions import Distribution

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Shape, register
from sfumato.likelihoods.counts import Library, Means, counted, log_means


@final
@register("likelihood")
class Poisson(Likelihood):
    r"""log P(x_i | z) = x_i log m_i - m_i - log x_i!, one number for each value: log m_i over that of ``means``.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114; of counts:
    Poisson Factor Analysis, Zhou et al., 2012, https://arxiv.org/abs/1112.3605.

    Args:
        shape: the shape of one example.
        library: where the total of an example comes from: ``decoded``, from z; ``observed``, from x, as in scVI: then a
            score of the counts given their total, and not of x.
        means: the mean of each value over the training data, where a fresh decoder starts; by default 1.

    Returns (call):
        a distribution of event shape ``shape`` over whole numbers.

    >>> import torch
    >>> Poisson((2,), means=(1.0, 3.0))(torch.zeros(1, 1, 2)).mean
    tensor([[1.0000, 3.0000]])
    """

    discrete: ClassVar[bool] = True
    log_means: Tensor

    def __init__(self, shape: Shape, library: Library = "decoded", means: Means = ()) -> None:
        super().__init__(shape)
        self.library: Library = library
        self.register_buffer("log_means", log_means(means, self.shape, "Poisson"))

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return independent Poisson counts."""
        numbers = parameters.squeeze(-len(self.shape) - 1)
        return counted(numbers, self.log_means, self.library, distributions.Poisson)
