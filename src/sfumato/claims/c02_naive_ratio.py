"""Claim 2: naive penalties need a ratio and the KL does not; the scale of the reconstruction is one all the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, RED, legend, panels, points, quiet
from sfumato.claims.measures import evidence, frechet, prior_samples, sharpness
from sfumato.claims.statistics import Interval, mean_interval, paired
from sfumato.objectives import NaivePenalty

RATIOS = (0.001, 0.01, 0.1, 1.0, 10.0)
SCALES = (0.03, 0.1, 0.3, 1.0)
KINDS: tuple[Literal["log", "difference"], ...] = ("log", "difference")
KL = "KL, optimal variance"


def measure(bench: Bench) -> Measurement:
    """Train the sweeps: two kinds of penalty over five ratios, four decoder variances, and the plain VAE as long."""
    steps = bench.setting.sweep_steps
    found = {KL: _about(bench, bench.train("KL, sweep", bench.vae, steps=steps))}
    for kind in KINDS:
        for ratio in RATIOS:
            objective = NaivePenalty(0.5, 0.5 * ratio, kind)
            found[naive(kind, ratio)] = _about(
                bench, bench.train(naive(kind, ratio), bench.vae, objective, steps=steps)
            )
    for scale in SCALES:
        found[fixed(scale)] = _about(bench, bench.fixed(scale, steps))
    return found


def naive(kind: str, ratio: float) -> str:
    """Return the name of an arm."""
    return f"{kind} {ratio:g}"


def fixed(scale: float) -> str:
    """Return the name of an arm."""
    return f"fixed {scale:g}"


def _about(bench: Bench, trained: Trained) -> dict[str, float]:
    model, x, samples = trained.model, bench.test, bench.setting.samples
    made = prior_samples(model, len(x), bench.seed)
    return {
        "evidence": evidence(model, bench.evidence_images, samples, bench.seed),
        "Fréchet distance": frechet(bench, made),
        "sharpness": sharpness(model.reconstruct(x), x),
    }


def conclude(seeds: Seeds) -> Result:
    """How much hangs on the ratio, and does the KL do as well as the best one?"""
    kl = seeds(KL, "evidence")
    arms = {kind: [naive(kind, ratio) for ratio in RATIOS] for kind in KINDS}
    every = [arm for kind in KINDS for arm in arms[kind]]
    depends, other = (_range(seeds, arms[kind]) for kind in KINDS)
    best = _best(seeds, every, "evidence")
    against_best = paired(kl, seeds(best, "evidence"))
    blurred = paired(seeds(KL, "sharpness"), seeds(_best(seeds, every, "sharpness", worst=True), "sharpness"))
    scales = [fixed(scale) for scale in SCALES]
    hidden = _range(seeds, scales)
    settled = paired(kl, seeds(_best(seeds, scales, "evidence"), "evidence"))
    ratio_matters = depends.above(5)
    kl_as_good = against_best.above(-2)
    blurs = blurred.above(0.05)
    scale_settled = hidden.above(5) and settled.above(-2)
    verdict = decide(
        ratio_matters and kl_as_good and blurs and scale_settled, ratio_matters and kl_as_good and scale_settled
    )
    sentence = Words(
        f"Between the best and the worst ratio lie {depends.text('.0f')} nats of evidence with |log sigma^2|^2, and "
        f"{other.text('.0f')} with |sigma^2 - 1|^2, which stays finite as sigma goes to 0. The KL, with nothing to "
        f"choose, is {against_best.text('+.1f')} nats against the best of ten naive choices ({_words(best)[0]}). "
        f"Reconstructions of the most blurred choice have {blurred.text('+.2f')} less of the data's "
        "detail than "
        f"the KL's{'' if blurs else ': the ratio hardly blurs'}. The decoder's variance is a ratio all the same: four "
        "fixed "
        f"values differ by {hidden.text('.0f')} nats, and the optimal one is {settled.text('+.1f')} nats against the "
        "best "
        f"of them.",
        f"最好与最坏的比例之间，证据相差 {depends.text('.0f')} nat（‖log σ²‖²）和 {other.text('.0f')} nat"
        f"（‖σ² − 1‖²，它在 σ 趋于 0 时仍有限）。KL 不用选择，与十种朴素选择中最好的（{_words(best)[1]}）相比为 "
        f"{against_best.text('+.1f')} nat。最模糊的选择的重构，其细节比 KL 少 "
        f"{blurred.text('+.2f')}（以真实图像的细节为 1）"
        f"{'' if blurs else '：比例几乎不影响模糊程度'}。解码器方差仍是一个隐藏的比例：四个固定值相差 "
        f"{hidden.text('.0f')} nat；"
        f"最优方差与其中最好的相比为 {settled.text('+.1f')} nat。",
    )
    effects = (
        Effect(Words("best less worst ratio, |log sigma^2|^2", "最好与最坏比例之差，‖log σ²‖²"), depends, "nats"),
        Effect(Words("best less worst ratio, |sigma^2 - 1|^2", "最好与最坏比例之差，‖σ² − 1‖²"), other, "nats"),
        Effect(Words("KL against the best naive choice", "KL 与最好的朴素选择之差"), against_best, "nats"),
        Effect(Words("detail of reconstructions: KL less the worst", "重构细节：KL 减最差者"), blurred, "1"),
        Effect(Words("range of the evidence over fixed variances", "证据随固定方差变化的范围"), hidden, "nats"),
        Effect(Words("optimal variance against the best fixed one", "最优方差与最好的固定方差之差"), settled, "nats"),
    )
    return Result(verdict, sentence, effects)


def _best(seeds: Seeds, arms: list[str], quantity: str, worst: bool = False) -> str:
    """Return the arm that is best on average over seeds: one choice, not another one for every seed's noise."""
    means = [float(seeds(arm, quantity).mean()) for arm in arms]
    place = np.nanargmin(means) if worst else np.nanargmax(means)
    return arms[int(place)]


def _range(seeds: Seeds, arms: list[str]) -> Interval:
    """Return how far the evidence of the best arm lies above that of the worst."""
    best, worst = (_best(seeds, arms, "evidence", worst) for worst in (False, True))
    return paired(seeds(best, "evidence"), seeds(worst, "evidence"))


def _words(arm: str) -> tuple[str, str]:
    """Return a naive arm in words."""
    kind, ratio = arm.split()
    penalty = "|log sigma^2|^2" if kind == "log" else "|sigma^2 - 1|^2"
    return f"{penalty} at ratio {ratio}", f"{'‖log σ²‖²' if kind == 'log' else '‖σ² − 1‖²'}，比例 {ratio}"


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw evidence and blur over the ratio, and evidence over the fixed variance."""
    left, middle, right = panels(figure, 3)
    names = {"log": "|μ|² and |log σ²|²", "difference": "|μ|² and |σ² - 1|²"}
    for ax, quantity in ((left, "evidence"), (middle, "sharpness")):
        for kind, colour in zip(KINDS, (ORANGE, RED), strict=True):
            values = np.stack([seeds(naive(kind, ratio), quantity) for ratio in RATIOS], 1)
            points(ax, RATIOS, values, names[kind], colour)
        _level(ax, seeds(KL, quantity), "KL: nothing to choose")
        ax.set_xscale("log")
    legend(quiet(left, "Evidence", "ratio r of the penalties, variance to mean", "bound on log p(x), nats"))
    quiet(
        middle,
        "Detail of reconstructions",
        "ratio r of the penalties, variance to mean",
        "Laplacian energy over the data's",
    )
    points(right, SCALES, np.stack([seeds(fixed(scale), "evidence") for scale in SCALES], 1), "fixed", GREY)
    _level(right, seeds(KL, "evidence"), "optimal")
    right.set_xscale("log")
    right.set_yscale("symlog", linthresh=100)
    right.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
    right.minorticks_off()
    legend(
        quiet(
            right, "The hidden ratio", "decoder's standard deviation (grey range 1)", "bound on log p(x), nats (symlog)"
        )
    )


def _level(ax: Axes, values: NDArray[np.float64], name: str) -> None:
    found = mean_interval(values)
    ax.axhline(found.value, color=BLUE, linewidth=1.5, label=name)
    if np.isfinite(found.low):
        ax.axhspan(found.low, found.high, color=BLUE, alpha=0.15, linewidth=0)


CLAIM = Claim(
    number=2,
    name="naive-ratio",
    statements=("S7", "S11"),
    title=Words("Naive penalties need a ratio; the KL needs none", "朴素惩罚需要选比例，KL 不需要"),
    statement=Words(
        "With |mu|^2 and |log sigma^2|^2 (or |sigma^2 - 1|^2) the result hangs on their ratio and a bad one blurs the "
        "images; the KL needs no such choice. Left open: the scale of the squared error is itself a ratio.",
        "用 ‖μ‖² 和 ‖log σ²‖²（或 ‖σ² − 1‖²）时，结果取决于两者之比，选得不好图像会模糊；KL 无需选择。"
        "文章没有谈到的是：平方误差的尺度本身也是一个比例。",
    ),
    formula="1/2 |mu|^2 + r/2 |log sigma^2|^2   against   1/2 sum_i (mu_i^2 + sigma_i^2 - log sigma_i^2 - 1)",
    criterion=Words(
        "Best and worst choices are those of the mean over seeds. Holds if the 95 % intervals say: the evidence varies "
        "by more than 5 nats over the ratios 0.001 to 10 with |log sigma^2|^2, the article's penalty (the other is "
        "reported); the KL is at most 2 nats below the best of all ten naive choices (picked with hindsight); the worst"
        " choice's reconstructions lack at least 0.05 of the data's detail against the KL's; the evidence varies by "
        "more than 5 nats over four fixed decoder variances, and the optimal variance is at most 2 nats below the best."
        " With a condition if all but the blur.",
        "最好与最坏按对种子的平均来挑。成立：95 % 区间表明，用文章的惩罚 ‖log σ²‖² 时，比例从 0.001 到 10，"
        "证据变化超过 5 nat（另一种惩罚只报告）；KL 比事后从十种选择中挑出的最好者至多低 2 nat；"
        "最差选择的重构比 KL 少至少 0.05 的细节（真实图像为 1）；四个固定解码器方差之间证据变化超过 5 nat，"
        "而最优方差至多低于其中最好者 2 nat。"
        "有条件成立：除模糊之外都满足。",
    ),
    units={"evidence": "nats", "Fréchet distance": "1", "sharpness": "of the data's"},
    measure=measure,
    conclude=conclude,
    draw=draw,
)
