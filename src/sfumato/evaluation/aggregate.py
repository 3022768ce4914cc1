r"""Where the rate goes: what the latent code knows, and how far all codes together are from the prior.

With q(z) = 1/N sum_n q(z | x_n), the aggregate posterior of N examples, all of them used,

    E_n KL(q(z | x_n) || p(z)) = I_q(x; z)  + KL(q(z) || p(z)),          I_q = E[log q(z | x_n) - log q(z)],
    KL(q(z) || p(z))           = TC         + sum_d KL(q(z_d) || p(z_d)), TC  = E[log q(z) - sum_d log q(z_d)];

the second line for factorised priors. I_q is what the code is for; KL(q(z) || p(z)) is only cost: it makes p(z) the
wrong place to draw new z from.

References: ELBO Surgery, Hoffman and Johnson, 2016 (Advances in Approximate Bayesian Inference workshop); Isolating
Sources of Disentanglement in VAEs, Chen et al., 2018, https://arxiv.org/abs/1802.04942; On Variational Bounds of Mutual
Information, Poole et al., 2019, https://arxiv.org/abs/1905.06922 (the two-sided bounds).

What the estimates are worth. For the N posteriors that were given they are unbiased: z comes from them, q(z) is their
whole mixture, and the standard error is that of the examples whose z were drawn. They are not so for the population
that the N examples come from: every z meets its own posterior in the mixture, so I_q is at most log N, too low on
average, and KL(q(z) || p(z)) and TC are too high by what I_q lacks. An I_q near log N says only that posteriors do not
overlap. Without its own posterior in the mixture, I_q is too high on average: ``mutual_information_above``. The truth
for the population lies between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core.errors import UserError
from sfumato.core.gaussians import closed_form_kl, independent_normal, kl_parts
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Examples
from sfumato.distributions import LabelledMixture
from sfumato.evaluation.estimate import Estimate, finite, mean_estimate
from sfumato.evaluation.latents import find_latents
from sfumato.evaluation.passes import Tell
from sfumato.models import Model

POINTS = 1_000
BLOCK_NUMBERS = 2_000_000
ROWS = 250
NEAR_CAP = 0.9
STREAM = 0x616767726567  # "aggreg": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of one latent dimension under q(z), from all N posteriors, beside those of the prior.

    Args:
        mean: E_q(z)[z_d], units of z.
        variance: Var_q(z)[z_d] = E sigma^2 + Var mu, units of z squared.
        prior_mean: of p(z_d); None where the prior does not tell.
        prior_variance: the same.
    """

    mean: Estimate
    variance: Estimate
    prior_mean: float | None
    prior_variance: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain json."""
        return {
            "mean": self.mean.to_dict(),
            "variance": self.variance.to_dict(),
            "prior_mean": self.prior_mean,
            "prior_variance": self.prior_variance,
        }


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The decomposition of the rate.

    ``rate = mutual_information + marginal_kl`` and, for a factorised prior, ``marginal_kl = total_correlation +
    dimension_wise_kl`` hold exactly between the values.

    Args:
        n: N, the posteriors in q(z).
        samples: draws of z for each example that was drawn for.
        rate: E KL(q(z | x) || p(z)), nats; p(z) is the mixture over the classes where the model has some.
        mutual_information: I_q(x; z), nats, at most log N; on average too low for the population.
        mutual_information_above: the same with the example's own posterior left out of q(z): too high on average.
        marginal_kl: KL(q(z) || p(z)), nats.
        total_correlation: TC, nats.
        dimension_wise_kl: sum over dimensions of KL(q(z_d) || p(z_d)), nats; None where p(z) is not factorised.
        kl_by_dimension: the summands; None likewise.
        information_by_dimension: I_q(x; z_d), nats.
        moments: of each dimension.
        absent: name -> why it was not measured.
    """

    n: int
    samples: int
    rate: Estimate
    mutual_information: Estimate
    mutual_information_above: Estimate
    marginal_kl: Estimate
    total_correlation: Estimate
    dimension_wise_kl: Estimate | None
    kl_by_dimension: tuple[Estimate, ...] | None
    information_by_dimension: tuple[Estimate, ...]
    moments: tuple[Moments, ...]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def cap(self) -> float:
        """log N, the largest value that ``mutual_information`` can take, nats."""
        return math.log(self.n)

    @property
    def near_cap(self) -> bool:
        """Whether I_q is over nine tenths of log N, so that it says little but that posteriors do not overlap."""
        return self.mutual_information.value > NEAR_CAP * self.cap

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        kl = self.kl_by_dimension
        return {
            "posteriors": self.n,
            "samples": self.samples,
            "rate": self.rate.to_dict(),
            "mutual_information": {
                **self.mutual_information.to_dict(),
                "cap": self.cap,
                "near_cap": self.near_cap,
                "leave_one_out": self.mutual_information_above.to_dict(),
            },
            "marginal_kl": self.marginal_kl.to_dict(),
            "total_correlation": self.total_correlation.to_dict(),
            "dimension_wise_kl": None if self.dimension_wise_kl is None else self.dimension_wise_kl.to_dict(),
            "kl_by_dimension": None if kl is None else [estimate.to_dict() for estimate in kl],
            "information_by_dimension": [estimate.to_dict() for estimate in self.information_by_dimension],
            "moments": [moments.to_dict() for moments in self.moments],
            "absent": dict(self.absent),
        }


def find_aggregate(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    points: int = POINTS,
    samples: int = 1,
    seed: int = 0,
    block: int | None = None,
    tell: Tell | None = None,
) -> Aggregate:
    """Encode a split and decompose its rate, against p(z), which is the mixture over the classes where there are some.

    Args:
        model: in any mode, with a Gaussian posterior.
        examples: the split whose posteriors make up q(z): that of the training, for where new z are drawn.
        preprocessing: raw data to the model's input.
        points: see :func:`aggregate_posterior`.
        samples: see :func:`aggregate_posterior`.
        seed: of all noise.
        block: see :func:`aggregate_posterior`.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: the posterior is not Gaussian.
    """
    latents = find_latents(model, examples, preprocessing, seed=seed, tell=tell)
    if latents.log_variance is None:
        raise UserError(
            f"the aggregate posterior needs Gaussian posteriors; got {type(model.posterior).__name__}. "
            "Train with DiagonalGaussian to have it."
        )
    device = next(model.parameters()).device
    with torch.no_grad():
        prior: Distribution = model.prior(None)
        return aggregate_posterior(
            latents.mean.to(device),
            latents.log_variance.to(device),
            prior,
            points=points,
            samples=samples,
            seed=seed,
            block=block,
            tell=tell,
        )


def aggregate_posterior(
    mean: Float[Tensor, "n D"],
    log_variance: Float[Tensor, "n D"],
    prior: Distribution,
    *,
    points: int = POINTS,
    samples: int = 1,
    seed: int = 0,
    block: int | None = None,
    tell: Tell | None = None,
) -> Aggregate:
    """Decompose the rate of N diagonal Gaussian posteriors.

    Args:
        mean: of the posteriors.
        log_variance: of the posteriors.
        prior: p(z) of batch shape ().
        points: for how many examples z are drawn (all, where there are fewer); q(z) always has all N.
        samples: draws of z for each of them.
        seed: of all noise.
        block: numbers held at a time; changes results only by the rounding of the sums.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: fewer than two posteriors, or no draws.

    >>> from sfumato.priors import StandardNormal
    >>> same = torch.zeros(100, 2)
    >>> found = aggregate_posterior(same, same, StandardNormal(2)())
    >>> abs(found.mutual_information.value) < 1e-9, abs(found.marginal_kl.value) < 1e-9
    (True, True)
    """
    n = mean.shape[0]
    if n < 2 or points < 1 or samples < 1:
        raise UserError(
            f"the aggregate posterior needs 2 posteriors or more, 1 point or more and 1 sample or more; got {n}, "
            f"{points} and {samples}. Give more."
        )
    mean, log_variance = mean.double(), log_variance.double()
    with fixed_noise(seed_for(STREAM, seed), mean.device):
        chosen = torch.randperm(n, device=mean.device)[: min(points, n)]
        noise = torch.randn(samples, len(chosen), mean.shape[1], dtype=torch.float64, device=mean.device)
    z = mean[chosen] + (0.5 * log_variance[chosen]).exp() * noise
    own = -0.5 * (noise.square() + log_variance[chosen] + math.log(2 * math.pi))
    own_index = chosen.expand(samples, -1).flatten()
    others, others_by_dim = log_mixture_of_others(z.flatten(0, 1), own_index, mean, log_variance, block, tell)
    others, others_by_dim = others.reshape(z.shape[:2]), others_by_dim.reshape(z.shape)
    log_n = math.log(n)
    information_by_dim = own - torch.logaddexp(others_by_dim, own) + log_n
    information = own.sum(-1) - torch.logaddexp(others, own.sum(-1)) + log_n
    above = own.sum(-1) - others + math.log(n - 1)
    rate, rate_by_dim = _rates(mean[chosen], log_variance[chosen], prior, z, own)
    correlation = information_by_dim.sum(-1) - information
    kl_by_dim = None if rate_by_dim is None else rate_by_dim - information_by_dim
    absent = {}
    if kl_by_dim is None:
        why = f"the prior ({type(prior).__name__}) is not one normal with independent dimensions"
        absent = dict.fromkeys(("dimension_wise_kl", "kl_by_dimension"), why)
    return Aggregate(
        n=n,
        samples=samples,
        rate=_nats(rate),
        mutual_information=_nats(information),
        mutual_information_above=_nats(above),
        marginal_kl=_nats(rate - information),
        total_correlation=_nats(correlation),
        dimension_wise_kl=None if kl_by_dim is None else _nats(kl_by_dim.sum(-1)),
        kl_by_dimension=None if kl_by_dim is None else tuple(_nats(column) for column in kl_by_dim.unbind(-1)),
        information_by_dimension=tuple(_nats(column) for column in information_by_dim.unbind(-1)),
        moments=find_moments(mean, log_variance, prior),
        absent=absent,
    )


def log_mixture_of_others(
    z: Float64[Tensor, "rows D"],
    own: Int64[Tensor, " rows"],
    mean: Float64[Tensor, "n D"],
    log_variance: Float64[Tensor, "n D"],
    block: int | None = None,
    tell: Tell | None = None,
) -> tuple[Float64[Tensor, " rows"], Float64[Tensor, "rows D"]]:
    """Return log sum_{j != own} q(z | x_j), and the same for each dimension on its own; nats, not divided by N.

    The log-densities are products of (z^2, z, 1) with the parameters, a matrix for each dimension, in float64: where
    sigma is as small as it may be, z^2 / sigma^2 is 1e10 and still right to 1e-6.

    Args:
        z: the points.
        own: the number of the posterior that each point came from, which is left out.
        mean: of the posteriors.
        log_variance: of the posteriors.
        block: numbers held at a time.
        tell: called as tell(part, done, of).
    """
    precision = (-log_variance).exp().T  # (D, n), as everything below: dimension, row, posterior
    weights = torch.stack([-0.5 * precision, mean.T * precision], 1)
    constant = -0.5 * (mean.T.square() * precision + log_variance.T + math.log(2 * math.pi)).unsqueeze(1)
    (n, dims), totals, totals_by_dim = mean.shape, [], []
    for start in range(0, len(z), ROWS):
        rows, numbers = z[start : start + ROWS].T, own[start : start + ROWS]
        powers = torch.stack([rows.square(), rows], -1)
        columns = max(1, (block or BLOCK_NUMBERS) // (dims * len(numbers)))
        total = torch.full((len(numbers),), -math.inf, dtype=z.dtype, device=z.device)
        by_dim = total.expand(dims, -1)
        for first in range(0, n, columns):
            part = slice(first, first + columns)
            densities = torch.baddbmm(constant[..., part], powers, weights[..., part])
            inside = ((numbers >= first) & (numbers < first + columns)).nonzero().squeeze(-1)
            densities[:, inside, numbers[inside] - first] = -math.inf
            total = torch.logaddexp(total, densities.sum(0).logsumexp(-1))
            by_dim = torch.logaddexp(by_dim, densities.logsumexp(-1))
        totals.append(total)
        totals_by_dim.append(by_dim.T)
        if tell is not None:
            tell("aggregate posterior", min(start + ROWS, len(z)), len(z))
    return torch.cat(totals), torch.cat(totals_by_dim)


def find_moments(
    mean: Float64[Tensor, "n D"], log_variance: Float64[Tensor, "n D"], prior: Distribution
) -> tuple[Moments, ...]:
    """Return mean and variance of q(z) in each dimension, exact for the N posteriors, with errors over examples."""
    squares = log_variance.exp() + (mean - mean.mean(0)).square()
    wanted = _prior_moments(prior, mean.shape[1])
    return tuple(
        Moments(
            mean_estimate(mean[:, number], "units of z"),
            mean_estimate(squares[:, number], "units of z squared"),
            *(None if column is None else finite(float(column[number])) for column in wanted),
        )
        for number in range(mean.shape[1])
    )


def _rates(
    mean: Float64[Tensor, "points D"],
    log_variance: Float64[Tensor, "points D"],
    prior: Distribution,
    z: Float64[Tensor, "samples points D"],
    own: Float64[Tensor, "samples points D"],
) -> tuple[Float64[Tensor, "samples points"], Float64[Tensor, "samples points D"] | None]:
    """Return KL(q(z | x) || p(z)) of each example, in closed form or from its draws, and its parts by dimension."""
    shape = prior.event_shape
    posterior = independent_normal(mean.reshape(-1, *shape), log_variance.reshape(-1, *shape), len(shape))
    parts = kl_parts(posterior, prior)
    if parts is not None:
        by_dim = (parts[0] + parts[1]).reshape(mean.shape).double()
        return by_dim.sum(-1).expand(z.shape[:2]), by_dim.expand(z.shape)
    exact = closed_form_kl(posterior, prior)
    if exact is not None:
        return exact.double().expand(z.shape[:2]), None
    return own.sum(-1) - prior.log_prob(z.reshape(*z.shape[:2], *shape)).double(), None


def _prior_moments(prior: Distribution, dims: int) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(prior, LabelledMixture):
        weights, means = prior.log_weights.double().exp(), prior.means.double()
        centre = weights @ means
        return centre, weights @ (prior.log_variances.double().exp() + (means - centre).square())
    try:
        return prior.mean.reshape(dims), prior.variance.reshape(dims)
    except NotImplementedError:
        return None, None


def _nats(values: Float64[Tensor, "samples points"]) -> Estimate:
    return mean_estimate(values.mean(0), "nats")
