r"""Why the ELBO is below the evidence: the family of posteriors, or the encoder.

    log p(x) - ELBO = KL(q(z | x) || p(z | x))
                    = [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]
                       approximation gap         amortisation gap

with q* the best diagonal Gaussian for this x alone, found by gradient ascent on its ELBO from the encoder's q.

Reference: Inference Suboptimality in Variational Autoencoders, Cremer et al., 2018, https://arxiv.org/abs/1801.03558.

The ascent uses the path derivative of the log-weights, whose noise vanishes where q is the true posterior (Sticking the
Landing, Roeder et al., 2017, https://arxiv.org/abs/1703.09194). All ELBOs here are means of log-weights over the same
fresh noise, so that the amortisation gap is a difference of pairs. What is not known exactly: ELBO(q*) is at most that
of the best Gaussian, so approximation is at most too large and amortisation too small by what the ascent left; and the
evidence, where it is an importance bound, is too low on average, which makes the approximation gap too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal, independent_normal
from sfumato.core.interfaces import Posterior
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Examples, InMemory
from sfumato.evaluation.bounds import importance_bound, weighted_draws
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Tell, batches
from sfumato.models import VAE, Model

STREAM = 0x676170  # "gap": keeps these random numbers apart from others with the same seed
FRESH = 1
CYCLE = 50
KEPT = 200
FIRST_RATE, LAST_RATE, SHRINK = 0.1, 1e-3, 4.0


@final
class Refined(Posterior):
    """Posteriors that were found for one batch of examples: it has their numbers, and looks at no x.

    Args:
        mean: (batch, *latent).
        log_variance: the same.
    """

    def __init__(self, mean: Float[Tensor, "batch ..."], log_variance: Float[Tensor, "batch ..."]) -> None:
        super().__init__()
        self.latent_shape = tuple(mean.shape[1:])
        self.register_buffer("mean", mean)
        self.register_buffer("log_variance", log_variance)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Independent[Normal]:
        """Return the posteriors of the batch, whatever ``x`` is."""
        return independent_normal(self.mean, self.log_variance, len(self.latent_shape))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Refinement:
    """The best Gaussian posterior of each example, as far as it was found.

    Args:
        model: the same prior, decoder and likelihood with these posteriors, for this batch only.
        converged: whether the last cycles gained less than the tolerance.
        steps: gradient steps that each example took.
    """

    model: Model
    converged: Bool[Tensor, " batch"]
    steps: Int[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gap of each example, nats.

    Args:
        evidence: log p(x), or a bound on it.
        refined: ELBO(q*).
        elbo: ELBO(q).
        converged: whether the ascent to q* ended by itself.
    """

    evidence: Float64[Tensor, " n"]
    refined: Float64[Tensor, " n"]
    elbo: Float64[Tensor, " n"]
    converged: Bool[Tensor, " n"]

    @property
    def approximation(self) -> Float64[Tensor, " n"]:
        """log p(x) - ELBO(q*): what the family of posteriors costs."""
        return self.evidence - self.refined

    @property
    def amortisation(self) -> Float64[Tensor, " n"]:
        """ELBO(q*) - ELBO(q): what the encoder costs."""
        return self.refined - self.elbo


@dataclass(frozen=True, eq=False)
class Gap:
    """Means over examples, nats. ``inference = approximation + amortisation``, exactly.

    Args:
        inference: log p(x) - ELBO, the KL from the encoder's posterior to the true one.
        approximation: the part of the family of posteriors.
        amortisation: the part of the encoder.
        evidence: log p(x), or the bound on it that was used.
        refined: the ELBO of the refined posteriors.
        elbo: the ELBO of the encoder's posteriors.
        converged: the share of examples whose ascent ended by itself.
        evidence_samples: K where the evidence is the importance bound from the refined posterior; None: it was given.
        elbo_samples: draws of z for each ELBO.
        given_label: whether all this is about log p(x | y).
    """

    inference: Estimate
    approximation: Estimate
    amortisation: Estimate
    evidence: Estimate
    refined: Estimate
    elbo: Estimate
    converged: Estimate
    evidence_samples: int | None
    elbo_samples: int
    given_label: bool

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        names = ("inference", "approximation", "amortisation", "evidence", "refined", "elbo", "converged")
        return {
            **{name: getattr(self, name).to_dict() for name in names},
            "evidence_samples": self.evidence_samples,
            "elbo_samples": self.elbo_samples,
            "given_label": self.given_label,
        }


def find_gap(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    n: int = 100,
    evidence: Float[Tensor, " n"] | None = None,
    evidence_samples: int = 1_000,
    elbo_samples: int = 100,
    steps: int = 2_000,
    seed: int = 0,
    tell: Tell | None = None,
) -> Gap:
    """Measure the gap on the first examples of a split.

    Args:
        model: in any mode, with a Gaussian posterior.
        examples: the split.
        preprocessing: raw data to the model's input.
        n: how many examples, of those that there are: the ascent is dear.
        evidence: log p(x) of the first n examples in nats, from somewhere better; None: the importance bound with the
            refined posterior as the proposal.
        evidence_samples: its K.
        elbo_samples: draws of z for each ELBO.
        steps: see :func:`refine`.
        seed: of all noise.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: as :func:`refine`; an evidence of another length; unknown labels where the networks look at them.
    """
    n = min(n, len(examples))
    if evidence is not None and evidence.shape != (n,):
        raise UserError(f"the evidence must be one number for each of {n} examples; got {tuple(evidence.shape)}.")
    chosen = InMemory(*examples.batch(torch.arange(n)))
    labelled = knows_labels(model, chosen)
    found: list[Gaps] = []
    with measuring(model) as device:
        for batch in batches(chosen, preprocessing, device, seed, tell, "gap"):
            done = sum(part.elbo.shape[0] for part in found)
            known = None if evidence is None else evidence[done : done + len(batch.x)].to(device)
            label = batch.y if labelled else None
            options = {"evidence_samples": evidence_samples, "elbo_samples": elbo_samples, "steps": steps}
            found.append(gaps(model, batch.x, label, evidence=known, seed=batch.seed, **options))
    columns = {
        name: torch.cat([getattr(part, name) for part in found])
        for name in ("approximation", "amortisation", "evidence", "refined", "elbo")
    }
    return Gap(
        inference=mean_estimate(columns["evidence"] - columns["elbo"], "nats"),
        **{name: mean_estimate(values, "nats") for name, values in columns.items()},
        converged=mean_estimate(torch.cat([part.converged for part in found]).double(), "fraction"),
        evidence_samples=evidence_samples if evidence is None else None,
        elbo_samples=elbo_samples,
        given_label=labelled,
    )


def knows_labels(model: Model, examples: Examples) -> bool:
    """Return whether a model with classes can be told those of all ``examples``.

    Raises:
        UserError: it cannot, and its networks look at labels.
    """
    y = getattr(examples, "y", None)
    labelled = bool(model.num_classes) and y is not None and bool((y >= 0).all())
    if model.labels_reach_networks and not labelled:
        raise UserError(
            "the networks of this model look at labels, and some examples have none. Give examples with labels."
        )
    return labelled


def gaps(
    model: Model,
    x: Tensor,
    y: Int[Tensor, " batch"] | None = None,
    *,
    evidence: Float[Tensor, " batch"] | None = None,
    evidence_samples: int = 1_000,
    elbo_samples: int = 100,
    steps: int = 2_000,
    seed: int = 0,
) -> Gaps:
    """Return the gap of each example. Arguments as :func:`find_gap`, for one batch.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        y: class numbers, (batch,): everything is then about log p(x | y).
        evidence: log p(x) or log p(x | y) of each example, nats.
        evidence_samples: K of the bound that takes its place.
        elbo_samples: draws of z for each ELBO.
        steps: see :func:`refine`.
        seed: of all noise.
    """
    refinement = refine(model, x, y, steps=steps, seed=seed)
    fresh = seed_for(STREAM, FRESH, seed)
    if evidence is None:
        evidence = importance_bound(refinement.model, x, y, samples=evidence_samples, seed=seed)
    return Gaps(
        evidence=evidence.double(),
        refined=sampled_elbo(refinement.model, x, y, samples=elbo_samples, seed=fresh),
        elbo=sampled_elbo(model, x, y, samples=elbo_samples, seed=fresh),
        converged=refinement.converged,
    )


def sampled_elbo(
    model: Model, x: Tensor, y: Int[Tensor, " batch"] | None = None, *, samples: int, seed: int = 0
) -> Float64[Tensor, " batch"]:
    """Return the mean log-weight E_q[log p(x | z) + log p(z) - log q(z | x)] of each example, nats.

    At the true posterior every single weight is log p(x). Two models of one latent shape see the same noise.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        y: class numbers, (batch,), or None.
        samples: draws of z for each example, used exactly.
        seed: of the noise.

    Raises:
        UserError: the posterior has no density, or there are no samples.
    """
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    with measuring(model):
        for terms in weighted_draws(model, x, y, samples=samples, seed=seed):
            assert terms.log_posterior is not None
            weights = terms.log_likelihood + terms.log_prior - terms.log_posterior
            total = total + weights.double().sum(0)
    return total / samples


def refine(
    model: Model,
    x: Tensor,
    y: Int[Tensor, " batch"] | None = None,
    *,
    samples: int = 10,
    steps: int = 2_000,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Refinement:
    """Find the best diagonal Gaussian posterior of each example, by Adam on its mean and log-variance.

    The steps come in cycles of 50. After each, the ELBO under noise that is kept for the purpose (200 draws or more,
    their mean and covariance made exactly 0 and 1) decides, example by example, whether the cycle is taken over, so
    that it never ends below where it began; a cycle that gains less than ``tolerance`` makes the next steps four times
    smaller. The first steps are a tenth of the current standard deviation; when they are below a thousandth of it the
    example has converged and is left alone.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        y: class numbers, (batch,), or None.
        samples: draws of z for each gradient, half of them the other half mirrored.
        steps: at most so many for each example.
        tolerance: nats.
        seed: of the noise.

    Raises:
        UserError: the posterior is not Gaussian.
    """
    with measuring(model):
        start = as_normal(model.posterior(x, y))
        if start is None:
            raise UserError(
                f"the gap is measured from a Gaussian posterior; got {type(model.posterior).__name__}. "
                "Train with DiagonalGaussian to have it."
            )
        mean, log_variance = start.loc.clone(), 2 * start.scale.log()
        half = max(1, samples // 2)
        kept = _kept_noise(mean, seed_for(STREAM, seed))
        value = _log_weights(model, x, y, mean, log_variance, kept).mean(0)
        rate = torch.full_like(value, FIRST_RATE)
        taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for cycle in range(-(-steps // CYCLE)):
            rows = (rate >= LAST_RATE).nonzero().squeeze(-1)
            if not len(rows):
                break
            part = (x[rows], None if y is None else y[rows])
            tried = _ascend(
                model, *part, mean[rows], log_variance[rows], rate[rows], half, seed_for(STREAM, seed, cycle)
            )
            reached = _log_weights(model, *part, *tried, kept).mean(0)
            gain = torch.nan_to_num(reached - value[rows], nan=-1.0, posinf=-1.0)
            better = gain > 0
            chosen = rows[better]
            mean[chosen], log_variance[chosen], value[chosen] = tried[0][better], tried[1][better], reached[better]
            rate[rows] = torch.where(gain < tolerance, rate[rows] / SHRINK, rate[rows])
            taken[rows] += CYCLE
        refined = VAE(model.prior, Refined(mean, log_variance), model.decoder, model.likelihood)
    return Refinement(refined, rate < LAST_RATE, taken)


def _ascend(
    model: Model,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    log_variance: Tensor,
    rate: Tensor,
    half: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance after one cycle; every example has its own rate, in units of its own deviation."""
    rate = rate.reshape(-1, *[1] * (mean.ndim - 1))
    scale = (0.5 * log_variance).exp()
    shift, stretch = (torch.zeros_like(mean, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([shift, stretch], lr=1.0)
    with torch.enable_grad():
        for step in range(CYCLE):
            place = mean + rate * scale * shift
            width = log_variance + rate * stretch
            noise = _mirrored(mean, half, seed_for(seed, step))
            loss = -_log_weights(model, x, y, place, width, noise).mean(0).sum()
            shift.grad, stretch.grad = torch.autograd.grad(loss, (shift, stretch))
            adam.step()
    return (mean + rate * scale * shift).detach(), (log_variance + rate * stretch).detach()


def _log_weights(
    model: Model, x: Tensor, y: Tensor | None, mean: Tensor, log_variance: Tensor, noise: Tensor
) -> Float[Tensor, "samples batch"]:
    """Return log p(x, z) - log q(z | x), nats, with gradients along z alone: those of q's density are 0 on average."""
    z = mean + (0.5 * log_variance).exp() * noise
    fixed: Distribution = independent_normal(mean.detach(), log_variance.detach(), mean.ndim - 1)
    prior: Distribution = model.prior(y)
    return model.decode(z, y).log_prob(x) + prior.log_prob(z) - fixed.log_prob(z)


def _kept_noise(like: Tensor, seed: int) -> Float[Tensor, "samples 1 ..."]:
    """Return noise for all examples alike, of mean 0 and covariance 1: means of quadratic functions are exact."""
    dims = like[0].numel()
    noise = _mirrored(like[:1].double().cpu(), max(KEPT, 2 * dims) // 2 + dims, seed).flatten(1)
    factor = torch.linalg.cholesky(noise.T @ noise / len(noise))
    white: Tensor = torch.linalg.solve_triangular(factor, noise.T, upper=False).T
    return white.reshape(-1, 1, *like.shape[1:]).to(like)


def _mirrored(like: Tensor, half: int, seed: int) -> Tensor:
    """Return standard normal noise, (2 half, *like.shape), the second half minus the first."""
    with fixed_noise(seed, like.device):
        noise = torch.randn(half, *like.shape, dtype=like.dtype, device=like.device)
    return torch.cat([noise, -noise])
