"""Claim 6: two encoders, as the article draws them, against one trunk with two heads."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import nn

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, ORANGE, band, dots, legend, panels, quiet
from sfumato.claims.measures import averages, evidence
from sfumato.claims.statistics import mean_interval, paired
from sfumato.posteriors import DiagonalGaussian

TRUNK, TWO = "one trunk,\ntwo heads", "two encoders"
MARGIN = 2.0


def measure(bench: Bench) -> Measurement:
    """Train both with as many parameters."""
    setting = bench.setting
    inputs, latent = bench.test[0].numel(), setting.latent_dim
    trunk = size(DiagonalGaussian(*bench.heads()))
    # two (inputs w + w + w latent + latent) = trunk
    width = max(1, round((trunk / 2 - latent) / (inputs + 1 + latent)))
    arms = {
        TRUNK: bench.standard(),
        TWO: bench.train(TWO, lambda: bench.vae(lambda: DiagonalGaussian(bench.mlp(width), bench.mlp(width)))),
    }
    return {name: _about(bench, trained) for name, trained in arms.items()}


def size(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _about(bench: Bench, trained: Trained) -> dict[str, object]:
    model = trained.model
    means = averages(model, bench.test, seed=bench.seed)
    return {
        "parameters": float(size(model.posterior)),
        "evidence": evidence(model, bench.evidence_images, bench.setting.samples, bench.seed),
        "elbo": means["elbo"],
        "kl": means["kl"],
        "step": trained.series("step"),
        "loss": trained.series("loss"),
    }


def conclude(seeds: Seeds) -> Result:
    """Are two encoders as good, better, or worse?"""
    gain = paired(seeds(TWO, "evidence"), seeds(TRUNK, "evidence"))
    elbo = paired(seeds(TWO, "elbo"), seeds(TRUNK, "elbo"))
    count = mean_interval(seeds(TWO, "parameters") / seeds(TRUNK, "parameters"))
    verdict = decide(gain.above(-MARGIN), not gain.below(-MARGIN))
    what = (
        ("two encoders are better", "两个编码器更好")
        if gain.above(0)
        else ("two encoders are worse", "两个编码器更差")
        if gain.below(0)
        else ("neither is better", "两者没有可分辨的差别")
    )
    sentence = Words(
        f"At {seeds(TRUNK, 'parameters')[0]:,.0f} parameters ({count.value:.3f} times as many for two encoders) "
        f"{what[0]}: "
        f"evidence {gain.text('+.1f')} nats, ELBO {elbo.text('+.1f')} nats, two encoders less one trunk.",
        f"在 {seeds(TRUNK, 'parameters')[0]:,.0f} 个参数下（两个编码器为其 {count.value:.3f} 倍），{what[1]}："
        f"两个编码器减去共享主干，证据 {gain.text('+.1f')} nat，ELBO {elbo.text('+.1f')} nat。",
    )
    effects = (
        Effect(Words("evidence, two encoders less one trunk", "证据：两个编码器减共享主干"), gain, "nats"),
        Effect(Words("ELBO, two encoders less one trunk", "ELBO：两个编码器减共享主干"), elbo, "nats"),
    )
    return Result(verdict, sentence, effects)


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the training's loss, the evidence, and the differences seed by seed."""
    left, middle, right = panels(figure, 3)
    for arm, colour in ((TRUNK, BLUE), (TWO, ORANGE)):
        band(left, seeds(arm, "step")[0], seeds(arm, "loss"), arm.replace("\n", " "), colour)
    late = seeds(TRUNK, "loss")[:, 6:]
    if late.size:
        left.set_ylim(late.min() - 20, late.max() + 20)
    legend(quiet(left, "Training", "step", "-ELBO, nats"))
    dots(middle, {arm: seeds(arm, "evidence") for arm in (TRUNK, TWO)}, (BLUE, ORANGE))
    quiet(middle, "Evidence", "", "bound on log p(x), nats")
    groups = {name: seeds(TWO, name) - seeds(TRUNK, name) for name in ("evidence", "elbo", "kl")}
    dots(right, {name.replace("elbo", "ELBO").replace("kl", "KL"): value for name, value in groups.items()})
    right.axhline(0, color="#3b3a37", linewidth=0.8)
    quiet(right, "Two encoders less one trunk", "", "difference, nats")


CLAIM = Claim(
    number=6,
    name="two-encoders",
    statements=("S8",),
    title=Words("Two encoders, or one trunk with two heads", "两个编码器，还是一个主干加两个头"),
    statement=Words(
        "Mean and variance each have an encoder. Measured against the usual shared trunk with two heads, at equal "
        "parameters.",
        "均值与方差各有一个编码器。在参数量相同时，与常见的“共享主干加两个头”相比较。",
    ),
    formula="mu = f1(x), log sigma^2 = f2(x)   against   mu = h1(t(x)), log sigma^2 = h2(t(x))",
    criterion=Words(
        "Holds (two encoders are a sound choice) if the 95 % interval of the difference in evidence lies above -2 "
        "nats; does "
        "not hold if it lies below -2 nats; with a condition if -2 is inside it, so that these seeds cannot tell.",
        "成立（两个编码器是合理的选择）：证据之差的 95 % 区间全部高于 −2 nat；不成立：全部低于 −2 nat；有条件成立："
        "区间包含 −2，这些种子无法分辨。",
    ),
    units={
        "parameters": "parameters",
        "evidence": "nats",
        "elbo": "nats",
        "kl": "nats",
        "step": "steps",
        "loss": "nats",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
