r"""The importance-weighted bound."""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor

from sfumato.core.interfaces import HALVES, MODEL, Objective, ObjectiveOutput
from sfumato.core.numerics import logmeanexp
from sfumato.core.schedules import Step
from sfumato.core.spec import Size, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, log_weights, reported, with_penalties


@final
@register("objective")
class IWAE(Objective):
    r"""loss = -1/M sum_m log 1/K sum_k w_mk, w_mk = p(x | z_mk) p(z_mk) / q(z_mk | x), z_mk from q(z | x); nats.

    Its expectation rises with K to log p(x); M estimates of it have less noise, and the same expectation. The
    ``doubly`` reparametrised gradient is through z alone for the encoder, whose noise then falls with K instead of
    rising: with v_k = w_k / sum_j w_j, held fast,

        encoder: sum_k v_k^2 d log w_k / d z_k,   decoder: sum_k v_k d log p(x, z_k)

    Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519; MIWAE with M > 1:
    Tighter Variational Bounds are Not Necessarily Better, Rainforth et al., 2018, https://arxiv.org/abs/1802.04537;
    Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, Tucker et al., 2019,
    https://arxiv.org/abs/1810.04152.

    Args:
        samples: K, used exactly, inside the logarithm.
        outer: M, the estimates that are averaged: M K draws of z for each example.
        gradient: ``plain``, through the bound itself; ``doubly``, for a model whose encoder and decoder share no
            weights.

    Returns (call):
        losses {"model": (batch,)}, or with ``doubly`` {"encoder": ..., "decoder": ...}, both of the value of the bound;
        values ``iwae`` (the bound) and those of :func:`~sfumato.objectives.values.reported`.

    >>> IWAE(samples=5).samples, IWAE(samples=5, outer=3).samples
    (5, 15)
    """

    def __init__(self, samples: Size = 5, outer: Size = 1, gradient: Literal["plain", "doubly"] = "plain") -> None:
        super().__init__()
        self.samples, self.inner, self.outer, self.doubly = samples * outer, samples, outer, gradient == "doubly"

    @property
    def groups(self) -> tuple[str, ...]:
        """The halves of the model have losses of their own where the gradient is not the plain one."""
        return HALVES if self.doubly else (MODEL,)

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference."""
        weights = self._arranged(log_weights(terms, "IWAE"))
        bound = logmeanexp(weights, 1).mean(0)
        values = {"iwae": bound.detach(), **reported(terms, kl_of(terms))}
        if not self.doubly:
            return ObjectiveOutput({MODEL: with_penalties(-bound, terms)}, values)
        assert terms.path_log_weights is not None
        shares = torch.softmax(weights, 1).detach()
        through_z = (shares.square() * self._arranged(terms.path_log_weights)).sum(1).mean(0)
        encoder = bound.detach() + through_z - through_z.detach()
        halves = zip(HALVES, (encoder, bound), strict=True)
        return ObjectiveOutput({half: with_penalties(-each, terms) for half, each in halves}, values)

    def _arranged(self, weights: Tensor) -> Tensor:
        """Return (samples, batch) as (M, K, batch)."""
        return weights.reshape(self.outer, self.inner, -1)
