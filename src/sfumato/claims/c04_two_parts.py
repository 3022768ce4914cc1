"""Claim 4: the two parts of the KL do different work."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, PURPLE, bars, panels, quiet
from sfumato.claims.measures import evidence, frechet, posterior_of, prior_samples
from sfumato.claims.statistics import mean_interval, paired
from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, reported

BOTH, ONLY_MU, ONLY_SIGMA = "both", "L_mu alone", "L_sigma alone"


class Parts(Objective):
    """loss = -E_q[log p(x | z)] + a L_mu + b L_sigma, (batch,), nats.

    Args:
        mean_weight: a.
        variance_weight: b.
    """

    def __init__(self, mean_weight: float, variance_weight: float) -> None:
        super().__init__()
        self.mean_weight, self.variance_weight = mean_weight, variance_weight

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference."""
        assert terms.kl_parts is not None
        l_mu, l_sigma = terms.kl_parts
        loss = -terms.log_likelihood.mean(0) + self.mean_weight * l_mu + self.variance_weight * l_sigma
        return ObjectiveOutput({"model": loss}, reported(terms, kl_of(terms)))


def measure(bench: Bench) -> Measurement:
    """Train with both parts, and with either."""
    arms = {
        BOTH: bench.standard(),
        ONLY_MU: bench.train(ONLY_MU, bench.vae, Parts(1, 0)),
        ONLY_SIGMA: bench.train(ONLY_SIGMA, bench.vae, Parts(0, 1)),
    }
    return {name: _about(bench, trained) for name, trained in arms.items()}


def _about(bench: Bench, trained: Trained) -> dict[str, float]:
    model, x = trained.model, bench.test
    means, variances = posterior_of(model, x)
    return {
        "variance of the means": float(means.var(0).mean()),
        "mean of the variances": float(variances.mean()),
        "log10 of the spread": float(torch.log10(means.var(0).mean())),
        "log10 of the noise": float(torch.log10(variances.mean())),
        "evidence": evidence(model, bench.evidence_images, bench.setting.samples, bench.seed),
        "Fréchet distance": frechet(bench, prior_samples(model, len(x), bench.seed)),
    }


def conclude(seeds: Seeds) -> Result:
    """Does each part hold what it is for, and is either alone too little?"""
    spread = mean_interval(10 ** (seeds(ONLY_SIGMA, "log10 of the spread") - seeds(BOTH, "log10 of the spread")))
    more = paired(seeds(ONLY_SIGMA, "log10 of the spread"), seeds(BOTH, "log10 of the spread"))
    less = paired(seeds(ONLY_MU, "log10 of the noise"), seeds(BOTH, "log10 of the noise"))
    kept = mean_interval(seeds(ONLY_MU, "variance of the means"))
    noise = mean_interval(seeds(ONLY_SIGMA, "mean of the variances"))
    worse_mu = paired(seeds(ONLY_MU, "Fréchet distance"), seeds(BOTH, "Fréchet distance"))
    worse_sigma = paired(seeds(ONLY_SIGMA, "Fréchet distance"), seeds(BOTH, "Fréchet distance"))
    work = more.above(0.3) and less.below(-0.3)
    needed = worse_mu.above(0) and worse_sigma.above(0)
    verdict = decide(work and needed, work or needed)
    sentence = Words(
        f"Without L_mu the variance of the means is {spread.text('.1f')} times as large while the noise stays at "
        f"{noise.text('.2f')}; without L_sigma the noise is {10**less.value:.3f} times as large while the means keep a "
        "variance "
        f"of {kept.text('.2f')}. Samples from N(0, I) are farther from the data without L_mu by "
        f"{worse_sigma.text('+.0f')} and "
        f"without L_sigma by {worse_mu.text('+.0f')} (Fréchet).",
        f"去掉 L_μ，均值的方差变为 {spread.text('.1f')} 倍，而噪声保持 {noise.text('.2f')}；去掉 L_σ，噪声变为 "
        f"{10**less.value:.3f} 倍，"
        f"而均值的方差保持 {kept.text('.2f')}。从 N(0, I) 采样与数据的 Fréchet 距离：去掉 L_μ 增加 "
        f"{worse_sigma.text('+.0f')}，"
        f"去掉 L_σ 增加 {worse_mu.text('+.0f')}。",
    )
    effects = (
        Effect(Words("log10 variance of the means, without L_mu", "去掉 L_μ 时均值方差的 log10 变化"), more, "1"),
        Effect(Words("log10 posterior variance, without L_sigma", "去掉 L_σ 时后验方差的 log10 变化"), less, "1"),
        Effect(Words("Fréchet distance, without L_mu", "去掉 L_μ 时 Fréchet 距离的变化"), worse_sigma, "1"),
        Effect(Words("Fréchet distance, without L_sigma", "去掉 L_σ 时 Fréchet 距离的变化"), worse_mu, "1"),
    )
    return Result(verdict, sentence, effects)


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the spread of the means, the noise, and the samples' distance."""
    names = {"both": BOTH, "without\n$L_\\mu$": ONLY_SIGMA, "without\n$L_\\sigma$": ONLY_MU}
    panel = {
        "variance of the means": ("Spread of the means", "variance over images, of μ (log scale)"),
        "mean of the variances": ("Noise", "posterior variance σ² (log scale)"),
        "Fréchet distance": ("Samples from N(0, I)", "Fréchet distance to test images (log scale)"),
    }
    for ax, (quantity, (title, y)) in zip(panels(figure, 3), panel.items(), strict=True):
        bars(ax, {name: seeds(arm, quantity) for name, arm in names.items()}, (BLUE, ORANGE, PURPLE))
        ax.set_yscale("log")
        if quantity != "Fréchet distance":
            ax.axhline(1, color=GREY, linestyle="--", linewidth=1)
        quiet(ax, title, "", y)


CLAIM = Claim(
    number=4,
    name="two-parts",
    statements=("S12", "S13"),
    title=Words("L_mu and L_sigma do different work", "L_μ 与 L_σ 各司其职"),
    statement=Words(
        "L_mu keeps the means near 0, L_sigma keeps the noise alive; remove either and generating from N(0, I) fails.",
        "L_μ 使均值靠近 0，L_σ 使噪声不消失；去掉任何一个，从 N(0, I) 生成都会失败。",
    ),
    formula="L_mu = 1/2 sum_i mu_i^2,   L_sigma = 1/2 sum_i (sigma_i^2 - log sigma_i^2 - 1)",
    criterion=Words(
        "Holds if the 95 % intervals say: without L_mu the variance of the means at least doubles (log10 above 0.3); "
        "without L_sigma the posterior variance at least halves (log10 below -0.3); and samples from N(0, I) are "
        "farther "
        "from the data without either. With a condition if only the first two, or only the last.",
        "成立：95 % 区间表明，去掉 L_μ 后均值的方差至少加倍（log10 大于 0.3）；去掉 L_σ 后后验方差至少减半（log10 小于 "
        "−0.3）；"
        "去掉任何一个，从 N(0, I) 的采样都离数据更远。有条件成立：只满足前两条，或只满足最后一条。",
    ),
    units={
        "variance of the means": "1",
        "mean of the variances": "1",
        "log10 of the spread": "1",
        "log10 of the noise": "1",
        "evidence": "nats",
        "Fréchet distance": "1",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
