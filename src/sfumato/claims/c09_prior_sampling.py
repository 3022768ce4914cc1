"""Claim 9: p(x) cannot be had by sampling the prior; the posterior makes it possible."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from sfumato.claims.bench import Bench
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, legend, panels, points, quiet
from sfumato.claims.statistics import mean_interval
from sfumato.core.gaussians import independent_normal
from sfumato.core.numerics import fixed_noise, logmeanexp, seed_for
from sfumato.evaluation import importance_bound

COUNTS = (1, 10, 100, 1_000)
IMAGES = 40
TRUTH = 5_000
DATA_DIM = 50
NOISE = 0.3
SLACK = 1.3
EXACT, TRAINED = "linear-Gaussian", "trained VAE"


def measure(bench: Bench) -> Measurement:
    """Estimate log p(x) both ways, where it is known and for a trained model."""
    return {EXACT: _exact(bench), TRAINED: _trained(bench)}


def _exact(bench: Bench) -> dict[str, object]:
    """x = W z + noise: log p(x) is a normal's. The proposal is the exact posterior made wider by a factor SLACK."""
    latent = bench.setting.latent_dim
    with fixed_noise(seed_for(9, bench.seed)):
        weight = torch.randn(DATA_DIM, latent, dtype=torch.float64)
        x = torch.randn(IMAGES, latent, dtype=torch.float64) @ weight.T
        x = x + NOISE * torch.randn(IMAGES, DATA_DIM, dtype=torch.float64)
        covariance = weight @ weight.T + NOISE**2 * torch.eye(DATA_DIM, dtype=torch.float64)
        normal: Distribution = MultivariateNormal(torch.zeros(DATA_DIM, dtype=torch.float64), covariance)
        truth: Tensor = normal.log_prob(x)
        precision = torch.eye(latent, dtype=torch.float64) + weight.T @ weight / NOISE**2
        spread = torch.linalg.inv(precision)
        mean = x @ weight @ spread / NOISE**2
        proposal: Distribution = MultivariateNormal(mean, SLACK**2 * spread)
        shape = (max(COUNTS), IMAGES, latent)
        prior: Distribution = independent_normal(
            torch.zeros(latent, dtype=torch.float64), torch.zeros(latent, dtype=torch.float64)
        )

        def log_likelihood(z: Tensor) -> Tensor:
            centre = z @ weight.T
            observation: Distribution = independent_normal(centre, torch.full_like(centre, 2 * math.log(NOISE)))
            return observation.log_prob(x)

        from_prior = log_likelihood(torch.randn(shape, dtype=torch.float64))
        z = proposal.sample((max(COUNTS),))
        from_posterior = log_likelihood(z) + prior.log_prob(z) - proposal.log_prob(z)
    return _compare(from_prior, from_posterior, truth)


@torch.no_grad()
def _trained(bench: Bench) -> dict[str, object]:
    """Real images; the truth is the importance bound with 5,000 draws of its own."""
    model, x = bench.standard().model, bench.test[:IMAGES]
    truth = importance_bound(model, x, samples=TRUTH, seed=seed_for(1, bench.seed))
    from_prior, from_posterior = [], []
    posterior, prior = model.encode(x), model.prior()
    with fixed_noise(seed_for(10, bench.seed)):
        for _ in range(max(COUNTS) // COUNTS[1]):
            z = torch.randn(COUNTS[1], len(x), bench.setting.latent_dim)
            from_prior.append(model.decode(z).log_prob(x))
            z = posterior.sample((COUNTS[1],))
            from_posterior.append(model.decode(z).log_prob(x) + prior.log_prob(z) - posterior.log_prob(z))
    return _compare(torch.cat(from_prior).double(), torch.cat(from_posterior).double(), truth)


def _compare(from_prior: Tensor, from_posterior: Tensor, truth: Tensor) -> dict[str, object]:
    """Return, for each number of draws, the mean distance of the estimate of log p(x) below the truth, nats."""
    found: dict[str, object] = {}
    for name, logs in (("prior", from_prior), ("posterior", from_posterior)):
        below, spread = [], []
        for count in COUNTS:
            groups = logs[: len(logs) // count * count].reshape(-1, count, logs.shape[1])[:100]
            estimates = logmeanexp(groups, 1)
            below.append(float((truth - estimates).mean()))
            spread.append(float((estimates - truth).square().mean().sqrt()))
        found |= {f"below the truth, {name}": below, f"error, {name}": spread}
        found[f"log10 variance, {name}"] = float(log_relative_variance(logs).mean() / math.log(10))
    return found


def log_relative_variance(logs: Tensor) -> Tensor:
    """Return log(1 + Var(w) / E(w)^2) of the weights w, nats, from their logarithms (draws, images): log N / ESS."""
    return logmeanexp(2 * logs) - 2 * logmeanexp(logs)


def conclude(seeds: Seeds) -> Result:
    """How far off is each after a thousand draws?"""
    last = COUNTS.index(1_000)
    prior = {arm: mean_interval(seeds(arm, "below the truth, prior")[:, last]) for arm in (EXACT, TRAINED)}
    posterior = {arm: mean_interval(seeds(arm, "error, posterior")[:, last]) for arm in (EXACT, TRAINED)}
    fails = all(interval.above(10) for interval in prior.values())
    works = all(interval.below(1) for interval in posterior.values())
    verdict = decide(fails and works, posterior[EXACT].below(1) and prior[TRAINED].above(10))
    single = mean_interval(seeds(TRAINED, "error, posterior")[:, 0])
    sentence = Words(
        f"After 1,000 draws from the prior the estimate of log p(x) is too low by {prior[EXACT].text('.0f')} nats in "
        "the "
        f"linear-Gaussian model, where the truth is known, and by {prior[TRAINED].text('.0f')} nats in the trained "
        "VAE; weighted draws "
        f"from the posterior err by {posterior[EXACT].text('.3f')} and {posterior[TRAINED].text('.2f')} nats (root "
        "mean square), a "
        f"single one by {single.value:.1f}. The truth of the VAE is its importance bound with 5,000 draws.",
        f"从先验抽取 1,000 次后，log p(x) 的估计在真值已知的线性高斯模型中偏低 {prior[EXACT].text('.0f')} nat，"
        "在训练好的 VAE 中偏低 "
        f"{prior[TRAINED].text('.0f')} nat；用后验加权抽样的误差（均方根）分别为 {posterior[EXACT].text('.3f')} 和 "
        f"{posterior[TRAINED].text('.2f')} nat，只抽一次时为 {single.value:.1f} nat。VAE 的“真值”取 5,000 "
        "次抽样的重要性下界。",
    )
    effects = [
        Effect(Words(f"too low, prior, 1,000 draws, {arm}", f"先验 1,000 次抽样的偏低，{arm}"), prior[arm], "nats")
        for arm in prior
    ]
    effects += [
        Effect(
            Words(f"error, posterior, 1,000 draws, {arm}", f"后验 1,000 次抽样的误差，{arm}"), posterior[arm], "nats"
        )
        for arm in posterior
    ]
    return Result(verdict, sentence, tuple(effects))


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw how far the estimates are below the truth over the number of draws."""
    left, right = panels(figure, 2)
    for ax, arm, title in (
        (left, EXACT, "Linear-Gaussian model: the truth is known"),
        (right, TRAINED, "Trained VAE, real images: truth by 5,000 draws"),
    ):
        for name, colour in (("prior", ORANGE), ("posterior", BLUE)):
            points(ax, COUNTS, seeds(arm, f"error, {name}"), f"z from the {name}", colour)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.axhline(1, color=GREY, linestyle="--", linewidth=1)
        legend(quiet(ax, title, "draws of z for each x", "error of log p(x), nats (log scale)"))


CLAIM = Claim(
    number=9,
    name="prior-sampling",
    statements=("S4", "S5"),
    title=Words("The sum over z needs the posterior", "对 z 求和需要后验"),
    statement=Words(
        "p(x) = sum over z of p(x|z) p(z) is true and cannot be had by drawing z from the prior, for almost no z fits "
        "a given x; "
        "with z from x's own posterior it can.",
        "p(x) = Σ_z p(x|z) p(z) 成立，但不能靠从先验抽取 z 来计算，因为几乎没有 z 适合给定的 x；从 x 自己的后验抽取 z "
        "就可以。",
    ),
    formula="p(x) = E_{p(z)}[p(x|z)] = E_{q(z|x)}[p(x|z) p(z) / q(z|x)]",
    criterion=Words(
        "Holds if, after 1,000 draws, the prior's estimate is more than 10 nats below the truth and the posterior's "
        "error (root "
        "mean square over images) is below 1 nat, both by their 95 % intervals, in a linear-Gaussian model with known "
        "evidence "
        "(proposal: the exact posterior, 1.3 times as wide) and in the trained VAE (truth: the importance bound with "
        "5,000 "
        "other draws). With a condition if the posterior is so good only in the linear-Gaussian model.",
        "成立：抽取 1,000 次后，先验的估计比真值低 10 nat 以上，而后验的误差（对图像的均方根）小于 1 nat，均以 95 % "
        "区间为准；"
        "既在证据已知的线性高斯模型中（提议分布为精确后验放宽 1.3 倍），也在训练好的 VAE 中（真值取另外 5,000 "
        "次抽样的重要性下界）。"
        "有条件成立：后验只在线性高斯模型中这么好。",
    ),
    units={
        "below the truth, prior": "nats",
        "below the truth, posterior": "nats",
        "error, prior": "nats",
        "error, posterior": "nats",
        "log10 variance, prior": "1",
        "log10 variance, posterior": "1",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
