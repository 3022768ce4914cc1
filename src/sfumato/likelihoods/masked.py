"""Data of which some values are missing."""

from __future__ import annotations

from typing import final

from torch import Tensor, distributions

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import register
from sfumato.distributions import Masked as MaskedDistribution


@final
@register("likelihood")
class Masked(Likelihood):
    r"""log p(x | z) = the sum of log p(x_d | z) over the values that are there: missing ones are NaN and do not count.

    Trained with it, a model is fitted to the density of what was observed. That is the right thing when values are
    missing at random: whether one is missing may depend on what was observed, but not on the value itself.

    Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
    https://arxiv.org/abs/1812.02633; missing at random: Inference and Missing Data, Rubin, 1976.

    Args:
        likelihood: of complete data, independent in every value; not one that looks at the whole batch (``optimal``).

    Returns (call):
        a :class:`~sfumato.distributions.Masked`, whose samples are complete.

    >>> import torch
    >>> from sfumato.likelihoods import Gaussian
    >>> Masked(Gaussian((2,), "fixed"))(torch.zeros(1, 1, 2)).log_prob(torch.tensor([[0.0, torch.nan]]))
    tensor([-0.9189])
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__(likelihood.shape)
        if hasattr(likelihood, "batch_mean"):
            raise UserError(
                "Masked needs a likelihood that scores each value on its own; the optimal variance looks at a whole "
                "batch. Use variance='per_dimension'."
            )
        self.likelihood = likelihood
        self.numbers_per_value = likelihood.numbers_per_value

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether complete data have masses."""
        return self.likelihood.discrete

    def distribution(self, parameters: Tensor) -> distributions.Distribution:
        """Return the distribution of incomplete data."""
        whole = self.likelihood(parameters)
        if not isinstance(whole, distributions.Independent):
            raise UserError(
                f"Masked needs a likelihood that scores each value on its own; got {type(whole).__name__}. "
                "Use Gaussian, Bernoulli or Categorical."
            )
        return MaskedDistribution(whole)

    def expectation(self, observation: distributions.Distribution) -> Tensor:
        """Return the expected complete data."""
        assert isinstance(observation, MaskedDistribution)
        own = getattr(self.likelihood, "expectation", None)
        found: Tensor = own(observation.whole) if own else observation.mean
        return found

    def accept_step(self) -> None:
        """Let the likelihood of complete data take over its statistics."""
        self.likelihood.accept_step()
