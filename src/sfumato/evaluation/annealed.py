r"""Annealed importance sampling: the evidence from below, and for simulated data also from above, in nats.

A path of densities leads from one that can be sampled, b(z), to the joint density f(z) = p(x, z),

    log f_t(z) = log b(z) + beta_t log r(z),   r = f / b,   0 = beta_0 < beta_1 < ... < beta_T = 1.

Forwards, z_0 is drawn from b and z_t comes from z_{t-1} by Hamiltonian Monte Carlo that leaves f_t as it is. Then

    log w = sum_t (beta_t - beta_{t-1}) log r(z_{t-1}),   E[w] = p(x),   so   E[log 1/M sum_m w_m] <= log p(x).

Backwards, from an exact draw of p(z | x) and through the same steps in reverse, the same sum gives E[1 / w] = 1 / p(x),
so E[-log 1/M sum_m 1 / w_m] >= log p(x). Exact draws there are for data that the model itself made: (z, x) from
p(z) p(x | z). The two bounds are the sandwich of bidirectional Monte Carlo, and its width says how far annealing can be
from the truth.

Each w_m must come from steps that do not look at the chains they move. So the step sizes are tuned by a burn-in, a
shorter annealing of its own whose chains are thrown away, one step size for each example and place of the path, and
are frozen before the chains that count begin.

With labels that the decoder sees, log p(x) = log sum_y p(y) p(x | y). Forwards each class has its own chains:
E[sum_y p(y) w_y] = p(x). Backwards only the class y* that made x has exact draws; the other classes go forwards,
and E[1 / (p(y*) w_y* + sum_{y != y*} p(y) w_y)] = 1 / p(x), because the chains of all classes together, one of them
backwards, are draws from their forward density times sum_y p(y) w_y / p(x).

References: Annealed Importance Sampling, Neal, 2001, https://arxiv.org/abs/physics/9803008; On the Quantitative
Analysis of Decoder-Based Generative Models, Wu et al., 2017, https://arxiv.org/abs/1611.04273; Sandwiching the Marginal
Likelihood Using Bidirectional Monte Carlo, Grosse et al., 2015, https://arxiv.org/abs/1511.02543.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.numerics import fixed_noise, logmeanexp, seed_for
from sfumato.core.spec import Size, checked
from sfumato.evaluation.bounds import every_class, log_class_weights
from sfumato.evaluation.measuring import measuring
from sfumato.models import Model

STREAM = 0x616E6E65616C  # "anneal": keeps these random numbers apart from others with the same seed
BLOCK_NUMBERS = {"cpu": 400_000}  # what fits the cache of a core; other devices want more at once
MOST_NUMBERS = 100_000_000
STEEPNESS = 4.0
TARGET = 0.65
GAIN = 0.5
FIRST_STEP = 0.5
LOG_STEP_BOUNDS = (-16.0, 4.0)
SETTLING = 20

Start = Literal["posterior", "prior"]
Tick = Callable[[], None]


@dataclass(frozen=True)
class Annealing:
    """How to anneal.

    Args:
        temperatures: T, the steps from beta = 0 to beta = 1.
        chains: M for each example (and class).
        leapfrogs: gradients in one step of Hamiltonian Monte Carlo.
        burn_in: the temperatures of the annealing that tunes the step sizes; no more than T are used.
        start: b(z): "posterior", q(z | x), from which the way is short; or "prior", which trusts no encoder and needs
            no density of q. Either is right for any encoder: annealing removes what it gets wrong. On binary MNIST
            the gap after 300 temperatures was 0.0 nats from the posterior, and 0.9 from the prior.

    Raises:
        UserError: a number out of range, or another start.
    """

    temperatures: int = 1_000
    chains: int = 16
    leapfrogs: int = 10
    burn_in: int = 100
    start: Start = "posterior"

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains", "leapfrogs", "burn_in"):
            checked(getattr(self, name), Size, f"annealing: {name}")
        checked(self.start, Start, "annealing: start")

    @property
    def rungs(self) -> int:
        """How many temperatures the forward chains of one class take, those of the burn-in too."""
        return self.temperatures + (SETTLING + min(self.burn_in, self.temperatures - 1)) * (self.temperatures > 1)


@dataclass(frozen=True, eq=False)
class Chains:
    """What a set of chains found.

    Args:
        log_weights: log of an unbiased estimate of p(x) for every chain, nats; backwards of 1 / p(x).
        acceptance: the mean acceptance of each example's steps, 0 to 1; NaN where there was no step.
    """

    log_weights: Float64[Tensor, "chains batch"]
    acceptance: Float64[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Bounds on log p(x) of examples that the model made, nats.

    Args:
        lower: from the forward chains, below log p(x) in expectation.
        upper: from the backward chains, above log p(x) in expectation.
        acceptance: the mean acceptance of both, 0 to 1.
    """

    lower: Float64[Tensor, " batch"]
    upper: Float64[Tensor, " batch"]
    acceptance: Float64[Tensor, " batch"]


def sigmoid_schedule(temperatures: int) -> Float64[Tensor, " steps"]:
    """Return beta_0 ... beta_T, T + 1 numbers from 0 to 1: a sigmoid over [-4, 4], shifted and scaled to meet the ends.

    >>> sigmoid_schedule(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    betas = _beta(torch.linspace(0, 1, temperatures + 1, dtype=torch.float64))
    betas[0], betas[-1] = 0.0, 1.0  # but for rounding they are already
    return betas


def annealed_bound(
    model: Model,
    x: Tensor,
    settings: Annealing | None = None,
    *,
    seed: int = 0,
    block: int | None = None,
    tick: Tick | None = None,
) -> Float64[Tensor, " batch"]:
    """Return log 1/M sum_m w_m of each unlabelled example, nats: a lower bound on log p(x) in expectation.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        settings: how to anneal.
        seed: of all noise, which also follows from the number of examples.
        block: rows (chains times examples) that are decoded together; changes no draw.
        tick: called after each temperature of every class, those of the burn-in too.

    Raises:
        UserError: a part without a density, or without a gradient in z.
    """
    return logmeanexp(annealed_chains(model, x, settings, seed=seed, block=block, tick=tick).log_weights)


def annealed_chains(
    model: Model,
    x: Tensor,
    settings: Annealing | None = None,
    *,
    seed: int = 0,
    block: int | None = None,
    tick: Tick | None = None,
) -> Chains:
    """Return the forward chains of :func:`annealed_bound`, each with the classes summed over."""
    with measuring(model):
        return _summed(model, _forwards(model, x, settings or Annealing(), seed, block, tick))


def sandwich(
    model: Model,
    n: int,
    settings: Annealing | None = None,
    *,
    seed: int = 0,
    block: int | None = None,
    tick: Tick | None = None,
) -> Sandwich:
    """Return both bounds on log p(x) of ``n`` examples that the model makes.

    Args:
        model: in any mode.
        n: the number of examples.
        settings: how to anneal, in both directions.
        seed: of the examples and of all other noise.
        block: as in :func:`annealed_bound`.
        tick: as in :func:`annealed_bound`.

    Raises:
        UserError: a part without a density, or without a gradient in z.
    """
    settings = settings or Annealing()
    with measuring(model):
        x, z, y = simulate(model, n, seed)
        runs = _forwards(model, x, settings, seed, block, tick)
        forwards = _summed(model, runs)
        if y is None:
            (own,) = runs
            steps, others = own.steps, None
        else:
            steps = torch.stack([run.steps for run in runs])[y, :, torch.arange(n, device=y.device)].T
            joint = _joint(model, runs)
            others = joint.masked_fill(F.one_hot(y, len(runs)).bool(), -torch.inf).logsumexp(-1)
        path = _Path(model, x, y, settings, block)
        betas, noise = sigmoid_schedule(settings.temperatures).flip(0), _Noise(x.device, seed_for(STREAM, seed, 3))
        exact = z.expand(settings.chains, *z.shape)
        backwards = _anneal(path, exact, betas, steps.flip(0), settings.leapfrogs, noise, tick)
        inverse = backwards.log_weights
        if y is not None and others is not None:
            inverse = -torch.logaddexp(log_class_weights(model).double()[y] - inverse, others)
        return Sandwich(
            logmeanexp(forwards.log_weights),
            -logmeanexp(inverse),
            (forwards.acceptance + backwards.acceptance) / 2,
        )


def simulate(model: Model, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Int[Tensor, " n"] | None]:
    """Return ``n`` draws of x, the z that made each, an exact draw of p(z | x), and the class that the decoder saw.

    Args:
        model: in any mode; its device is used.
        n: how many.
        seed: of the noise.
    """
    with measuring(model) as device, fixed_noise(seed_for(STREAM, seed, 2), device):
        y = None
        if model.decoder.sees_label:
            y = torch.multinomial(log_class_weights(model).exp(), n, replacement=True)
        prior = _dense(model.prior(y))
        z = prior.sample((n,) if not prior.batch_shape else ())
        return model.decode(z, y).sample().to(z.dtype), z, y


class _Point(NamedTuple):
    """Chains at z, (chains, batch, *latent), with log b and log r there, (chains, batch), and their gradients."""

    z: Tensor
    log_base: Tensor
    log_ratio: Tensor
    base_slope: Tensor
    ratio_slope: Tensor

    def log_density(self, beta: float) -> Float[Tensor, "chains batch"]:
        """Return log b + beta log r, nats."""
        return self.log_base + beta * self.log_ratio

    def slope(self, beta: float) -> Float[Tensor, "chains batch ..."]:
        """Return the gradient of that."""
        return self.base_slope + beta * self.ratio_slope

    def moved(self, new: _Point, accepted: Bool[Tensor, "chains batch"]) -> _Point:
        """Return ``new`` for the chains that accepted it, this for the others."""
        wide = accepted.reshape(*accepted.shape, *[1] * (self.z.ndim - 2))
        masks = (wide, accepted, accepted, wide, wide)
        return _Point(
            *[torch.where(mask, *pair) for mask, pair in zip(masks, zip(new, self, strict=True), strict=True)]
        )


class _Noise:
    """All random numbers of one set of chains, on their device, from one seed."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.seed, self.device = seed_for(STREAM, seed), device
        self.generator = torch.Generator(device).manual_seed(seed)

    def draws(self, distribution: Distribution, shape: tuple[int, ...]) -> Tensor:
        """Return draws from a distribution; to be called once."""
        with fixed_noise(self.seed, self.device):
            return distribution.rsample(shape) if distribution.has_rsample else distribution.sample(shape)

    def normal(self, like: Tensor) -> Tensor:
        """Return numbers from N(0, 1)."""
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def uniform(self, like: Tensor) -> Tensor:
        """Return numbers between 0 and 1."""
        return torch.rand(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)


class _Part(NamedTuple):
    """Some examples that are decoded together, with the densities that belong to them."""

    x: Tensor
    y: Tensor | None
    prior: Distribution
    base: Distribution


class _Path:
    """The densities b and r of a batch."""

    def __init__(self, model: Model, x: Tensor, y: Tensor | None, settings: Annealing, block: int | None) -> None:
        place = getattr(model.prior, "space", "")
        if place:
            raise UserError(
                f"annealing follows gradients through all of R^d, and the z of this model are {place}. Use the "
                "importance bound for it."
            )
        self.model, self.x, self.batch = model, x, x.shape[0]
        self.from_prior = settings.start == "prior"
        self.base = self._base(x, y)
        numbers = BLOCK_NUMBERS.get(x.device.type, MOST_NUMBERS)
        rows = block or numbers // math.prod(model.decoder.out_shape)
        self.size = max(1, rows // settings.chains)
        labels: Sequence[Tensor | None] = [None] * math.ceil(self.batch / self.size)
        if y is not None:
            labels = torch.split(y, self.size)
        pieces = zip(torch.split(x, self.size), labels, strict=True)
        self.parts = [_Part(part, label, model.prior(label), self._base(part, label)) for part, label in pieces]

    def begin(self, chains: int, noise: _Noise) -> Float[Tensor, "chains batch ..."]:
        """Draw from b."""
        return noise.draws(self.base, (chains,) if self.base.batch_shape else (chains, self.batch))

    def __call__(self, z: Float[Tensor, "chains batch ..."]) -> _Point:
        """Return what the densities and their gradients are at z."""
        found = [self._look(part, piece) for part, piece in zip(self.parts, torch.split(z, self.size, 1), strict=True)]
        return found[0] if len(found) == 1 else _Point(*[torch.cat(column, 1) for column in zip(*found, strict=True)])

    def _look(self, part: _Part, z: Tensor) -> _Point:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_base = part.base.log_prob(z)
            observation = _dense(self.model.decode(z, part.y))
            log_ratio = observation.log_prob(part.x)
            if not log_ratio.requires_grad:
                raise UserError(
                    "annealing needs the gradient of log p(x | z) in z, and the decoder gives none. Use a decoder of "
                    "differentiable operations, without detach or rounding."
                )
            if not self.from_prior:
                log_ratio = log_ratio + part.prior.log_prob(z) - log_base
            (ratio_slope,) = torch.autograd.grad(log_ratio.sum(), z, retain_graph=True)
            (base_slope,) = torch.autograd.grad(log_base.sum(), z)
        return _Point(z.detach(), log_base.detach(), log_ratio.detach(), ratio_slope=ratio_slope, base_slope=base_slope)

    def _base(self, x: Tensor, y: Tensor | None) -> Distribution:
        prior = _dense(self.model.prior(y))
        return prior if self.from_prior else _dense(self.model.posterior(x, y))


class _Run(NamedTuple):
    """Forward chains of one class, and the step sizes that they took, (temperatures - 1, batch)."""

    chains: Chains
    steps: Tensor


def _forwards(
    model: Model, x: Tensor, settings: Annealing, seed: int, block: int | None, tick: Tick | None
) -> list[_Run]:
    """Return the forward chains of every class that the decoder sees, or of no class in particular."""
    labels: list[Tensor | None] = [None]
    if model.decoder.sees_label:
        labels = [*every_class(model, x)]
    betas, runs = sigmoid_schedule(settings.temperatures), []
    for number, y in enumerate(labels):
        path = _Path(model, x, y, settings, block)
        steps = _tuned(path, settings, seed_for(STREAM, seed, 0, number), tick)
        noise = _Noise(x.device, seed_for(STREAM, seed, 1, number))
        chains = _anneal(path, path.begin(settings.chains, noise), betas, steps, settings.leapfrogs, noise, tick)
        runs.append(_Run(chains, steps))
    return runs


def _joint(model: Model, runs: list[_Run]) -> Float64[Tensor, "chains batch classes"]:
    """Return log p(y) + log w_y of every chain."""
    weights = torch.stack([run.chains.log_weights for run in runs], -1)
    return weights if len(runs) == 1 else weights + log_class_weights(model).double()


def _summed(model: Model, runs: list[_Run]) -> Chains:
    """Return the chains with sum_y p(y) w_y as their weight."""
    acceptance = torch.stack([run.chains.acceptance for run in runs]).mean(0)
    return Chains(_joint(model, runs).logsumexp(-1), acceptance)


def _tuned(path: _Path, settings: Annealing, seed: int, tick: Tick | None) -> Float[Tensor, "transitions batch"]:
    """Return the step size of each example at beta_1 ... beta_{T-1}, from chains that are then thrown away.

    After every step, log size += gain (acceptance - 0.65), acceptance being the mean over chains; what the sizes are
    between the temperatures of the burn-in is interpolated.
    """
    places = torch.arange(1, settings.temperatures, dtype=torch.float64) / settings.temperatures
    log_step = torch.full((path.batch,), math.log(FIRST_STEP), device=path.x.device)
    if not len(places):
        return log_step.expand(0, -1)
    count = min(settings.burn_in, len(places))
    stops = torch.linspace(float(places[0]), float(places[-1]), count, dtype=torch.float64)
    noise = _Noise(path.x.device, seed)
    point = path(path.begin(settings.chains, noise))
    found = []
    for beta in _beta(torch.cat([stops[:1].expand(SETTLING), stops])).tolist():
        point, accepted = _hamiltonian(path, point, beta, log_step.exp(), settings.leapfrogs, noise)
        log_step = (log_step + GAIN * (accepted.mean(0) - TARGET).float()).clamp(*LOG_STEP_BOUNDS)
        found.append(log_step)
        if tick is not None:
            tick()
    table = torch.stack(found[SETTLING:])
    index = (places - stops[0]) / max(float(stops[-1] - stops[0]), 1e-12) * (count - 1)
    low = index.floor().clamp(0, max(0, count - 2)).long()
    share = (index - low).to(table).unsqueeze(-1)
    return torch.lerp(table[low], table[(low + 1).clamp(max=count - 1)], share).exp()


def _anneal(
    path: _Path,
    z: Tensor,
    betas: Float64[Tensor, " temperatures"],
    steps: Float[Tensor, "transitions batch"],
    leapfrogs: int,
    noise: _Noise,
    tick: Tick | None,
) -> Chains:
    """Move chains from z, drawn at the first beta, to the last; return log of an estimate of their constants' ratio.

    Going up from 0 to 1 that is p(x), going down 1 / p(x): the sum over all steps of
    (next beta - beta) log r(z), each taken before the chains move on at the next beta.
    """
    point = path(z)
    total = torch.zeros_like(point.log_ratio, dtype=torch.float64)
    rate = torch.zeros_like(total[0])
    ladder = betas.tolist()
    for number, (beta, following) in enumerate(itertools.pairwise(ladder)):
        total += (following - beta) * point.log_ratio.double()
        if number < len(steps):
            point, accepted = _hamiltonian(path, point, following, steps[number], leapfrogs, noise)
            rate += accepted.mean(0)
        if tick is not None:
            tick()
    return Chains(total, rate / len(steps) if len(steps) else torch.full_like(rate, torch.nan))


def _hamiltonian(
    path: _Path, point: _Point, beta: float, step: Float[Tensor, " batch"], leapfrogs: int, noise: _Noise
) -> tuple[_Point, Float64[Tensor, "chains batch"]]:
    """Return the chains after one step that leaves the density at ``beta`` as it is, and how likely each was accepted.

    With momentum v from N(0, I): ``leapfrogs`` times v += step/2 slope, z += step v, v += step/2 slope; accepted with
    probability min(1, exp(change of log density - change of |v|^2 / 2)). What is not a number is not accepted.
    """
    wide = step.reshape(-1, *[1] * (point.z.ndim - 2)).to(point.z)
    momentum = noise.normal(point.z)
    before = point.log_density(beta) - _kinetic(momentum)
    new = point
    for _ in range(leapfrogs):
        momentum = momentum + 0.5 * wide * new.slope(beta)
        new = path(new.z + wide * momentum)
        momentum = momentum + 0.5 * wide * new.slope(beta)
    change = new.log_density(beta) - _kinetic(momentum) - before
    probability = change.double().exp().clamp(max=1).nan_to_num(0.0)
    return point.moved(new, noise.uniform(probability) < probability), probability


def _kinetic(momentum: Float[Tensor, "chains batch ..."]) -> Float[Tensor, "chains batch"]:
    return 0.5 * momentum.square().flatten(2).sum(-1)


def _beta(place: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Return beta at a place of the path, both from 0 to 1."""
    end = torch.tensor(STEEPNESS, dtype=torch.float64).sigmoid()
    return (torch.sigmoid(STEEPNESS * (2 * place - 1)) - (1 - end)) / (2 * end - 1)


def _dense(distribution: Distribution) -> Distribution:
    """Return a distribution that a path may begin at; refuse one without a density.

    Raises:
        UserError: it is a point mass.
    """
    if not has_density(distribution):
        raise UserError(
            f"annealing needs the densities p(z) and p(x | z), and where it starts; {type(distribution).__name__}, a "
            "part of this model, has none. Use parts with a density, such as StandardNormal and Gaussian."
        )
    if getattr(distribution, "estimated", False):
        raise UserError(
            f"annealing needs the density of the prior itself; {type(distribution).__name__}, a part of this model, "
            "has an estimate of it. Use the importance bound."
        )
    return distribution
