"""8-bit colours, with exact masses and several peaks."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, final

from torch import Tensor

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Range, Shape, Size, register
from sfumato.likelihoods.discretized_logistic import LOG_SCALE_BOUNDS


@final
@register("likelihood")
class MixtureOfLogistics(Likelihood):
    r"""P(x | z) = prod over places of sum_k w_k prod_c P(x_c | k, colours before c), each a discretised logistic.

    x holds k / (levels - 1) in [0, 1]. An image has its channels on the first axis of ``shape``; of three channels
    green hangs on red and blue on both, see :class:`~sfumato.distributions.MixtureOfLogistics`. Other data are places
    without colours. The decoder gives four numbers for each value and component: what its channel adds to the logit of
    w_k, the location less a start spread evenly over [0, 1], the log-scale plus 2, and a coefficient.

    Reference: PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications,
    Salimans et al., 2017, https://arxiv.org/abs/1701.05517.

    Args:
        shape: the shape of one example.
        components: k.
        levels: the number of levels.

    Returns (call):
        a :class:`~sfumato.distributions.MixtureOfLogistics` of event shape ``shape``.

    >>> import torch
    >>> MixtureOfLogistics((3, 8, 8), components=5)(torch.zeros(2, 20, 3, 8, 8)).event_shape
    torch.Size([3, 8, 8])
    """

    discrete: ClassVar[bool] = True

    def __init__(self, shape: Shape, components: Size = 10, levels: Annotated[int, Range(2, 65_536)] = 256) -> None:
        super().__init__(shape)
        self.components, self.levels = components, levels
        self.numbers_per_value = 4 * components

    def distribution(self, parameters: Tensor) -> distributions.MixtureOfLogistics:
        """Return the distribution for (logits, locations, log-scales, coefficients), each of all components."""
        channels = self.shape[0] if len(self.shape) == 3 else 1
        lead = parameters.shape[: parameters.ndim - len(self.shape) - 1]
        split = parameters.reshape(*lead, 4, self.components, channels, math.prod(self.shape) // channels)
        logits, location, log_scale, coefficients = split.unbind(-4)
        starts = (0.5 + location.new_tensor(range(self.components))) / self.components
        log_scale = soft_bound(log_scale - 2.0, *LOG_SCALE_BOUNDS)
        return distributions.MixtureOfLogistics(
            logits.sum(-2), location + starts.reshape(-1, 1, 1), log_scale, coefficients, self.shape, self.levels
        )
