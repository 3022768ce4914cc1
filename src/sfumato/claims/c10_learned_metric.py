"""Claim 10: learning the metric. Reconstructions judged by a discriminator against the squared error, at the same rate.

The encoder of the standard VAE is kept as it is, so the rate is the same to the last digit. Two decoders start from the
standard one and are trained on for half as long: one on the squared error, one on the features of a discriminator that
learns meanwhile to tell reconstructions and samples from data, plus the adversarial loss itself.

Reference: Autoencoding beyond pixels using a learned similarity metric, Larsen et al., 2016,
https://arxiv.org/abs/1512.09300.
"""

from __future__ import annotations

import copy
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.claims.bench import Bench, settle_variance
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, bars, dots, panels, quiet
from sfumato.claims.measures import averages, evidence, frechet, prior_samples, sharpness
from sfumato.claims.statistics import mean_interval, paired
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.schedules import WarmUpCosine
from sfumato.data import Order
from sfumato.models import VAE

PIXELS, LEARNED = "squared error", "learned metric"
BATCH = 64
RATE = 1e-3
MOMENTUM = (0.5, 0.9)
ADVERSARIAL = 0.1


class Discriminator(nn.Module):
    """Tells data from what a decoder made: two convolutions of stride 2, whose output is the learned metric's space.

    Args:
        shape: of an image.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 12, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(12, 24, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
        )
        size = 24 * math.ceil(math.ceil(shape[1] / 2) / 2) * math.ceil(math.ceil(shape[2] / 2) / 2)
        self.head = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, (batch,), and features, (batch, channels, height, width)."""
        features: Tensor = self.layers(x)
        logits: Tensor = self.head(features.flatten(1)).squeeze(-1)
        return logits, features


def measure(bench: Bench) -> Measurement:
    """Train both decoders on, and look at reconstructions, samples and the likelihood."""
    return {name: _about(bench, refined(bench, name)) for name in (PIXELS, LEARNED)}


def refined(bench: Bench, name: str) -> VAE:
    """Return the standard VAE with its decoder trained on by the squared error or by the learned metric."""
    model = copy.deepcopy(bench.standard().model)
    x = bench.material.training_images
    order = Order(len(x), BATCH, bench.seed)
    with fixed_noise(seed_for(11, bench.seed)), torch.enable_grad():
        judge = Discriminator(bench.shape)
        decoder = torch.optim.Adam(model.decoder.parameters(), lr=RATE, betas=MOMENTUM)
        discriminator = torch.optim.Adam(judge.parameters(), lr=RATE, betas=MOMENTUM)
        steps = bench.setting.sweep_steps
        schedule = WarmUpCosine(steps)
        for step in range(steps):
            for optimizer in (decoder, discriminator):
                optimizer.param_groups[0]["lr"] = RATE * schedule(step)
            real = x[order(step)]
            with torch.no_grad():
                z = model.encode(real).sample()
            made = _pictures(model, z)
            if name == PIXELS:
                loss: Tensor = (made - real).square().flatten(1).sum(1).mean()
            else:
                sampled = _pictures(model, torch.randn_like(z))
                _learn(judge, discriminator, real, made, sampled)
                loss = _learned_loss(judge, real, made, sampled)
            decoder.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            decoder.step()
    settle_variance(model.eval(), bench.training_input())
    return model


def _pictures(model: VAE, z: Tensor) -> Tensor:
    pictures: Tensor = model.decoder(z).squeeze(1)
    return pictures


def _learn(judge: Discriminator, optimizer: torch.optim.Optimizer, real: Tensor, *made: Tensor) -> None:
    """Teach the discriminator one step."""
    logits_real, _ = judge(real)
    logits_made, _ = judge(torch.cat([pictures.detach() for pictures in made]))
    loss = F.softplus(-logits_real).mean() + F.softplus(logits_made).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _learned_loss(judge: Discriminator, real: Tensor, made: Tensor, sampled: Tensor) -> Tensor:
    """Return the distance in the discriminator's features, and how well both kinds of pictures are seen through."""
    judge.requires_grad_(False)  # the decoder learns here, not the discriminator
    _, wanted = judge(real)
    logits, found = judge(made)
    logits_sampled, _ = judge(sampled)
    judge.requires_grad_(True)
    distance: Tensor = (found - wanted).square().flatten(1).mean(1).mean()
    adversarial = F.softplus(-logits).mean() + F.softplus(-logits_sampled).mean()
    return distance + ADVERSARIAL * adversarial


def _about(bench: Bench, model: VAE) -> dict[str, float]:
    x = bench.test
    made = model.reconstruct(x, noise=True, generator=bench.seed)
    samples = prior_samples(model, len(x), bench.seed)
    return {
        "rate": averages(model, x, seed=bench.seed)["kl"],
        "evidence": evidence(model, bench.evidence_images, bench.setting.samples, bench.seed),
        "squared error": float((made - x).double().square().mean()),
        "sharpness of reconstructions": sharpness(made, x),
        "sharpness of samples": sharpness(samples, x),
        "Fréchet distance of reconstructions": frechet(bench, made),
        "Fréchet distance of samples": frechet(bench, samples),
    }


def conclude(seeds: Seeds) -> Result:
    """What is sharper, what is nearer to the data, and what does the likelihood say?"""
    quantity = "sharpness of reconstructions"
    before, after = (mean_interval(seeds(arm, quantity)) for arm in (PIXELS, LEARNED))
    nearer_one = paired(abs(seeds(PIXELS, quantity) - 1), abs(seeds(LEARNED, quantity) - 1))
    nearer = paired(
        seeds(PIXELS, "Fréchet distance of reconstructions"), seeds(LEARNED, "Fréchet distance of reconstructions")
    )
    samples = paired(seeds(PIXELS, "Fréchet distance of samples"), seeds(LEARNED, "Fréchet distance of samples"))
    price = paired(seeds(PIXELS, "evidence"), seeds(LEARNED, "evidence"))
    error = mean_interval(100 * (seeds(LEARNED, "squared error") / seeds(PIXELS, "squared error") - 1))
    sharper, closer = nearer_one.above(0), nearer.above(0) and samples.above(0)
    verdict = decide(sharper and closer, sharper or closer)
    rate = mean_interval(seeds(LEARNED, "rate"))
    sentence = Words(
        f"At the same rate of {rate.value:.1f} nats, reconstructions have {after.text('.2f')} of the data's detail "
        "with the "
        f"learned metric and {before.text('.2f')} with the squared error. In the judge's features reconstructions are "
        f"{nearer.text('+.1f')} nearer to the data and samples {samples.text('+.1f')}. The likelihood pays: the "
        "squared "
        f"error is {error.text('+.0f')} % larger, the evidence {price.text('.0f')} nats lower.",
        f"在同样的码率 {rate.value:.1f} nat 下，用学到的度量时重构的细节为真实图像的 {after.text('.2f')}，"
        f"用平方误差时为 {before.text('.2f')}。"
        f"在判别器特征中，重构离数据近了 {nearer.text('+.1f')}，采样近了 {samples.text('+.1f')}。代价在似然上："
        "平方误差增加 "
        f"{error.text('+.0f')} %，证据降低 {price.text('.0f')} nat。",
    )
    effects = (
        Effect(Words("detail, learned metric", "细节，学到的度量"), after, "of the data's"),
        Effect(Words("detail, squared error", "细节，平方误差"), before, "of the data's"),
        Effect(Words("Fréchet distance of reconstructions, saved", "重构的 Fréchet 距离减少"), nearer, "1"),
        Effect(Words("Fréchet distance of samples, saved", "采样的 Fréchet 距离减少"), samples, "1"),
        Effect(Words("squared error, added", "平方误差增加"), error, "%"),
        Effect(Words("evidence, lost", "证据减少"), price, "nats"),
    )
    return Result(verdict, sentence, effects)


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the detail, the distance to the data, and the evidence."""
    left, middle, right = panels(figure, 3)
    colours = (BLUE, ORANGE, BLUE, ORANGE)
    short = {PIXELS: "squared", LEARNED: "learned"}

    def both(quantity: str) -> dict[str, object]:
        return {
            f"{name},\n{what}": seeds(arm, f"{quantity} of {what}")
            for what in ("reconstructions", "samples")
            for arm, name in short.items()
        }

    for ax, quantity, title, y in (
        (left, "sharpness", "Detail", "Laplacian energy over the data's"),
        (middle, "Fréchet distance", "Distance to the data", "Fréchet distance to test images"),
    ):
        bars(ax, both(quantity), colours)  # type: ignore[arg-type]
        ax.set_xticks(
            range(4), ["squared\nreconstr.", "learned\nreconstr.", "squared\nsamples", "learned\nsamples"], fontsize=7
        )
        quiet(ax, title, "", y)
    left.axhline(1, color=GREY, linestyle="--", linewidth=1)
    dots(right, {arm: seeds(arm, "evidence") for arm in (PIXELS, LEARNED)}, colours)
    quiet(right, "Evidence", "", "bound on log p(x), nats")


CLAIM = Claim(
    number=10,
    name="learned-metric",
    statements=("S3",),
    title=Words("Learning the metric", "把度量也学出来"),
    statement=Words(
        "The GAN's answer is to learn how to measure nearness. With a VAE's reconstructions judged by a learned "
        "discriminator "
        "instead of pixel by pixel, at the same rate, pictures get sharper and nearer to the data.",
        "GAN 的办法是把度量也学出来。在同样的码率下，用学到的判别器代替逐像素误差来评判 VAE 的重构，图像会更清晰、"
        "更接近数据。",
    ),
    formula="|D_l(x) - D_l(g(z))|^2 + lambda * adversarial loss   against   |x - g(z)|^2, with the same q(z|x)",
    criterion=Words(
        "Holds if the 95 % intervals say: with the learned metric the detail of reconstructions is nearer to the "
        "data's, and "
        "both reconstructions and samples are nearer to the data in the judge's features, which neither was trained "
        "on. With a "
        "condition if only the detail, or only the distances. The loss in evidence is reported, not judged.",
        "成立：95 % 区间表明，用学到的度量时重构的细节更接近真实图像，且在判别器特征（两者都没有用它训练）中，"
        "重构和采样都更接近数据。"
        "有条件成立：只有细节或只有距离满足。证据的损失只报告，不作判定。",
    ),
    units={
        "rate": "nats",
        "evidence": "nats",
        "squared error": "grey range squared",
        "sharpness of reconstructions": "of the data's",
        "sharpness of samples": "of the data's",
        "Fréchet distance of reconstructions": "1",
        "Fréchet distance of samples": "1",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
