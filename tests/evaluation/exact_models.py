"""Linear-Gaussian VAEs in float64, whose evidence and posterior are known; weights are set by hand."""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sfumato.core.numerics import soft_bound
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS
from sfumato.priors import ClassConditional, StandardNormal

DIMS, LATENT, SCALE = 4, 2, 0.5
LOADING = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, -1.0, 0.0, 0.5]]).double().T  # orthogonal columns
OFFSET = torch.tensor([0.3, -0.2, 0.1, 0.0]).double()
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]]).double()
WEIGHTS = (0.5, 0.3, 0.2)
PRECISION = torch.eye(LATENT).double() + LOADING.T @ LOADING / SCALE**2


def unbounded(target: Tensor, bounds: tuple[float, float] = LOG_VARIANCE_BOUNDS) -> Tensor:
    """What f2 must give so that the bounded log-variance is ``target``."""
    value = target.clone()
    for _ in range(100):
        value += target - soft_bound(value, *bounds)
    return value


def affine(network: MLP, weight: Tensor, bias: Tensor) -> None:
    layer = network.layers[-1]
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)


def linear_vae(spread: float = 1.0, classes: str = "") -> VAE:
    """Return the VAE at its exact posterior, the standard deviations multiplied by ``spread``.

    classes: "" none; "prior" class means that only the prior sees; "encoder" an encoder that sees the label too and is
    exact for every class.
    """
    extra = 3 if classes == "encoder" else 0
    mean, log_variance = (MLP((DIMS + extra,), (LATENT,), hidden=()) for _ in range(2))
    decoder = MLP((LATENT,), (1, DIMS), hidden=())
    posterior = (
        DiagonalGaussian(WithLabel(mean, 3), WithLabel(log_variance, 3))
        if extra
        else DiagonalGaussian(mean, log_variance)
    )
    prior = ClassConditional(3, LATENT, WEIGHTS) if classes else StandardNormal(LATENT)
    model = VAE(prior, posterior, decoder, Gaussian((DIMS,), "fixed", SCALE)).double()
    if classes:
        prior.means.data.copy_(MEANS)
        prior.log_frequencies.copy_(torch.tensor(WEIGHTS).double().log())
    covariance = PRECISION.inverse()
    gain = covariance @ LOADING.T / SCALE**2
    weight = torch.cat([gain, covariance @ MEANS.T], 1) if extra else gain
    affine(mean, weight, -gain @ OFFSET)
    target = covariance.diagonal().log() + 2 * math.log(spread)
    affine(log_variance, torch.zeros(LATENT, DIMS + extra).double(), unbounded(target))
    affine(decoder, LOADING, OFFSET)
    model.likelihood.log_variance.fill_(2 * math.log(SCALE))
    return model


def log_evidence(x: Tensor, centre: Tensor | None = None) -> Tensor:
    """Return log p(x), or with a ``centre`` of z log p(x | y), exactly."""
    mean = OFFSET if centre is None else OFFSET + LOADING @ centre
    covariance = LOADING @ LOADING.T + SCALE**2 * torch.eye(DIMS).double()
    return MultivariateNormal(mean, covariance).log_prob(x)


def log_joint(x: Tensor) -> Tensor:
    """Return log p(y) + log p(x | y), (batch, classes), exactly."""
    return torch.stack([log_evidence(x, centre) for centre in MEANS], -1) + torch.tensor(WEIGHTS).double().log()


def data(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, DIMS, generator=generator).double()
