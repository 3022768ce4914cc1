"""Objectives: read :class:`~sfumato.core.terms.Terms`, return losses per example in nats. None knows a model."""

from sfumato.objectives.elbo import ELBO
from sfumato.objectives.iwae import IWAE
from sfumato.objectives.naive_penalty import NaivePenalty

__all__ = ["ELBO", "IWAE", "NaivePenalty"]
