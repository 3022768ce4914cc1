"""Real data with a sharp peak: the absolute error."""

from __future__ import annotations

from typing import final

from torch import Tensor, distributions

from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Positive, Shape, register
from sfumato.likelihoods.scales import Source, location_and_scale, start_of


@final
@register("likelihood")
class Laplace(Likelihood):
    r"""p(x_i | z) = exp(-|x_i - m_i| / s) / (2 s): the absolute error, with the weight that s gives it.

    Reference: Autoencoding beyond pixels using a learned similarity metric, Larsen et al., 2016,
    https://arxiv.org/abs/1512.09300 (why the squared error is not the only choice); the law: Laplace, 1774.

    Args:
        shape: the shape of one example.
        scale: where s comes from: ``shared``, one learned number; ``per_dimension``, one learned number for each
            dimension; ``predicted``, given by the decoder for each value (2 numbers a value).
        start: s at the start, in the units of x.

    Returns (call):
        a Laplace of event shape ``shape``.

    >>> import torch
    >>> Laplace((2,), start=0.5)(torch.zeros(1, 1, 2)).log_prob(torch.ones(1, 2)).detach()
    tensor([-3.9973])
    """

    def __init__(self, shape: Shape, scale: Source = "shared", start: Positive = 1.0) -> None:
        super().__init__(shape)
        self.numbers_per_value = 2 if scale == "predicted" else 1
        self.log_scale = start_of(scale, self.shape, start)

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the Laplace."""
        location, scale = location_and_scale(parameters, self.log_scale, len(self.shape))
        whole = distributions.Laplace(location, scale, validate_args=False)
        return distributions.Independent(whole, len(self.shape), validate_args=False)
