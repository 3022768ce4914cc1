r"""Missing values from the posterior predictive.

    E[x_missing | x_observed] = sum_k w_k E[x_missing | z_k] / sum_k w_k,   z_k from q(z | x_observed),
    w_k = p(x_observed | z_k) p(z_k) / q(z_k | x_observed),

and of levels the likeliest under the same mixture, argmax_l sum_k w_k P(l | z_k). It converges to the exact one with
K: the bias is that of a self-normalised estimate, of order 1 / K.

Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
https://arxiv.org/abs/1812.02633.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.evaluation.bounds import weighted_draws
from sfumato.evaluation.measuring import measuring
from sfumato.likelihoods import Mixed
from sfumato.models import Model


def imputed(
    model: Model,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"] | None = None,
    *,
    samples: int,
    seed: int = 0,
) -> Float[Tensor, "batch ..."]:
    """Return ``x`` with what the model expects in the place of every NaN.

    Args:
        model: whose encoder and likelihood take NaN for a missing value, in any mode.
        x: preprocessed.
        y: class numbers, -1 where unknown.
        samples: K, used exactly.
        seed: of the noise.

    Raises:
        UserError: the posterior has no density, the likelihood has none, or K is less than 1.
    """
    likelihood = model.likelihood
    top, weight, last = None, torch.zeros((), dtype=torch.float64), None
    sums: list[Tensor] = []
    with measuring(model):
        for terms in weighted_draws(model, x, y, samples=samples, seed=seed):
            assert terms.log_posterior is not None
            log_weights = (terms.log_likelihood + terms.log_prior - terms.log_posterior).double()
            last = terms.observation
            values = likelihood.summaries(last) if isinstance(likelihood, Mixed) else [model.expectation(last)]
            highest = log_weights.amax(0) if top is None else torch.maximum(top, log_weights.amax(0))
            shares, kept = (log_weights - highest).exp(), 1.0 if top is None else (top - highest).exp()
            added = [torch.einsum("kr,kr...->r...", shares, value.double()) for value in values]
            sums = [_times(kept, old) + new for old, new in zip(sums, added, strict=True)] if sums else added
            weight, top = weight * kept + shares.sum(0), highest
        assert last is not None
        means = [_times(1 / weight, total) for total in sums]
        filled = likelihood.centre(last, means) if isinstance(likelihood, Mixed) else means[0]
    return torch.where(x.isnan(), filled.to(x.dtype), x)


def _times(factor: Tensor | float, values: Tensor) -> Tensor:
    """Return each row of ``values`` times its factor."""
    if not isinstance(factor, Tensor):
        return factor * values
    return factor.reshape(-1, *[1] * (values.ndim - 1)) * values
