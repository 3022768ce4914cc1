"""Real data with outliers."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from torch import Tensor, distributions, nn

from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Positive, Range, Shape, register
from sfumato.likelihoods.scales import Source, location_and_scale, start_of

LOG_DEGREES_BOUNDS = (-6.0, 6.0)  # of nu - 1


@final
@register("likelihood")
class StudentT(Likelihood):
    r"""p(x_i | z) ~ (1 + ((x_i - m_i) / s)^2 / nu)^(-(nu + 1) / 2): far values cost the logarithm of their distance.

    nu, the degrees of freedom, is learned, one number for all; above 1, so that there is a mean, and at most about
    400, where it is a normal. The normaliser is Gamma((nu + 1) / 2) / (Gamma(nu / 2) sqrt(nu pi) s).

    Reference: Student-t Variational Autoencoder for Robust Density Estimation, Takahashi et al., 2018,
    https://doi.org/10.24963/ijcai.2018/374.

    Args:
        shape: the shape of one example.
        scale: where s comes from: ``shared``, one learned number; ``per_dimension``, one learned number for each
            dimension; ``predicted``, given by the decoder for each value (2 numbers a value).
        start: s at the start, in the units of x.
        degrees: nu at the start.

    Returns (call):
        a Student-t of event shape ``shape``.

    >>> import torch
    >>> StudentT((2,))(torch.zeros(1, 1, 2)).mean
    tensor([[0., 0.]])
    """

    def __init__(
        self,
        shape: Shape,
        scale: Source = "shared",
        start: Positive = 1.0,
        degrees: Annotated[float, Range(1.1, 400.0)] = 5.0,
    ) -> None:
        super().__init__(shape)
        self.numbers_per_value = 2 if scale == "predicted" else 1
        self.log_scale = start_of(scale, self.shape, start)
        self.log_degrees = nn.Parameter(torch.tensor(math.log(degrees - 1)))

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the Student-t."""
        location, scale = location_and_scale(parameters, self.log_scale, len(self.shape))
        degrees = (1 + soft_bound(self.log_degrees, *LOG_DEGREES_BOUNDS).exp()).expand_as(location)
        whole = distributions.StudentT(degrees, location, scale, validate_args=False)
        return distributions.Independent(whole, len(self.shape), validate_args=False)
