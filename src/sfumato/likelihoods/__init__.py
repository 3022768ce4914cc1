"""Likelihoods: p(x | z), from the numbers that a decoder makes of z."""

from sfumato.likelihoods.bernoulli import Bernoulli
from sfumato.likelihoods.categorical import Categorical
from sfumato.likelihoods.discretized_logistic import DiscretizedLogistic
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.masked import Masked

__all__ = ["Bernoulli", "Categorical", "DiscretizedLogistic", "Gaussian", "Masked"]
