"""Densities that torch lacks. Nothing here is learnable."""

from sfumato.distributions.delta import Delta
from sfumato.distributions.discretized_logistic import DiscretizedLogistic
from sfumato.distributions.labelled_mixture import LabelledMixture
from sfumato.distributions.masked import Masked
from sfumato.distributions.optimal_normal import OptimalNormal

__all__ = ["Delta", "DiscretizedLogistic", "LabelledMixture", "Masked", "OptimalNormal"]
