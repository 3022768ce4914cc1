"""Posteriors: q(z | x), or q(z | x, y). Each call returns a ``torch.distributions.Distribution`` per example."""

from sfumato.posteriors.clamped_gaussian import ClampedGaussian
from sfumato.posteriors.diagonal_gaussian import DiagonalGaussian
from sfumato.posteriors.dirac import Dirac

__all__ = ["ClampedGaussian", "DiagonalGaussian", "Dirac"]
