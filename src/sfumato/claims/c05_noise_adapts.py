"""Claim 5: the variance encoder tunes the noise. Does it shrink first and grow later, and does the KL really fall?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, ORANGE, band, legend, panels, quiet
from sfumato.claims.statistics import Interval, mean_interval, paired

OPTIMAL, FIXED = "optimal variance", "fixed variance"
SCALE = 0.1
QUANTITIES = ("step", "sigma", "kl", "reconstruction", "kl_mean", "kl_variance")
SMOOTH = 5


def measure(bench: Bench) -> Measurement:
    """Follow two trainings: the decoder's variance optimal, and fixed as in the article's squared error."""
    arms = {OPTIMAL: bench.standard(), FIXED: bench.fixed(SCALE)}
    return {name: _about(trained) for name, trained in arms.items()}


def _about(trained: Trained) -> dict[str, list[float]]:
    return {name: trained.series(name) for name in QUANTITIES}


def smooth(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return moving averages over a few points, of (seeds, points)."""
    size = min(SMOOTH, curves.shape[1])
    return np.stack([np.convolve(curve, np.ones(size) / size, "valid") for curve in curves])


def fall_of_kl(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each seed how far the smoothed KL ends below its highest point, as a share of it."""
    smoothed = smooth(kl)
    share: NDArray[np.float64] = 1 - smoothed[:, -1] / smoothed.max(1)
    return share


def rise_of_noise(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each seed how far the smoothed sigma ends above its lowest point, as a share of that."""
    smoothed = smooth(sigma)
    share: NDArray[np.float64] = smoothed[:, -1] / smoothed.min(1) - 1
    return share


def correlations(one: NDArray[np.float64], other: NDArray[np.float64], late: bool) -> NDArray[np.float64]:
    """Return for each seed the rank correlation of two curves, before or after the lowest point of the first."""
    found = []
    for a, b in zip(smooth(one), smooth(other), strict=True):
        turn = int(a.argmin())
        part = slice(turn, None) if late else slice(0, turn + 1)
        found.append(rank_correlation(a[part], b[part]))
    return np.array(found)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of two curves without ties; 0 for fewer than three points."""
    if len(one) < 3:
        return 0.0
    return float(np.corrcoef(one.argsort().argsort(), other.argsort().argsort())[0, 1])


def conclude(seeds: Seeds) -> Result:
    """First phase: the noise shrinks and the KL rises. Second: the noise grows and the KL falls."""
    found = {arm: _phases(seeds, arm) for arm in (OPTIMAL, FIXED)}
    first = all(shrink.below(-0.1) and climb.above(0) for shrink, climb, _, _ in found.values())
    second = [grow.above(0.05) and fall.above(0.05) for _, _, grow, fall in found.values()]
    verdict = decide(first and all(second), first)
    early = mean_interval(correlations(seeds(FIXED, "sigma"), seeds(FIXED, "reconstruction"), late=False))
    late = mean_interval(correlations(seeds(FIXED, "sigma"), seeds(FIXED, "reconstruction"), late=True))
    turn_noise = smooth(seeds(FIXED, "sigma")).argmin(1)
    turn_kl = smooth(seeds(FIXED, "kl")).argmax(1)
    spacing = float(np.diff(seeds(FIXED, "step")[0]).mean()) if seeds(FIXED, "step").shape[1] > 1 else 0.0
    lead = paired(turn_kl * spacing, turn_noise * spacing)
    (_, _, grow_o, fall_o), (_, _, grow_f, fall_f) = found[OPTIMAL], found[FIXED]
    sentence = Words(
        "The first phase is there: sigma falls and the KL rises while the reconstruction error falls (rank "
        "correlation of "
        f"sigma with the error {early.text('.2f')} until sigma turns). After it, with the variance fixed, sigma grows "
        "by "
        f"{_percent(grow_f)} from its lowest and the KL falls by {_percent(fall_f)} from its highest; with the optimal "
        f"variance by {_percent(grow_o)} and {_percent(fall_o)}. With the variance fixed the correlation afterwards is "
        f"{late.text('.2f')}, and the KL's highest point comes {lead.text('+.0f')} steps after sigma's lowest."
        if first
        else "The first phase, falling noise and rising KL, is not seen in both arms.",
        f"第一阶段确实存在：重构误差下降时 σ 下降、KL 上升（到 σ 转折为止，σ 与误差的秩相关为 {early.text('.2f')}）。"
        "此后，解码器方差固定时，"
        f"σ 从最低点回升 {_percent(grow_f)}，KL 从最高点下降 {_percent(fall_f)}；最优方差时分别为 {_percent(grow_o)} "
        "和 "
        f"{_percent(fall_o)}。方差固定时，其后的相关为 {late.text('.2f')}，"
        f"KL 的最高点比 σ 的最低点晚 {lead.text('+.0f')} 步。"
        if first
        else "第一阶段（噪声下降、KL 上升）没有在两种情形中都出现。",
    )
    effects = []
    for arm, name in ((OPTIMAL, Words("optimal", "最优方差")), (FIXED, Words("fixed", "固定方差"))):
        labels = (
            Words("change of log sigma to its lowest", "log σ 到最低点的变化"),
            Words("rise of the KL to its highest", "KL 到最高点的上升"),
            Words("growth of sigma after its lowest", "σ 从最低点的回升"),
            Words("fall of the KL after its highest", "KL 从最高点的下降"),
        )
        for label, interval, unit in zip(labels, found[arm], ("1", "nats", "share", "share"), strict=True):
            effects.append(Effect(Words(f"{label.en}, {name.en}", f"{label.zh}，{name.zh}"), interval, unit))
    return Result(verdict, sentence, tuple(effects))


def _phases(seeds: Seeds, arm: str) -> tuple[Interval, Interval, Interval, Interval]:
    """Return how far sigma falls (log), the KL rises (nats), sigma grows again and the KL falls again (shares)."""
    sigma, kl = seeds(arm, "sigma"), seeds(arm, "kl")
    shrink = mean_interval(np.log(smooth(sigma).min(1) / sigma[:, 0]))
    climb = mean_interval(smooth(kl).max(1) - kl[:, 0])
    return shrink, climb, mean_interval(rise_of_noise(sigma)), mean_interval(fall_of_kl(kl))


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw sigma, KL and reconstruction over training."""
    panel = {
        "sigma": ("Noise", "posterior standard deviation (log scale)"),
        "kl": ("KL", "KL(q(z|x) || p(z)), nats"),
        "reconstruction": ("Reconstruction", "-log p(x|z), nats"),
    }
    for ax, (quantity, (title, y)) in zip(panels(figure, 3), panel.items(), strict=True):
        for arm, colour in ((OPTIMAL, BLUE), (FIXED, ORANGE)):
            band(ax, seeds(arm, "step")[0], seeds(arm, quantity), arm, colour)
        if quantity == "sigma":
            ax.set_yscale("log")
        quiet(ax, title, "step", y)
        if quantity == "reconstruction":
            late = np.concatenate([seeds(arm, quantity)[:, 12:] for arm in (OPTIMAL, FIXED)])
            if late.size:
                ax.set_ylim(late.min() - 20, late.max() + 20)
            legend(ax)


CLAIM = Claim(
    number=5,
    name="noise-adapts",
    statements=("S14",),
    title=Words("The variance encoder tunes the noise", "方差编码器调节噪声"),
    statement=Words(
        "While the decoder is poor the noise is lowered and the KL rises; once the decoder is good the noise grows and "
        "the KL "
        "falls again.",
        "解码器差的时候降低噪声、KL 上升；解码器好了之后噪声增大、KL 又下降。",
    ),
    formula="sigma(t) and KL(t) = L_mu(t) + L_sigma(t) against -log p(x|z) over the steps t",
    criterion=Words(
        "On curves of training means, smoothed over 5 of 60 points, for the optimal and for a fixed decoder variance "
        "(0.1 of the grey range). Holds if the 95 % intervals say, for both: sigma falls (log by more than 0.1) and "
        "the KL "
        "rises; later sigma grows by more than 5 % from its lowest and the KL falls by more than 5 % from its highest. "
        "With a "
        "condition if the first phase is there for both, and the second not.",
        "在训练均值曲线上（60 个点中取 5 点平滑），分别用最优方差与固定方差（灰度范围的 0.1）。成立：95 % "
        "区间表明两种情形中 σ 都先下降"
        "（log 超过 0.1）、KL 先上升；之后 σ 从最低点回升超过 5 %，KL 从最高点下降超过 5 %。有条件成立："
        "两种情形都有第一阶段，但没有第二阶段。",
    ),
    units={
        "step": "steps",
        "sigma": "1",
        "kl": "nats",
        "reconstruction": "nats",
        "kl_mean": "nats",
        "kl_variance": "nats",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
