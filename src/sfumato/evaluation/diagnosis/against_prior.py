r"""The prior p(z) against the aggregate posterior q(z) = 1/N sum_n q(z | x_n): as z, and decoded.

* **Gap.** For any density r, E_q(z) log r(z) / p(z) = KL(q(z) || p(z)) - KL(q(z) || r), so that

      KL(q(z) || p(z)) >= E_q(z)[log r(z) - log p(z)],

  and the right side is what the ELBO would gain from r in the place of the prior. Here r is a mixture of Gaussians,
  fitted to codes of training examples, and the right side is measured on codes of the validation split. (That rate
  less I_q(x; z) says nothing here: I_q of N examples is at most log N, so it is at least the rate - log N.) Reference:
  ELBO Surgery, Hoffman and Johnson, 2016; VAE with a VampPrior, Tomczak and Welling, 2018,
  https://arxiv.org/abs/1705.07120.
* **Told apart.** How often a small classifier tells z of q(z) from z of the prior, on z it was not trained on; one half
  where the two are the same. An accuracy a means a total variation of at least 2 a - 1: so large a part of the z of
  the prior would have to be others for the two to be the same. Reference: Revisiting Classifier Two-Sample Tests,
  Lopez-Paz and Oquab, 2017, https://arxiv.org/abs/1610.06545.
* **Stray samples.** The share of samples (decoder means of z of the prior) whose nearest validation example is farther
  away than that of 95 % of the reconstructions (decoder means of z of q(z), from training examples); 5 % where the
  decoder makes no difference between the two z. Reference: Improved Precision and Recall Metric for Assessing
  Generative Models, Kynkaanniemi et al., 2019, https://arxiv.org/abs/1904.06991, where the radius is one of real data.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal
from torch.nn import functional as F

from sfumato.core.gaussians import as_normal, independent_normal
from sfumato.core.numerics import fixed_noise
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.latents import Latents
from sfumato.models import Model

LEARNING_STEPS = 150
FEWEST = 40  # examples for a share
USUAL = 0.95
COMPONENTS, CODES = 10, 8  # of r, at most; examples for each of its dimensions and components, at least
ROUNDS = 20
DRAWS = 2  # z of each example that r is fitted to
WIDEST = 512  # dimensions up to which r has full covariances, and is fitted
SMALLEST = 1e-4  # added to all variances of r, as a part of that of all codes


def prior_against_posterior(model: Model, x: Tensor, y: Tensor | None, x_new: Tensor, seed: int) -> dict[str, Any]:
    """Compare z of the prior with z of the aggregate posterior, as they are and decoded.

    Args:
        model: as :func:`~sfumato.evaluation.measuring.measuring` leaves it.
        x: training examples, preprocessed.
        y: their labels, where encoder or decoder look at them.
        x_new: validation examples.
        seed: of all noise.
    """
    n = len(x)
    with fixed_noise(seed, x.device):
        posterior = model.posterior(x, y).sample().flatten(1)
        given = y if model.decoder.sees_label else None
        prior = model.prior(given)
        drawn = (prior.sample((n,)) if not prior.batch_shape else prior.sample()).flatten(1)
        found: dict[str, Any] = {}
        if n >= FEWEST:
            found["told"] = told_apart(posterior, drawn)
        if min(n, len(x_new)) >= FEWEST:
            shape = (n, *model.prior.latent_shape)
            made, rebuilt = (model.decode(z.reshape(shape), given).mean for z in (drawn, posterior))
            found["stray"] = stray(made, rebuilt, x_new)
        return found


def gap_to_prior(model: Model, learn: Latents, test: Latents, seed: int) -> dict[str, Estimate]:
    """Return the rate, and the least that q(z) is away from where samples begin: ``rate`` and ``prior_gap``, nats.

    Args:
        model: of both.
        learn: posteriors that r is fitted to, of training examples.
        test: posteriors of other examples.
        seed: of all noise.
    """
    if learn.log_variance is None or test.log_variance is None:
        return {}
    device, codes, shifted = next(model.parameters()).device, [], []
    with fixed_noise(seed, device):
        for latents in (learn, test):
            assert latents.log_variance is not None
            mean, log_variance = latents.mean.to(device).double(), latents.log_variance.to(device).double()
            z = mean + (0.5 * log_variance).exp() * torch.randn((DRAWS, *mean.shape), dtype=mean.dtype, device=device)
            y = latents.y.to(device) if latents.y is not None and model.decoder.sees_label else None
            prior = model.prior(y)
            known = None if y is None else as_normal(prior)  # p(z | y): r is then one of z - E[z | y]
            shifted.append(z if known is None else z - known.mean.flatten(1))
            codes.append((z, mean, log_variance, prior))
        z, mean, log_variance, prior = codes[1]
        flat = z.to(learn.mean.dtype).reshape(DRAWS, len(mean), *model.prior.latent_shape)
        log_prior = log_density(prior, flat).double()
        log_posterior = log_density(independent_normal(mean, log_variance), z)
        found = {"rate": mean_estimate((log_posterior - log_prior).mean(0), "nats")}
        (n, dims), most = learn.mean.shape, COMPONENTS
        if dims <= WIDEST and n >= CODES * dims:
            fitted = fit_mixture(shifted[0].flatten(0, 1), max(1, min(most, n // (CODES * dims))))
            found["prior_gap"] = mean_estimate((log_density(fitted, shifted[1]) - log_prior).mean(0), "nats")
    return found


def log_density(distribution: Distribution, z: Tensor) -> Tensor:
    """Return log p(z), nats."""
    values: Tensor = distribution.log_prob(z)
    return values


def fit_mixture(z: Float64[Tensor, "n D"], components: int, rounds: int = ROUNDS) -> MixtureSameFamily:
    """Return the mixture of Gaussians that expectation maximisation finds for ``z``.

    A covariance is drawn towards its own diagonal, as if D more codes had shown it without correlations. Draws from
    torch's global random state: call it inside ``fixed_noise``.

    Args:
        z: codes.
        components: of the mixture.
        rounds: of expectation and maximisation.

    Reference: Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster et al., 1977.
    """
    dims = z.shape[1]
    z_mean, spread = z.mean(0), z.std(0).mean().clamp(min=1e-12)
    scaled = (z - z_mean) / spread
    centres = scaled[torch.randperm(len(z), device=z.device)[:components]]
    parts = F.one_hot(torch.cdist(scaled, centres).argmin(1), components).to(z.dtype)
    for _ in range(rounds):
        count = parts.sum(0).clamp(min=1e-6)
        mean = parts.T @ scaled / count[:, None]
        away = [scaled - centre for centre in mean]
        products = [part[:, None] * rows for part, rows in zip(parts.T, away, strict=True)]
        covariance = torch.stack([one.T @ rows for one, rows in zip(products, away, strict=True)])
        own = covariance.diagonal(dim1=1, dim2=2) / count[:, None]
        covariance = (covariance + dims * own.diag_embed()) / (count + dims)[:, None, None]
        covariance = covariance + SMALLEST * torch.eye(dims, dtype=z.dtype, device=z.device)
        weights = count / count.sum()
        scores = log_density(MultivariateNormal(mean, covariance), scaled[:, None]) + weights.log()
        parts = scores.softmax(1)
    scale = spread * torch.linalg.cholesky(covariance)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(z_mean + spread * mean, scale_tril=scale))


def told_apart(a: Float[Tensor, "n latent"], b: Float[Tensor, "n latent"]) -> Estimate:
    """Return how often a small network that was trained on one half of ``a`` and ``b`` is right about the other half.

    Draws from torch's global random state: call it inside ``fixed_noise``.
    """
    both = torch.cat([a, b]).float()
    truth = torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).to(both.device)
    both = (both - both.mean(0)) / both.std(0).clamp(min=1e-6)
    features = torch.cat([both, both.square()], 1)
    order = torch.randperm(len(both), device=both.device)
    half = len(both) // 2
    learn, test = order[:half], order[half:]
    network = nn.Sequential(nn.Linear(features.shape[1], 32), nn.SiLU(), nn.Linear(32, 1)).to(both.device)
    fused = both.device.type in ("cpu", "cuda")  # half the time of so small a network
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.1, fused=fused)
    with torch.enable_grad():
        for _ in range(LEARNING_STEPS):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(network(features[learn]).squeeze(1), truth[learn])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    right = (network(features[test]).squeeze(1) > 0) == (truth[test] > 0.5)
    return mean_estimate(right.double(), "fraction")


def stray(a: Tensor, b: Tensor, real: Tensor) -> Estimate:
    """Return the share of ``a`` that is farther from all ``real`` than 95 % of ``b`` are, each (n, *data).

    >>> line = torch.arange(100.0)[:, None]
    >>> stray(line + 0.5, line + 0.5, line).value, stray(line + 200, line + 0.5, line).value
    (0.0, 1.0)
    """
    far, near = (torch.cdist(part.flatten(1).double(), real.flatten(1).double()).amin(1) for part in (a, b))
    return mean_estimate((far > near.quantile(USUAL)).double(), "fraction")
