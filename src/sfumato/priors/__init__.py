"""Priors: p(z), or p(z | y). Each call returns a ``torch.distributions.Distribution`` over one level of z."""

from sfumato.priors.class_conditional import ClassConditional
from sfumato.priors.standard_normal import StandardNormal

__all__ = ["ClassConditional", "StandardNormal"]
