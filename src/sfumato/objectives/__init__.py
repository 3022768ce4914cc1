"""Objectives: read :class:`~sfumato.core.terms.Terms`, return losses per example in nats. None knows a model."""

from sfumato.objectives.adversarial_prior import AdversarialPrior
from sfumato.objectives.capacity import Capacity
from sfumato.objectives.contrastive import Contrastive
from sfumato.objectives.density_ratio import DensityRatio
from sfumato.objectives.dip import DIP
from sfumato.objectives.elbo import ELBO
from sfumato.objectives.iwae import IWAE
from sfumato.objectives.learned_similarity import LearnedSimilarity
from sfumato.objectives.mmd import MMD
from sfumato.objectives.naive_penalty import NaivePenalty
from sfumato.objectives.per_part import PerPart
from sfumato.objectives.prior_energy import PriorEnergy
from sfumato.objectives.renyi import Renyi
from sfumato.objectives.semi_supervised import SemiSupervised
from sfumato.objectives.structural_similarity import StructuralSimilarity
from sfumato.objectives.sum import Sum
from sfumato.objectives.total_correlation import TotalCorrelation

__all__ = [
    "DIP",
    "ELBO",
    "IWAE",
    "MMD",
    "AdversarialPrior",
    "Capacity",
    "Contrastive",
    "DensityRatio",
    "LearnedSimilarity",
    "NaivePenalty",
    "PerPart",
    "PriorEnergy",
    "Renyi",
    "SemiSupervised",
    "StructuralSimilarity",
    "Sum",
    "TotalCorrelation",
]
