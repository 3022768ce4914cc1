r"""The KL of a normal with correlated dimensions to one with independent dimensions, which torch lacks.

KL(q || N(m, diag s^2)) = -H(q) + 1/2 sum_i ((mu_i - m_i)^2 + S_ii) / s_i^2 + sum_i log s_i + d/2 log 2 pi
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, register_kl

from sfumato.core.gaussians import as_normal


@register_kl(MultivariateNormal, Independent)  # type: ignore[no-untyped-call, untyped-decorator]
@register_kl(LowRankMultivariateNormal, Independent)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_to_independent(q: MultivariateNormal | LowRankMultivariateNormal, p: Independent[Normal]) -> Tensor:
    normal = as_normal(p)
    if normal is None:
        raise NotImplementedError
    second = ((q.mean - normal.loc).square() + q.variance) / normal.scale.square()
    cross = (0.5 * second + normal.scale.log()).sum(-1) + 0.5 * q.event_shape[0] * math.log(2 * math.pi)
    entropy: Tensor = q.entropy()  # type: ignore[no-untyped-call]
    found: Tensor = cross - entropy
    return found
