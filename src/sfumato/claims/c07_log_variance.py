"""Claim 7: the logarithm of the variance as the network's output, against a variance through an activation."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, COLOURS, GREY, dots, panels, quiet
from sfumato.claims.measures import averages
from sfumato.claims.statistics import mean_interval, paired
from sfumato.core.interfaces import Network, Posterior
from sfumato.data import Identity
from sfumato.posteriors import DiagonalGaussian
from sfumato.report.figures import INK

Form = Literal["log", "softplus", "relu", "square"]
BOUNDED = "log, bounded"
FORMS: tuple[Form, ...] = ("log", "softplus", "relu", "square")
LEAST = 1e-8
CONDITIONS = ("usual", "rate x 10", "raw values")
RATE = 10.0


class FreeGaussian(Posterior):
    """N(mu, sigma^2) with sigma^2 = exp(h), softplus(h), relu(h) or h^2, and nothing that bounds it.

    The last three get 1e-8 added, without which a variance of exactly 0 ends every training.

    Args:
        mean: features to mu.
        variance: features to h.
        trunk: x to features.
        form: from h to sigma^2; ``log``: h is log sigma^2.
    """

    def __init__(self, mean: Network, variance: Network, trunk: Network, form: Form) -> None:
        super().__init__()
        self.mean, self.variance, self.trunk, self.form = mean, variance, trunk, form
        self.latent_shape = mean.out_shape

    def forward(self, x: Tensor, y: Tensor | None = None) -> Independent[Normal]:
        """Return q(z | x)."""
        features = self.trunk(x)
        scale = variance_of(self.variance(features), self.form).sqrt()
        return Independent(Normal(self.mean(features), scale, validate_args=False), 1, validate_args=False)


def variance_of(h: Tensor, form: Form) -> Tensor:
    """Return sigma^2."""
    if form == "log":
        return h.exp()
    if form == "softplus":
        return F.softplus(h) + LEAST
    return (h.relu() if form == "relu" else h.square()) + LEAST


def measure(bench: Bench) -> Measurement:
    """Train every form under usual conditions, at ten times the rate, and on values 0 to 255 as they are."""
    found = {}
    for condition in CONDITIONS:
        found[f"{BOUNDED}, {condition}"] = _arm(bench, BOUNDED, condition)
        for form in FORMS:
            found[f"{form}, {condition}"] = _arm(bench, form, condition)
    return found


def _arm(bench: Bench, form: str, condition: str) -> dict[str, float]:
    raw = condition == "raw values"
    preprocessing = Identity(bench.shape) if raw else None

    def posterior() -> Posterior:
        mean, variance, trunk = bench.heads()
        if form == BOUNDED:
            return DiagonalGaussian(mean, variance, trunk)
        return FreeGaussian(mean, variance, trunk, form)  # type: ignore[arg-type]

    trained = bench.train(
        f"{form}, {condition}",
        lambda: bench.vae(posterior),
        steps=bench.setting.sweep_steps if condition == "usual" else bench.setting.stress_steps,
        learning_rate=bench.setting.learning_rate * (RATE if condition == "rate x 10" else 1),
        preprocessing=preprocessing,
    )
    return _about(bench, trained, raw)


def _about(bench: Bench, trained: Trained, raw: bool) -> dict[str, float]:
    """The ELBO of raw values is put into the units of [0, 1]: + D log 255."""
    x = bench.test * 255 if raw else bench.test
    elbo = averages(trained.model, x, seed=bench.seed)["elbo"] + (x[0].numel() * math.log(255) if raw else 0)
    return {
        "elbo": elbo,
        "bad steps": float(trained.skipped + trained.recoveries),
        "broken": float(trained.diverged or trained.recoveries > 0 or not math.isfinite(elbo)),
    }


def conclude(seeds: Seeds) -> Result:
    """Does any form break more often, or end elsewhere, than the logarithm?"""
    log_broken, bounded_broken = (_broken(seeds, form) for form in ("log", BOUNDED))
    others = {form: _broken(seeds, form) for form in FORMS[1:]}
    usual = {form: paired(seeds("log, usual", "elbo"), seeds(f"{form}, usual", "elbo")) for form in FORMS[1:]}
    as_good = all(interval.above(-2) for interval in usual.values())
    not_worse = not any(interval.below(-2) for interval in usual.values())
    steady = log_broken <= min(others.values())
    steadier = log_broken < max(others.values())
    clear_gain = any(interval.above(2) for interval in usual.values())
    verdict = decide(
        as_good and log_broken == 0 and (steadier or clear_gain),
        not_worse and (steady or bounded_broken <= min(others.values())),
    )
    total = len(seeds) * len(CONDITIONS)
    broken = {form: round(share * total) for form, share in others.items()}
    listed = ", ".join(f"{form} {count}" for form, count in broken.items())
    gains = ", ".join(f"{form} {interval.text('+.1f')}" for form, interval in usual.items())
    sentence = Words(
        f"Of {total} trainings (usual, ten times the rate, raw values 0 to 255) broke: log sigma^2 as it is "
        f"{round(log_broken * total)}, log sigma^2 softly bounded {round(bounded_broken * total)}, {listed}. Under "
        "usual "
        f"conditions the ELBO of log sigma^2 less that of the activation, nats: {gains}.",
        f"共 {total} 次训练（通常条件、十倍学习率、未归一化的 0 到 255 的值），失败次数：直接的 log σ² "
        f"{round(log_broken * total)}，"
        f"平滑限幅的 log σ² {round(bounded_broken * total)}，{listed}。通常条件下 log σ² 的 ELBO 减去激活函数的（nat）"
        f"：{gains}。",
    )
    effects = [
        Effect(Words(f"ELBO, log less {form}, usual conditions", f"ELBO：log 减 {form}，通常条件"), interval, "nats")
        for form, interval in usual.items()
    ]
    effects += [
        Effect(
            Words(f"broken trainings, {form}", f"失败的训练，{form}"),
            mean_interval(np.mean([seeds(f"{form}, {condition}", "broken") for condition in CONDITIONS], 0)),
            "share",
        )
        for form in (BOUNDED, *FORMS)
    ]
    return Result(verdict, sentence, tuple(effects))


def _broken(seeds: Seeds, form: str) -> float:
    """Return the share of trainings that broke, over seeds and conditions."""
    return float(np.mean([seeds(f"{form}, {condition}", "broken") for condition in CONDITIONS]))


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the final ELBO under each condition, and how many trainings broke."""
    axes = panels(figure, 3)
    short = {BOUNDED: "log,\nbounded", "log": "log", "softplus": "soft-\nplus", "relu": "relu", "square": "h²"}
    for ax, condition in zip(axes, CONDITIONS, strict=True):
        groups = {short[form]: seeds(f"{form}, {condition}", "elbo") for form in (BOUNDED, *FORMS)}
        dots(ax, groups, (BLUE, COLOURS[3], COLOURS[1], COLOURS[2], GREY))
        finite = np.concatenate(list(groups.values()))
        finite = finite[np.isfinite(finite)]
        low, high = (np.quantile(finite, 0.1), finite.max()) if len(finite) else (0.0, 1.0)
        span = max(20.0, high - low)
        bottom, top = low - span, high + span / 3
        ax.set_ylim(bottom, top)
        for place, form in enumerate((BOUNDED, *FORMS)):
            count = int(seeds(f"{form}, {condition}", "broken").sum())
            if count:
                ax.text(place, top, f"{count} broke", ha="center", va="top", fontsize=8, color=INK)
        quiet(
            ax, {"rate x 10": "Ten times the rate"}.get(condition, condition.capitalize()), "", "ELBO, nats (axis cut)"
        )


CLAIM = Claim(
    number=7,
    name="log-variance",
    statements=("S6",),
    title=Words("The logarithm of the variance as the output", "让网络输出方差的对数"),
    statement=Words(
        "A variance must be positive and its logarithm need not be, so f2 gives log sigma^2 and no activation is "
        "needed.",
        "方差必须为正，其对数不必，所以 f2 输出 log σ²，不需要激活函数。",
    ),
    formula="sigma^2 = exp(h)   against   softplus(h), relu(h), h^2 (each + 1e-8)",
    criterion=Words(
        "A training is broken when the loss was not finite three steps in a row, or the end is not finite. Holds if "
        "log "
        "sigma^2, with nothing added, never breaks; ends at most 2 nats below every activation (95 % interval, usual "
        "conditions); and some activation breaks, or ends more than 2 nats below. With a condition if no interval lies "
        "wholly below -2 nats (what these seeds cannot tell is no refutation) and it, or its softly bounded form, "
        "breaks no more often than any activation.",
        "“失败”指损失连续三步不是有限数，或最终结果不是有限数。成立：不加任何限制的 log σ² 从不失败；"
        "通常条件下比每种激活函数至多低 2 nat"
        "（95 % 区间）；并且有某种激活函数失败，或低 2 nat 以上。有条件成立：没有一个区间全部低于 −2 nat"
        "（这些种子无法分辨的不算反驳），且它本身或其平滑限幅形式失败得不比任何激活函数多。",
    ),
    units={"elbo": "nats", "bad steps": "steps", "broken": "share"},
    measure=measure,
    conclude=conclude,
    draw=draw,
)
