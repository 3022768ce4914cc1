"""Tiny trainings that truly have a disease, and one that has none."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.data import Dataset, Standardise
from sfumato.evaluation import quick_look
from sfumato.evaluation.diagnosis import Course, Finding, Settings, Symptoms, diagnose, measure
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.training import Listener, Trainer, TrainingConfig
from sfumato.verbs.doctor import course_of_lines

DIMS, CLASSES, STEPS = 12, 3, 160
CONFIG = TrainingConfig(
    steps=STEPS,
    batch_size=64,
    learning_rate=2e-2,
    schedule=WarmUpCosine(STEPS, warmup=10),
    ema_decay=0.95,
    precision="float32",
    log_every=STEPS // 10,
    evaluate_every=STEPS // 10,
    checkpoint_every=STEPS,
)


def dataset(kind: str = "plane", n: int = 900, noise: float = 0.3, train: float = 2 / 3) -> Dataset:
    """Return points near a bent plane (two factors); their classes say something, or nothing ("coin")."""
    generator = np.random.default_rng(1)
    factors = generator.normal(size=(n, 2))
    y = generator.integers(0, CLASSES, n)
    if kind == "classes":
        factors += 3 * np.array([[1, 0], [-1, 0.5], [0, -1]])[y]
    mixing = generator.normal(size=(2, DIMS))
    x = np.sin(factors) @ mixing + factors @ mixing[:, ::-1] + noise * generator.normal(size=(n, DIMS))
    if kind == "constant":
        x[:, :3] = 1.0
    x = x.astype(np.float32)
    if kind == "grey":
        x = (255 / (1 + np.exp(-x))).astype(np.uint8)
    first, second = int(train * n), int((train + (1 - train) / 2) * n)
    splits = {"train": np.arange(first), "validation": np.arange(first, second), "test": np.arange(second, n)}
    names = tuple("abc") if kind in ("classes", "coin") else ()
    return Dataset("made", x, y if names else None, splits, names)


def network(shape: tuple[int, ...], out: tuple[int, ...], width: int = 32) -> MLP:
    return MLP(shape, out, (width,), activation="silu")


def vae(likelihood: Any = None, latent: int = 3, classes: bool = False, dirac: bool = False, width: int = 32) -> VAE:
    likelihood = likelihood or Gaussian((DIMS,))
    mean = network((DIMS,), (latent,), width)
    posterior = Dirac(mean) if dirac else DiagonalGaussian(mean, network((DIMS,), (latent,), width))
    prior = ClassConditional(CLASSES, latent) if classes else StandardNormal(latent)
    return VAE(prior, posterior, network((latent,), likelihood.parameter_shape, width), likelihood)


class Remembers(Listener):
    """Keeps every line of metrics, with the latent dimensions, as a run does."""

    def __init__(self, *parts: Any) -> None:
        self.parts, self.lines = parts, []

    def on_metrics(self, line: Any) -> None:
        self.lines.append(dict(line))

    def on_evaluation(self, line: Any, model: nn.Module) -> Any:
        return quick_look(model, *self.parts)


@dataclass
class Patient:
    """What was trained, and how it went."""

    model: VAE
    preprocessing: Any
    data: Dataset
    settings: Settings
    course: Course
    lines: list[dict[str, Any]] = field(default_factory=list)

    def symptoms(self, **changes: Any) -> Symptoms:
        measured = measure(self.model, self.preprocessing, self.data)
        return Symptoms(self.settings, replace(self.course, **changes), measured)

    def findings(self) -> dict[str, Finding]:
        return {finding.name: finding for finding in diagnose(self.symptoms())}


def train(
    data: Dataset | None = None,
    build: Callable[[], VAE] = vae,
    objective: Objective | None = None,
    *,
    beta: float = 1.0,
    warm: int = 20,
    preprocessing: Any = None,
    seed: int = 0,
    **config: Any,
) -> Patient:
    """Train in memory, as the verb does."""
    data = data or dataset()
    with fixed_noise(seed):
        model = build()
    objective = objective or ELBO(beta=beta, schedule=WarmUp(warm))
    preprocessing = preprocessing or Standardise((DIMS,)).fit(data.array("train"))
    settings_of_training = replace(CONFIG, **config)
    listener = Remembers(data.split("validation"), preprocessing)
    trainer = Trainer(
        model, objective, data.split("train"), data.split("validation"), preprocessing, settings_of_training,
        listener=listener,
    )  # fmt: skip
    outcome = trainer.fit()
    likelihood = model.likelihood
    settings = Settings(
        objective=type(objective).__name__,
        likelihood=type(likelihood).__name__,
        variance=getattr(likelihood, "variance", None),
        posterior=type(model.posterior).__name__,
        beta=getattr(objective, "beta", None),
        free_bits=getattr(objective, "free_bits", 0.0),
        dims=DIMS,
        latent_dim=model.latent_dim,
        batch_size=settings_of_training.batch_size,
        train=len(data.rows("train")),
        steps=settings_of_training.steps,
        learning_rate=settings_of_training.learning_rate,
    )
    course = course_of_lines(listener.lines, getattr(objective, "schedule", None), outcome.step, outcome.best_step)
    return Patient(model, preprocessing, data, settings, replace(course, state="finished"), listener.lines)
