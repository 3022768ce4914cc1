"""Claim 3: the KL term makes the aggregate posterior N(0, I), which is why one may generate from N(0, I)."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, PURPLE, bars, legend, panels, quiet
from sfumato.claims.measures import decoded, draws, frechet, posterior_of, prior_samples
from sfumato.claims.statistics import mean_interval
from sfumato.evaluation.aggregate import aggregate_posterior

POINTS = 500


def measure(bench: Bench) -> Measurement:
    """Look at all training posteriors together, with and without the KL term."""
    return {"VAE": _about(bench, bench.standard()), "without KL": _about(bench, bench.without_kl())}


def _about(bench: Bench, trained: Trained) -> dict[str, object]:
    model, count = trained.model, len(bench.test)
    means, variances = posterior_of(model, bench.material.training_images)
    found = aggregate_posterior(means, variances.log(), model.prior(), points=POINTS, seed=bench.seed)
    centre, spread = means.mean(0), variances.mean(0) + means.var(0)
    covariance = means.double().T.cov() + torch.diag(variances.double().mean(0))
    scale = covariance.diagonal().sqrt()
    correlation = covariance / scale.outer(scale) - torch.eye(len(scale))
    rows = torch.randperm(len(means), generator=torch.Generator().manual_seed(bench.seed))[:count]
    of_posterior = decoded(model, draws(means[rows], variances[rows], bench.seed))
    fitted = centre + _noise(count, covariance, bench.seed).float()
    return {
        "rate": found.rate.value,
        "KL of the aggregate": found.marginal_kl.value,
        "information": found.mutual_information.value,
        "information above": found.mutual_information_above.value,
        "mean of z": centre.tolist(),
        "variance of z": spread.tolist(),
        "largest correlation": float(correlation.abs().max()),
        "log of the number of posteriors": math.log(len(means)),
        "Fréchet, z from N(0, I)": frechet(bench, prior_samples(model, count, bench.seed)),
        "Fréchet, z from a normal fitted to q(z)": frechet(bench, decoded(model, fitted)),
        "Fréchet, z from q(z)": frechet(bench, of_posterior),
    }


def _noise(count: int, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(covariance), generator=generator, dtype=torch.float64)
    drawn: torch.Tensor = noise @ torch.linalg.cholesky(covariance).T
    return drawn


def conclude(seeds: Seeds) -> Result:
    """How near are the moments, how many nats, what do samples lose?"""
    mean = mean_interval(np.abs(seeds("VAE", "mean of z")).max(1))
    lowest = mean_interval(seeds("VAE", "variance of z").min(1))
    highest = mean_interval(seeds("VAE", "variance of z").max(1))
    correlation = mean_interval(seeds("VAE", "largest correlation"))
    distance = mean_interval(seeds("VAE", "KL of the aggregate"))
    least = mean_interval(seeds("VAE", "rate") - seeds("VAE", "information above"))
    rate = mean_interval(seeds("VAE", "rate"))
    needed = mean_interval(seeds("VAE", "rate") - seeds("VAE", "log of the number of posteriors"))
    centre, variance = seeds("VAE", "mean of z"), seeds("VAE", "variance of z")
    unfinished = mean_interval(0.5 * (variance + centre**2 - 1 - np.log(variance)).sum(1))
    of_prior, of_posterior = seeds("VAE", "Fréchet, z from N(0, I)"), seeds("VAE", "Fréchet, z from q(z)")
    loss = mean_interval(of_prior / of_posterior)
    gain = mean_interval(np.log10(seeds("without KL", "Fréchet, z from N(0, I)") / of_prior))
    moments = mean.below(0.2) and lowest.above(0.7) and highest.below(1.4) and correlation.below(0.3)
    near = distance.below(0.5) and loss.below(1.1)
    verdict = decide(moments and near, gain.above(0) and moments)
    sentence = Words(
        f"The moments of q(z): no mean farther from 0 than {mean.text('.2f')}, variances from {lowest.text('.2f')} to "
        f"{highest.text('.2f')}, no correlation above {correlation.text('.2f')}. Means and variances "
        f"alone are {unfinished.text('.2f')} nats from 0 and 1. At the end of all training they would be there "
        "exactly, for z can be shifted and stretched without changing a reconstruction; as long as reconstructions "
        "still improve, gradients hardly do so. KL(q(z) || N(0, I)) is "
        f"{distance.text('.1f')} nats of a rate of {rate.value:.1f} for the posteriors of the training set; "
        f"{max(0.0, needed.value):.1f} of them no encoder of that rate can avoid (rate - log N: N posteriors cannot "
        f"carry more than log N of information), and for the population it is between {max(0.0, least.value):.1f} and "
        "that. Pictures of z from N(0, I) are "
        f"{loss.text('.2f')} times as far from the data as pictures of z from q(z), and "
        f"{10**gain.value:.1f} times nearer than without the KL term.",
        f"q(z) 的矩：各维均值离 0 最远 {mean.text('.2f')}，方差在 {lowest.text('.2f')} 到 {highest.text('.2f')} 之间，"
        "相关系数最大 "
        f"{correlation.text('.2f')}。仅就均值与方差而言，离 0 和 1 还差 {unfinished.text('.2f')} nat："
        "平移和伸缩 z 可以由解码器第一层抵消而不改变重构，所以训练到底时它们应恰为 0 和 1；但只要重构仍在改进，"
        "梯度就几乎不去做这件事。"
        f"对训练集的后验而言 KL(q(z) ‖ N(0, I)) 为 {distance.text('.1f')} nat（码率 {rate.value:.1f}），其中 "
        f"{max(0.0, needed.value):.1f} 是这样的码率无法避免的（码率 − log N：N 个后验携带的信息不超过 log N）；"
        f"对总体而言介于 {max(0.0, least.value):.1f} 与该值之间。z 取自 N(0, I) 的图像与数据的距离是 z 取自 q(z) 时的 "
        f"{loss.text('.2f')} 倍，是没有 KL 时的 1/{10**gain.value:.1f}。",
    )
    effects = (
        Effect(Words("largest |mean| of a dimension of q(z)", "q(z) 各维 |均值| 的最大值"), mean, "1"),
        Effect(Words("smallest variance", "最小方差"), lowest, "1"),
        Effect(Words("largest variance", "最大方差"), highest, "1"),
        Effect(Words("largest correlation", "最大相关系数"), correlation, "1"),
        Effect(Words("nats in means and variances", "均值与方差所差的 nat"), unfinished, "nats"),
        Effect(Words("KL(q(z) || p(z)), training posteriors", "KL(q(z) ‖ p(z))，训练集后验"), distance, "nats"),
        Effect(Words("rate - log N: the least that it can be", "码率 − log N：它的最小可能值"), needed, "nats"),
        Effect(Words("the same from below, population", "总体的下界"), least, "nats"),
        Effect(Words("Fréchet: z from N(0, I) over z from q(z)", "Fréchet 比：N(0, I) 对 q(z)"), loss, "1"),
        Effect(Words("log10 of Fréchet without KL over with", "Fréchet 比（无 KL 对有 KL）的 log10"), gain, "1"),
    )
    return Result(verdict, sentence, effects)


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the moments, where the rate goes, and what samples lose."""
    left, middle, right = panels(figure, 3, (1.1, 0.8, 1.2))
    dims = seeds("VAE", "variance of z").shape[1]
    for name, quantity, colour in (("variance", "variance of z", BLUE), ("mean", "mean of z", ORANGE)):
        values = np.sort(seeds("VAE", quantity), axis=1)
        left.plot(np.arange(1, dims + 1), values.T, color=colour, alpha=0.6, linewidth=1)
        left.plot([], [], color=colour, label=name)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    for level in (0, 1):
        left.axhline(level, color=GREY, linewidth=1, linestyle="--")
    legend(quiet(left, "Moments of q(z), a line a seed", "latent dimension, sorted", "mean and variance of z"))
    information, distance = seeds("VAE", "information"), seeds("VAE", "KL of the aggregate")
    bars(middle, {"I_q(x; z)": information, "KL(q(z) ‖ p(z))": distance}, (PURPLE, BLUE))
    quiet(middle, "Where the rate goes", "", "nats")
    names = {"N(0, I)": "N(0, I)", "fitted\nnormal": "a normal fitted to q(z)", "q(z)": "q(z)"}
    groups = {short: seeds("VAE", f"Fréchet, z from {long}") for short, long in names.items()}
    groups["N(0, I)\nwithout KL"] = seeds("without KL", "Fréchet, z from N(0, I)")
    bars(right, groups, (BLUE, PURPLE, GREY, ORANGE))
    right.set_yscale("log")
    quiet(right, "Pictures of z drawn from ...", "", "Fréchet distance to test images (log scale)")


CLAIM = Claim(
    number=3,
    name="aggregate",
    statements=("S10",),
    title=Words("The KL term makes the aggregate posterior N(0, I)", "KL 项使聚合后验成为 N(0, I)"),
    statement=Words(
        "If all p(z|x) are pulled to N(0, I), their mixture q(z) is N(0, I), and one may generate from N(0, I).",
        "若所有 p(z|x) 都被拉向 N(0, I)，它们的混合 q(z) 就是 N(0, I)，于是可以从 N(0, I) 生成。",
    ),
    formula="q(z) = 1/N sum_k q(z|x_k);  E KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z))",
    criterion=Words(
        "Holds if the intervals say: every mean within 0.2 of 0, every variance from 0.7 to 1.4, no correlation above "
        "0.3; "
        "KL(q(z) || N(0, I)) below 0.5 nats; pictures of z from N(0, I) less than 10 % farther from the data than of z "
        "from "
        "q(z). With a condition if the moments are so and the samples nearer to the data than without the KL term.",
        "成立：区间表明各维均值离 0 不超过 0.2，方差在 0.7 到 1.4 之间，相关系数不超过 0.3；KL(q(z) ‖ N(0, I)) 小于 "
        "0.5 nat；"
        "z 取自 N(0, I) 的图像离数据的距离比 z 取自 q(z) 时大不到 10 %。有条件成立：矩满足上述要求，且采样比没有 KL "
        "时更接近数据。",
    ),
    units={
        "rate": "nats",
        "KL of the aggregate": "nats",
        "information": "nats",
        "information above": "nats",
        "mean of z": "1",
        "variance of z": "1",
        "largest correlation": "1",
        "log of the number of posteriors": "nats",
        "Fréchet, z from N(0, I)": "1",
        "Fréchet, z from a normal fitted to q(z)": "1",
        "Fréchet, z from q(z)": "1",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
