"""A hierarchical model of three levels of one number each, linear and Gaussian, whose evidence and posterior are known.

    z_1 ~ N(0, 1),   z_2 ~ N(a_2 z_1 + b_2, s_2^2),   z_3 ~ N(a_3 . (z_1, z_2) + b_3, s_3^2),   x ~ N(C z + b, v I)

Everything is one normal of (z, x); with z_l of one dimension each q(z_l | x, z_<l) is a normal that the model's own
parametrisation can say, so that the posterior is exact. Float64.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sfumato.core.numerics import soft_bound
from sfumato.likelihoods import Gaussian
from sfumato.models import HierarchicalVAE
from sfumato.models.hierarchical import PRIOR_BOUNDS, RESIDUAL_BOUNDS, TOP_BOUNDS
from sfumato.networks.ladder import BottomUp, TopDown
from sfumato.priors import ClassConditional, StandardNormal

LEVELS, DATA, NOISE = 3, 4, 0.6
ABOVE = torch.tensor([[0.0, 0.0, 0.0], [0.8, 0.0, 0.0], [-0.5, 0.7, 0.0]]).double()
START = torch.tensor([0.0, 0.3, -0.2]).double()
DEVIATIONS = torch.tensor([1.0, 0.7, 0.5]).double()
LOADING = torch.tensor([[1.0, 0.4, 0.0], [-0.5, 0.0, 1.0], [0.0, 1.2, -0.6], [0.3, 0.3, 0.9]]).double()
OFFSET = torch.tensor([0.1, -0.3, 0.0, 0.2]).double()
MEANS = torch.tensor([[2.0], [-1.0], [0.5]]).double()
WEIGHTS = (0.5, 0.3, 0.2)


def joint(centre: float = 0.0) -> MultivariateNormal:
    """Return the normal of (z_1, z_2, z_3, x), z_1 around ``centre``."""
    down = torch.zeros(LEVELS + DATA, LEVELS + DATA).double()
    down[:LEVELS, :LEVELS], down[LEVELS:, :LEVELS] = ABOVE, LOADING
    spread = torch.cat([DEVIATIONS, torch.full((DATA,), NOISE, dtype=torch.float64)])
    inverse = torch.linalg.inv(torch.eye(LEVELS + DATA).double() - down)
    start = torch.cat([START, OFFSET])
    start[0] = start[0] + centre
    return MultivariateNormal(inverse @ start, inverse @ spread.square().diag() @ inverse.T)


@functools.cache
def conditional(level: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, offset and variance of the z of ``level`` given those above and x."""
    whole, known = joint(), [*range(level), *range(LEVELS, LEVELS + DATA)]
    cross, own = whole.covariance_matrix[level, known], whole.covariance_matrix[known][:, known]
    weight = torch.linalg.solve(own, cross)
    variance = whole.covariance_matrix[level, level] - weight @ cross
    return weight, whole.mean[level] - weight @ whole.mean[known], variance


@functools.cache
def unbounded(target: float, bounds: tuple[float, float]) -> Tensor:
    """What a network must give so that the bounded log-variance is ``target``."""
    wanted = torch.tensor(target, dtype=torch.float64)
    value = wanted.clone()
    for _ in range(100):
        value += wanted - soft_bound(value, *bounds)
    return value


class Data(BottomUp):
    """The features of every level are x itself."""

    def __init__(self) -> None:
        super().__init__((DATA,), ((DATA,),) * LEVELS)
        self.weight = torch.nn.Parameter(torch.ones(()).double())  # so that the model has a parameter

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.weight * x] * LEVELS


class Affine(TopDown):
    """The state is all z so far. ``wrong`` moves each posterior's mean by so many deviations, and widens it."""

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__(((1,),) * LEVELS, ((DATA,),) * LEVELS, (1, DATA))
        self.wrong = wrong

    def begin(self, z: Tensor) -> Tensor:
        return z

    def prior(self, level: int, state: Tensor) -> Tensor:
        mean = state @ ABOVE[level, :level] + START[level]
        log_variance = unbounded(2 * math.log(DEVIATIONS[level]), PRIOR_BOUNDS).expand_as(mean)
        return torch.stack([mean, log_variance], 1).unsqueeze(-1)

    def posterior(self, level: int, state: Tensor | None, features: Tensor) -> Tensor:
        weight, offset, variance = conditional(level)
        variance = variance * math.exp(self.wrong)
        samples = 1 if state is None else len(state) // len(features)
        rows = features.repeat(samples, 1)
        mean = (rows if state is None else torch.cat([state, rows], 1)) @ weight + offset + self.wrong * variance.sqrt()
        if state is None:
            numbers = mean, unbounded(float(variance.log()), TOP_BOUNDS).expand_as(mean)
        else:
            scale = DEVIATIONS[level]
            ratio = unbounded(float((variance / scale**2).log()), RESIDUAL_BOUNDS)
            numbers = (mean - self.prior(level, state)[:, 0, 0]) / scale, ratio.expand_as(mean)
        return torch.stack(numbers, 1).unsqueeze(-1)

    def merge(self, level: int, state: Tensor, z: Tensor) -> Tensor:
        return torch.cat([state, z], 1)

    def finish(self, state: Tensor) -> Tensor:
        return (state @ LOADING.T + OFFSET).unsqueeze(1)


def linear_ladder(wrong: float = 0.0, classes: bool = False) -> HierarchicalVAE:
    """Return the model; with ``classes`` z_1 is around the mean of its class, which the posterior does not know."""
    top = ClassConditional(3, 1, WEIGHTS) if classes else StandardNormal(1)
    model = HierarchicalVAE(top, Data(), Affine(wrong), Gaussian((DATA,), "fixed", NOISE)).double()
    model.likelihood.log_variance.fill_(2 * math.log(NOISE))
    if classes:
        model.top.means.data.copy_(MEANS)
        model.top.log_frequencies.copy_(torch.tensor(WEIGHTS).double().log())
    return model


def log_evidence(x: Tensor, centre: float = 0.0) -> Tensor:
    """Return log p(x), or of the class whose z_1 is around ``centre``, exactly."""
    whole = joint(centre)
    return MultivariateNormal(whole.mean[LEVELS:], whole.covariance_matrix[LEVELS:, LEVELS:]).log_prob(x)


def exact_posterior(x: Tensor) -> MultivariateNormal:
    """Return p(z | x) of all levels together."""
    whole = joint()
    cross, own = whole.covariance_matrix[:LEVELS, LEVELS:], whole.covariance_matrix[LEVELS:, LEVELS:]
    weight = torch.linalg.solve(own, cross.T).T
    mean = whole.mean[:LEVELS] + (x - whole.mean[LEVELS:]) @ weight.T
    return MultivariateNormal(mean, whole.covariance_matrix[:LEVELS, :LEVELS] - weight @ cross.T)


def data(n: int) -> Tensor:
    """Return ``n`` examples of p(x)."""
    return joint().sample((n,))[:, LEVELS:]
