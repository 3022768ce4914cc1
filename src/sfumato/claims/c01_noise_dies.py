"""Claim 1: without the KL term the noise dies, an autoencoder is left, and samples from N(0, I) are poor."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, band, bars, legend, panels, quiet
from sfumato.claims.measures import frechet, posterior_of, prior_samples, reconstruction_error
from sfumato.claims.statistics import mean_interval, paired

DEAD = 0.01
FACTOR = 0.5
SHARE = 0.05


def measure(bench: Bench) -> Measurement:
    """Train with and without the KL term, and an autoencoder."""
    arms = {"VAE": bench.standard(), "without KL": bench.without_kl(), "autoencoder": bench.autoencoder()}
    return {name: _about(bench, trained) for name, trained in arms.items()}


def _about(bench: Bench, trained: Trained) -> dict[str, object]:
    model, x = trained.model, bench.test
    means, variances = posterior_of(model, x)
    share = variances.mean(0) / (variances.mean(0) + means.var(0))
    found: dict[str, object] = {
        "posterior variance": float(variances.mean()),
        "share of noise": float(share.mean()),
        "error at the mean": reconstruction_error(model, x, noise=False),
        "error at a draw": reconstruction_error(model, x, noise=True, seed=bench.seed),
        "Fréchet distance": frechet(bench, prior_samples(model, len(x), bench.seed)),
    }
    if "sigma" in trained.curve[0]:
        found |= {"step": trained.series("step"), "sigma": trained.series("sigma")}
    return found


def conclude(seeds: Seeds) -> Result:
    """Is the variance gone, is the error the autoencoder's, are the samples worse?"""
    variance = mean_interval(seeds("without KL", "posterior variance"))
    share = mean_interval(seeds("without KL", "share of noise"))
    sigma = np.log(seeds("without KL", "sigma"))
    third = max(1, sigma.shape[1] // 3)
    fall = paired(sigma[:, -third:].mean(1), sigma[:, -2 * third : -third].mean(1))
    price = mean_interval(100 * (seeds("without KL", "error at a draw") / seeds("without KL", "error at the mean") - 1))
    like = mean_interval(
        100 * (seeds("without KL", "error at the mean") / seeds("autoencoder", "error at the mean") - 1)
    )
    worse = paired(seeds("without KL", "Fréchet distance"), seeds("VAE", "Fréchet distance"))
    against = paired(np.log10(seeds("without KL", "posterior variance")), np.log10(seeds("VAE", "posterior variance")))
    dead = variance.below(DEAD) and against.below(-FACTOR)
    falling = fall.below(0)
    autoencoder = price.below(100 * SHARE) and like.inside(-10, 10)
    poor = worse.above(0)
    verdict = decide(dead and falling and autoencoder and poor, share.below(SHARE) and price.below(10) and poor)
    sentence = Words(
        f"Without the KL term the mean posterior variance is {variance.text('.1e')} (the prior's is 1, the VAE's "
        f"{seeds('VAE', 'posterior variance').mean():.1e})"
        f"{' and still falling' if falling else ''}; {share.value:.1e} of the code's variance is noise, which costs "
        f"{price.text('.2f')} % of the reconstruction error. The error differs from an autoencoder's by "
        f"{like.text('.1f')} %, and samples from N(0, I) are {worse.text('.0f')} farther from the data (Fréchet, "
        "judge's "
        f"features) than the VAE's.",
        f"去掉 KL 后，平均后验方差为 {variance.text('.1e')}（先验为 1，VAE 为 "
        f"{seeds('VAE', 'posterior variance').mean():.1e}）{'，且仍在下降' if falling else ''}；"
        f"噪声只占编码散布的 {share.value:.1e}，使重构误差增加 {price.text('.2f')} %。与自编码器的误差相差 "
        f"{like.text('.1f')} %；"
        f"从 N(0, I) 采样的图像与数据的距离（Fréchet，判别器特征）比 VAE 大 {worse.text('.0f')}。",
    )
    effects = (
        Effect(Words("posterior variance without KL", "无 KL 时的后验方差"), variance, "1"),
        Effect(Words("log10 of the variance, without KL less with", "方差的 log10：无 KL 减有 KL"), against, "1"),
        Effect(Words("share of noise in the code", "编码中噪声的比例"), share, "1"),
        Effect(
            Words("mean log sigma, last third less middle third", "log σ 的平均：最后三分之一减中间三分之一"), fall, "1"
        ),
        Effect(Words("error added by the noise", "噪声增加的误差"), price, "%"),
        Effect(Words("error against the autoencoder's", "与自编码器误差之差"), like, "%"),
        Effect(Words("Fréchet distance of samples against the VAE's", "采样的 Fréchet 距离与 VAE 之差"), worse, "1"),
    )
    return Result(verdict, sentence, effects)


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw sigma over training, the price of the noise, and the samples' distance."""
    left, middle, right = panels(figure, 3)
    for arm, colour in (("VAE", BLUE), ("without KL", ORANGE)):
        band(left, seeds(arm, "step")[0], seeds(arm, "sigma"), arm, colour)
    left.set_yscale("log")
    legend(quiet(left, "The noise in training", "step", "posterior standard deviation (log scale)"))
    colours = (BLUE, ORANGE, GREY)
    bars(middle, {arm: 1e3 * seeds(arm, "error at a draw") for arm in seeds.arms}, colours)
    quiet(middle, "Reconstruction from a draw of z", "", "squared error, 10⁻³ of the grey range²")
    bars(right, {arm: seeds(arm, "Fréchet distance") for arm in seeds.arms}, colours)
    right.set_yscale("log")
    quiet(right, "Samples from N(0, I)", "", "Fréchet distance to test images (log scale)")


CLAIM = Claim(
    number=1,
    name="noise-dies",
    statements=("S7", "S9", "S13"),
    title=Words("Without the KL term the noise dies", "没有 KL 项，噪声就会消失"),
    statement=Words(
        "If only the reconstruction error is minimised, the posterior variance goes to 0, the VAE becomes an ordinary "
        "autoencoder, and decoded draws from N(0, I) are poor.",
        "如果只最小化重构误差，后验方差趋于 0，VAE 变成普通自编码器，从 N(0, I) 采样解码的结果很差。",
    ),
    formula="loss = -E_q[log p(x|z)]  =>  sigma^2 -> 0",
    criterion=Words(
        "Holds if, over seeds, the 95 % intervals say: mean posterior variance below 0.01, its log10 at least 0.5 "
        "below the VAE's, and log sigma on average lower in the last third of the training than in the middle third; "
        "drawing z instead of its mean adds less than 5 % to the error; the error is within 10 % of an "
        "autoencoder's; samples are farther from the data than the VAE's. With a condition if the noise dies only "
        "relative "
        "to the code's spread (share of noise below 5 %, added error below 10 %, samples worse).",
        "成立：各随机种子的 95 % 区间表明平均后验方差小于 0.01、其 log10 比 VAE 低至少 0.5，且 log σ "
        "在训练最后三分之一的平均低于中间三分之一；"
        "用采样代替均值使误差增加不到 5 %；"
        "误差与自编码器相差 10 % 以内；采样比 VAE 离数据更远。有条件成立：噪声只是相对于编码的散布消失"
        "（噪声比例小于 5 %，误差增加小于 10 %，采样更差）。",
    ),
    units={
        "posterior variance": "1",
        "share of noise": "1",
        "error at the mean": "grey range squared",
        "error at a draw": "grey range squared",
        "Fréchet distance": "1",
        "step": "steps",
        "sigma": "1",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
