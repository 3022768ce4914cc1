"""Likelihoods: p(x | z), from the numbers that a decoder makes of z."""

from sfumato.likelihoods.bernoulli import Bernoulli
from sfumato.likelihoods.categorical import Categorical
from sfumato.likelihoods.continuous_bernoulli import ContinuousBernoulli
from sfumato.likelihoods.discretized_logistic import DiscretizedLogistic
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.laplace import Laplace
from sfumato.likelihoods.masked import Masked
from sfumato.likelihoods.mixed import Mixed
from sfumato.likelihoods.mixture_of_logistics import MixtureOfLogistics
from sfumato.likelihoods.negative_binomial import NegativeBinomial
from sfumato.likelihoods.ordinal import Ordinal
from sfumato.likelihoods.perceptual import Perceptual
from sfumato.likelihoods.poisson import Poisson
from sfumato.likelihoods.student_t import StudentT
from sfumato.likelihoods.zero_inflated import ZeroInflated

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "Masked",
    "Mixed",
    "MixtureOfLogistics",
    "NegativeBinomial",
    "Ordinal",
    "Perceptual",
    "Poisson",
    "StudentT",
    "ZeroInflated",
]
