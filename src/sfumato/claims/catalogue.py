"""All claims, by number."""

from __future__ import annotations

from sfumato.claims import (
    c01_noise_dies,
    c02_naive_ratio,
    c03_aggregate,
    c04_two_parts,
    c05_noise_adapts,
    c06_two_encoders,
    c07_log_variance,
    c08_classes,
    c09_prior_sampling,
    c10_learned_metric,
)
from sfumato.claims.claim import Claim

_MODULES = (
    c01_noise_dies,
    c02_naive_ratio,
    c03_aggregate,
    c04_two_parts,
    c05_noise_adapts,
    c06_two_encoders,
    c07_log_variance,
    c08_classes,
    c09_prior_sampling,
    c10_learned_metric,
)
CLAIMS: dict[int, Claim] = {module.CLAIM.number: module.CLAIM for module in _MODULES}
