"""Grey values in [0, 1], as real numbers."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Distribution, Independent

from sfumato import distributions
from sfumato.core.interfaces import Likelihood
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Shape, register

LOGIT_BOUNDS = (-500.0, 500.0)


@final
@register("likelihood")
class ContinuousBernoulli(Likelihood):
    r"""p(x_i | z) = exp(eta_i x_i) eta_i / (exp(eta_i) - 1) for x_i in [0, 1], one number eta for each value.

    What cross-entropy of grey values leaves out: the normaliser. The density of 8-bit values is that of real ones, so
    there are no bits; for those see :class:`DiscretizedLogistic`.

    Reference: The Continuous Bernoulli: Fixing a Pervasive Error in Variational Autoencoders, Loaiza-Ganem and
    Cunningham, 2019, https://arxiv.org/abs/1907.06845.

    Args:
        shape: the shape of one example.

    Returns (call):
        a distribution of event shape ``shape`` over [0, 1].

    >>> import torch
    >>> ContinuousBernoulli((4,))(torch.zeros(2, 1, 4)).log_prob(torch.ones(2, 4))
    tensor([0., 0.])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the continuous Bernoulli with ``parameters`` as logits."""
        logits = soft_bound(parameters.squeeze(-len(self.shape) - 1), *LOGIT_BOUNDS)
        return Independent(distributions.ContinuousBernoulli(logits), len(self.shape), validate_args=False)
