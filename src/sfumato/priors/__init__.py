"""Priors: p(z), or p(z | y). Each call returns a ``torch.distributions.Distribution`` over one level of z."""

from sfumato.priors.autoregressive_codes import AutoregressiveCodes
from sfumato.priors.categorical import Categorical
from sfumato.priors.class_conditional import ClassConditional
from sfumato.priors.class_conditional_mixture import ClassConditionalMixture
from sfumato.priors.exemplar import Exemplar
from sfumato.priors.flow import Flow
from sfumato.priors.gaussian_mixture import GaussianMixture
from sfumato.priors.poincare import PoincareNormal
from sfumato.priors.second_stage import SecondStage
from sfumato.priors.standard_normal import StandardNormal
from sfumato.priors.uniform_sphere import UniformSphere
from sfumato.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "Categorical",
    "ClassConditional",
    "ClassConditionalMixture",
    "Exemplar",
    "Flow",
    "GaussianMixture",
    "PoincareNormal",
    "SecondStage",
    "StandardNormal",
    "UniformSphere",
    "VampPrior",
]
