"""Data of a few levels without an order."""

from __future__ import annotations

from typing import Annotated, ClassVar, final

import torch
from torch import Tensor, distributions

from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Range, Shape, register


@final
@register("likelihood")
class Categorical(Likelihood):
    r"""p(x_i = k | z) = softmax(logits_i)_k, ``levels`` logits for each value; x holds 0, 1, ..., levels - 1.

    Reference: Pixel Recurrent Neural Networks, van den Oord et al., 2016, https://arxiv.org/abs/1601.06759 (softmax
    over levels).

    Args:
        shape: the shape of one example.
        levels: the number of levels.

    Returns (call):
        a distribution of event shape ``shape`` over whole numbers.

    >>> import torch
    >>> Categorical(shape=(4,), levels=3)(torch.zeros(2, 3, 4)).log_prob(torch.ones(2, 4))
    tensor([-4.3944, -4.3944])
    """

    discrete: ClassVar[bool] = True

    def __init__(self, shape: Shape, levels: Annotated[int, Range(2, 65_536)]) -> None:
        super().__init__(shape)
        self.levels = self.numbers_per_value = levels

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the categorical with ``parameters`` as logits."""
        logits = parameters.movedim(-len(self.shape) - 1, -1)
        return distributions.Independent(
            distributions.Categorical(logits=logits, validate_args=False), len(self.shape), validate_args=False
        )

    def expectation(self, observation: distributions.Distribution) -> Tensor:
        """Return the expected level of each value."""
        assert isinstance(observation, distributions.Independent)
        probabilities: Tensor = observation.base_dist.probs
        return probabilities @ torch.arange(self.levels, dtype=probabilities.dtype, device=probabilities.device)
