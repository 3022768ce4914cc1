"""Claim 8: the class means of the conditional VAE choose the class of what is generated."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from sfumato.claims.bench import Bench, Trained
from sfumato.claims.claim import Claim, Effect, Measurement, Result, Seeds, Words, decide
from sfumato.claims.drawing import BLUE, GREY, ORANGE, band, bars, legend, panels, quiet
from sfumato.claims.measures import frechet
from sfumato.claims.statistics import mean_interval, paired
from sfumato.data import InMemory
from sfumato.evaluation import bayes_accuracy, evidence_bound, generation_accuracy, judge_accuracy
from sfumato.models import VAE
from sfumato.priors import ClassConditional

UNIT, LEARNED = "unit variance", "learned variance"
PER_CLASS = 100
BAYES_SAMPLES = 20
GOOD, FAIR = 0.8, 0.5


def measure(bench: Bench) -> Measurement:
    """Train with the variance of every class at one, and with learned ones."""
    found = {UNIT: _about(bench, _train(bench, UNIT)), LEARNED: _about(bench, _train(bench, LEARNED))}
    raw, y = _test(bench)
    judge = judge_accuracy(bench.material.judge, InMemory(raw, y), bench.material.preprocessing)
    return {**found, "judge": {"accuracy on real images": judge.overall.value}}


def _train(bench: Bench, name: str) -> Trained:
    classes, latent = bench.material.dataset.num_classes, bench.setting.latent_dim
    return bench.train(
        name,
        lambda: bench.vae(prior=lambda: ClassConditional(classes, latent, learn_variance=name == LEARNED)),
        watch=distances,
    )


def distances(model: VAE) -> dict[str, float]:
    """Return the mean and the smallest distance of two class means, in units of z."""
    assert isinstance(model.prior, ClassConditional)
    pairs = torch.nn.functional.pdist(model.prior.means)
    return {"distance": float(pairs.mean()), "nearest": float(pairs.min())}


def _test(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """Return raw test images and classes, the same as the bench's."""
    x, y = bench.material.real
    count = min(len(x), 2 * bench.setting.evidence)
    return bench.material.preprocessing.inverse(x[:count]), y[:count]


def _about(bench: Bench, trained: Trained) -> dict[str, object]:
    model, material = trained.model, bench.material
    made = generation_accuracy(model, material.judge, per_class=PER_CLASS, seed=bench.seed)
    examples = InMemory(*_test(bench))
    bayes = bayes_accuracy(model, examples, material.preprocessing, samples=BAYES_SAMPLES, seed=bench.seed)
    bound = evidence_bound(model, bench.evidence_images, samples=bench.setting.samples, seed=bench.seed)
    assert isinstance(model.prior, ClassConditional)
    return {
        "class asked is class made": made.overall.value,
        "by class": [estimate.value for estimate in made.per_class],
        "accuracy of Bayes' rule": bayes.overall.value,
        "evidence": float(bound.mean()),
        "Fréchet distance": frechet(bench, model.sample(len(bench.test), generator=bench.seed)),
        "overlap": overlap(model.prior, bench.seed),
        "step": [float(line["step"]) for line in trained.watched],
        "distance": [line["distance"] for line in trained.watched],
        "nearest": [line["nearest"] for line in trained.watched],
    }


@torch.no_grad()
def overlap(prior: ClassConditional, seed: int, n: int = 500) -> float:
    """Return how often a z drawn from one class is likelier under another."""
    y = torch.arange(prior.num_classes).repeat(n)
    generator = torch.Generator().manual_seed(seed)
    distribution = prior(y)
    normal = distribution.gaussian()
    assert normal is not None
    z = normal.mean + normal.stddev * torch.randn(normal.mean.shape, generator=generator)
    return float((distribution.log_components(z).argmax(-1) != y).double().mean())


def conclude(seeds: Seeds) -> Result:
    """Is the class made the class asked, what does the unit variance cost, how far apart are the means?"""
    ceiling = seeds("judge", "accuracy on real images")
    made = mean_interval(seeds(UNIT, "class asked is class made"))
    relative = mean_interval(seeds(UNIT, "class asked is class made") / ceiling)
    worst = mean_interval(seeds(UNIT, "by class").min(1))
    bayes = mean_interval(seeds(UNIT, "accuracy of Bayes' rule"))
    apart = mean_interval(seeds(UNIT, "distance")[:, -1])
    moved = mean_interval(seeds(UNIT, "distance")[:, -1] - seeds(UNIT, "distance")[:, 0])
    crossed = mean_interval(seeds(UNIT, "overlap"))
    cost = paired(seeds(LEARNED, "evidence"), seeds(UNIT, "evidence"))
    control = paired(seeds(LEARNED, "class asked is class made"), seeds(UNIT, "class asked is class made"))
    verdict = decide(relative.above(GOOD), made.above(FAIR))
    sentence = Words(
        f"The judge (right about {ceiling.mean():.1%} of real images) finds the class that was asked for in "
        f"{_percent(made)} of the pictures, and in {_percent(worst)} of the worst class. Classes' means are "
        f"{apart.text('.1f')} apart on average ({moved.text('+.1f')} in training); {_percent(crossed)} of the z of one "
        "class are "
        f"likelier under another. By Bayes' rule the model classifies {_percent(bayes)} of test images rightly. "
        "Learned "
        f"variances would bring {cost.text('+.1f')} nats of evidence and {100 * control.value:+.1f} "
        f"[{100 * control.low:+.1f}, {100 * control.high:+.1f}] points of control.",
        f"判别器（对真实图像的正确率 {ceiling.mean():.1%}）认为 {_percent(made)} 的生成图像属于所要求的类别，"
        f"最差的类别为 {_percent(worst)}。"
        f"各类均值平均相距 {apart.text('.1f')}（训练中变化 {moved.text('+.1f')}）；{_percent(crossed)} 的 z "
        "在别的类别下更可能。"
        f"用贝叶斯公式对测试图像分类的正确率为 {_percent(bayes)}。若方差也可学习，证据变化 {cost.text('+.1f')} nat，"
        f"类别控制变化 {100 * control.value:+.1f} [{100 * control.low:+.1f}, {100 * control.high:+.1f}] 个百分点。",
    )
    effects = (
        Effect(Words("class asked is class made", "生成类别等于所要求类别"), made, "share"),
        Effect(Words("the same over the judge's accuracy", "与判别器正确率之比"), relative, "1"),
        Effect(Words("accuracy of Bayes' rule", "贝叶斯分类正确率"), bayes, "share"),
        Effect(Words("mean distance of class means", "类别均值的平均距离"), apart, "1"),
        Effect(Words("evidence, learned less unit variance", "证据：可学方差减单位方差"), cost, "nats"),
        Effect(Words("class control, learned less unit variance", "类别控制：可学方差减单位方差"), control, "share"),
    )
    return Result(verdict, sentence, effects)


def _percent(interval: object) -> str:
    value, low, high = (100 * getattr(interval, name) for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def draw(seeds: Seeds, figure: Figure) -> None:
    """Draw the control of the class, the distances over training, and what learned variances change."""
    left, middle, right = panels(figure, 3)
    groups = {
        "made,\nunit": seeds(UNIT, "class asked is class made"),
        "made,\nlearned": seeds(LEARNED, "class asked is class made"),
        "Bayes,\nunit": seeds(UNIT, "accuracy of Bayes' rule"),
        "Bayes,\nlearned": seeds(LEARNED, "accuracy of Bayes' rule"),
        "judge": seeds("judge", "accuracy on real images"),
    }
    bars(left, {name: 100 * values for name, values in groups.items()}, (BLUE, ORANGE, BLUE, ORANGE, GREY))
    left.axhline(100 / seeds(UNIT, "by class").shape[1], color=GREY, linestyle="--", linewidth=1)
    left.set_ylim(0, 100)
    quiet(left, "Class asked, class made (dashed: chance)", "", "right, %")
    for arm, colour in ((UNIT, BLUE), (LEARNED, ORANGE)):
        band(middle, seeds(arm, "step")[0], seeds(arm, "distance"), f"{arm}, mean", colour)
        band(middle, seeds(arm, "step")[0], seeds(arm, "nearest"), f"{arm}, nearest", colour, ":")
    middle.set_ylim(bottom=0)
    legend(quiet(middle, "Distance of two class means", "step", "distance, in units of z"))
    difference = {
        "evidence,\nnats": seeds(LEARNED, "evidence") - seeds(UNIT, "evidence"),
        "control,\npoints": 100
        * (seeds(LEARNED, "class asked is class made") - seeds(UNIT, "class asked is class made")),
    }
    bars(right, difference)
    right.axhline(0, color="#3b3a37", linewidth=0.8)
    quiet(right, "Learned less unit variance", "", "difference, nats or percentage points")


CLAIM = Claim(
    number=8,
    name="classes",
    statements=("S15",),
    title=Words("Class means choose the class", "类别均值决定生成的类别"),
    statement=Words(
        "In the conditional VAE with a learned mean for every class and variance one, choosing the mean chooses the "
        "class of "
        "what is generated.",
        "在每类一个可学均值、方差为 1 的条件 VAE 中，选定均值就选定了生成样本的类别。",
    ),
    formula="KL = 1/2 sum_i (-log sigma_i^2 + (mu_i - mu_i^y)^2 + sigma_i^2 - 1)",
    criterion=Words(
        "Holds if the judge finds the class asked for in at least 80 % as many generated pictures as it is right about "
        "real "
        "ones (lower end of the 95 % interval); with a condition if in at least half of the generated pictures; chance "
        "is one "
        "in ten. The cost of the unit variance and the distances are reported, not judged.",
        "成立：判别器认出所要求类别的比例，至少是它对真实图像正确率的 80 %（95 % 区间下端）；有条件成立："
        "至少一半的生成图像；随机水平为十分之一。"
        "单位方差的代价与均值间距离只报告，不作判定。",
    ),
    units={
        "class asked is class made": "share",
        "by class": "share",
        "accuracy of Bayes' rule": "share",
        "evidence": "nats",
        "Fréchet distance": "1",
        "overlap": "share",
        "step": "steps",
        "distance": "1",
        "nearest": "1",
        "accuracy on real images": "share",
    },
    measure=measure,
    conclude=conclude,
    draw=draw,
)
