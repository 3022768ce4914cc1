"""Densities that torch lacks. Nothing here is learnable."""

from sfumato.distributions import correlated  # noqa: F401 - registers its KL
from sfumato.distributions.code_sequence import CodeSequence
from sfumato.distributions.columns import Columns
from sfumato.distributions.continuous_bernoulli import ContinuousBernoulli
from sfumato.distributions.delta import Delta
from sfumato.distributions.directions import PowerSpherical, VonMisesFisher
from sfumato.distributions.discretized_logistic import DiscretizedLogistic
from sfumato.distributions.feature_distance import FeatureDistance
from sfumato.distributions.flowed import Flowed
from sfumato.distributions.gaussian_mixture import GaussianMixture
from sfumato.distributions.given_total import GivenTotal
from sfumato.distributions.labelled_mixture import LabelledMixture
from sfumato.distributions.marginal import Marginal
from sfumato.distributions.masked import Masked
from sfumato.distributions.mixture_of_logistics import MixtureOfLogistics
from sfumato.distributions.negative_binomial import NegativeBinomial
from sfumato.distributions.one_hot import OneHot
from sfumato.distributions.optimal_normal import OptimalNormal
from sfumato.distributions.ordinal import Ordinal
from sfumato.distributions.poincare_normal import PoincareNormal
from sfumato.distributions.poisson import Poisson
from sfumato.distributions.uniform_sphere import UniformSphere
from sfumato.distributions.with_momentum import WithMomentum
from sfumato.distributions.zero_inflated import ZeroInflated

__all__ = [
    "CodeSequence",
    "Columns",
    "ContinuousBernoulli",
    "Delta",
    "DiscretizedLogistic",
    "FeatureDistance",
    "Flowed",
    "GaussianMixture",
    "GivenTotal",
    "LabelledMixture",
    "Marginal",
    "Masked",
    "MixtureOfLogistics",
    "NegativeBinomial",
    "OneHot",
    "OptimalNormal",
    "Ordinal",
    "PoincareNormal",
    "Poisson",
    "PowerSpherical",
    "UniformSphere",
    "VonMisesFisher",
    "WithMomentum",
    "ZeroInflated",
]
