"""Posteriors: q(z | x), or q(z | x, y). Each call returns a ``torch.distributions.Distribution`` per example."""

from sfumato.posteriors.clamped_gaussian import ClampedGaussian
from sfumato.posteriors.diagonal_gaussian import DiagonalGaussian
from sfumato.posteriors.dirac import Dirac
from sfumato.posteriors.finite_scalar_quantiser import FiniteScalarQuantiser
from sfumato.posteriors.flow import FlowPosterior
from sfumato.posteriors.full_gaussian import FullGaussian
from sfumato.posteriors.gumbel_softmax import GumbelSoftmax
from sfumato.posteriors.hamiltonian import Hamiltonian
from sfumato.posteriors.lookup_free_quantiser import LookupFreeQuantiser
from sfumato.posteriors.low_rank_gaussian import LowRankGaussian
from sfumato.posteriors.poincare import PoincareGaussian
from sfumato.posteriors.power_spherical import PowerSpherical
from sfumato.posteriors.riemannian_hamiltonian import RiemannianHamiltonian
from sfumato.posteriors.semi_amortised import SemiAmortised
from sfumato.posteriors.vector_quantiser import VectorQuantiser
from sfumato.posteriors.von_mises_fisher import VonMisesFisher

__all__ = [
    "ClampedGaussian",
    "DiagonalGaussian",
    "Dirac",
    "FiniteScalarQuantiser",
    "FlowPosterior",
    "FullGaussian",
    "GumbelSoftmax",
    "Hamiltonian",
    "LookupFreeQuantiser",
    "LowRankGaussian",
    "PoincareGaussian",
    "PowerSpherical",
    "RiemannianHamiltonian",
    "SemiAmortised",
    "VectorQuantiser",
    "VonMisesFisher",
]
