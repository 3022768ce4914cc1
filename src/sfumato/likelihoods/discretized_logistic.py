"""8-bit data, with exact masses."""

from __future__ import annotations

from typing import Annotated, ClassVar, final

from torch import Tensor

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Range, Shape, register

LOG_SCALE_BOUNDS = (-7.0, 4.0)


@final
@register("likelihood")
class DiscretizedLogistic(Likelihood):
    r"""The masses of 8-bit levels under a logistic whose location and scale the decoder gives, two numbers a value.

    x holds k / (levels - 1) in [0, 1]. The location is the first number plus 1/2, so that a fresh decoder starts at
    mid-grey; the log-scale is the second number minus 2, bounded smoothly to [-7, 4].

    Reference: Improving Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016,
    https://arxiv.org/abs/1606.04934.

    Args:
        shape: the shape of one example.
        levels: the number of levels.

    Returns (call):
        a :class:`~sfumato.distributions.DiscretizedLogistic` of event shape ``shape``.

    >>> import torch
    >>> DiscretizedLogistic(shape=(3, 8, 8))(torch.zeros(2, 2, 3, 8, 8)).event_shape
    torch.Size([3, 8, 8])
    """

    discrete: ClassVar[bool] = True
    numbers_per_value = 2

    def __init__(self, shape: Shape, levels: Annotated[int, Range(2, 65_536)] = 256) -> None:
        super().__init__(shape)
        self.levels = levels

    def distribution(self, parameters: Tensor) -> distributions.DiscretizedLogistic:
        """Return the distribution for (location, log-scale)."""
        loc, log_scale = parameters.unbind(-len(self.shape) - 1)
        log_scale = soft_bound(log_scale - 2.0, *LOG_SCALE_BOUNDS)
        return distributions.DiscretizedLogistic(loc + 0.5, log_scale, self.levels, len(self.shape))
