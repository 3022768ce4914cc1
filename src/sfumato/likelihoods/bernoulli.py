"""Binary data."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor, distributions

from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Shape, register


@final
@register("likelihood")
class Bernoulli(Likelihood):
    r"""p(x | z) = prod_i p_i^{x_i} (1 - p_i)^{1 - x_i}, one logit for each value; x is 0 or 1.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114, appendix C.

    Args:
        shape: the shape of one example.

    Returns (call):
        a distribution of event shape ``shape``; ``mean`` is the probability of a 1.

    >>> import torch
    >>> Bernoulli(shape=(4,))(torch.zeros(2, 1, 4)).log_prob(torch.ones(2, 4))
    tensor([-2.7726, -2.7726])
    """

    discrete: ClassVar[bool] = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the Bernoulli with ``parameters`` as logits."""
        logits = parameters.squeeze(-len(self.shape) - 1)
        return distributions.Independent(
            distributions.Bernoulli(logits=logits, validate_args=False), len(self.shape), validate_args=False
        )
