"""``sfumato doctor`` without a run: the surroundings, and a test of some seconds, for a report of a bug."""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.gaussians import independent_normal
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import Constant
from sfumato.data import InMemory, Standardise
from sfumato.evaluation import elbo_terms, importance_bound
from sfumato.io.folder import load_model, save_model
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.training import Listener, Trainer, TrainingConfig

PACKAGES = ("sfumato", "torch", "numpy", "safetensors", "accelerate", "typer", "rich", "pillow")


def surroundings() -> dict[str, str]:
    """Return what a report of a bug should say about the machine."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    found["processor"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.machine()}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found["accelerator"] = f"{', '.join(names)} (CUDA {torch.version.cuda})"
    else:
        found["accelerator"] = "none"
    return found


def self_test() -> list[tuple[str, bool, str]]:
    """Return (what, whether it is right, the numbers) of each check; some seconds, nothing is left on the disk."""
    results = []
    for name, check in CHECKS.items():
        begin = time.monotonic()
        try:
            right, words = check()
        except Exception as error:  # a report is made of what fails, whatever it is
            right, words = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        results.append((name, right, f"{words} ({time.monotonic() - begin:.1f} s)"))
    return results


def to_dict(environment: dict[str, str], results: list[tuple[str, bool, str]]) -> dict[str, Any]:
    """Return both, ready for json."""
    tests = [{"name": name, "passed": passed, "numbers": numbers} for name, passed, numbers in results]
    return {"environment": environment, "self_test": tests, "passed": all(passed for _, passed, _ in results)}


def _exact() -> tuple[bool, str]:
    """At the exact posterior of x = a z + b + s e the ELBO is log p(x), and so is L_K."""
    model, x = _linear()
    a, b, s = 1.5, 0.3, 0.5
    truth = independent_normal(torch.full((1,), b).double(), torch.full((1,), a**2 + s**2).double().log()).log_prob(x)  # type: ignore[no-untyped-call]
    with fixed_noise(0):
        error = abs(float((elbo_terms(model, x, samples=2_000)["elbo"] - truth).mean()))
    bound = float((importance_bound(model, x, samples=10) - truth).abs().max())
    return bound < 1e-4 and error < 0.02, f"L_10 is off by {bound:.0e} nats"


def _linear() -> tuple[VAE, Tensor]:
    """Return the model of :func:`_exact` in float64, and 50 examples."""
    a, b, s = 1.5, 0.3, 0.5
    mean, log_variance, decoder = (MLP((1,), shape, hidden=()) for shape in ((1,), (1,), (1, 1)))
    model = VAE(
        StandardNormal(1), DiagonalGaussian(mean, log_variance), decoder, Gaussian((1,), "fixed", scale=s)
    ).double()
    model.likelihood.log_variance.fill_(2 * math.log(s))  # type: ignore[operator]
    variance = 1 / (1 + a**2 / s**2)
    values = ((mean, variance * a / s**2, -variance * a * b / s**2), (log_variance, 0.0, math.log(variance)))
    with torch.no_grad():
        for network, weight, bias in (*values, (decoder, a, b)):
            network.layers[-1].weight.fill_(weight)  # type: ignore[operator]
            network.layers[-1].bias.fill_(bias)  # type: ignore[operator]
    with fixed_noise(1):
        return model, torch.randn(50, 1).double() * 2


def _learns() -> tuple[bool, str]:
    """Sixty steps of a tiny VAE make its validation ELBO better, and a second training is the same to the last bit."""
    first, second = (_train() for _ in range(2))
    return first[-1] > first[0] and first == second, f"ELBO {first[0]:.2f} to {first[-1]:.2f} nats, twice the same"


def _train() -> list[float]:
    """Return the validation ELBO before and after a training in memory."""
    with fixed_noise(2):
        z = torch.randn(400, 2)
        data = z @ torch.randn(2, 8) + 0.1 * torch.randn(400, 8)
        model = VAE(
            StandardNormal(2),
            DiagonalGaussian(MLP((8,), (2,), (16,)), MLP((8,), (2,), (16,))),
            MLP((2,), (1, 8), (16,)),
            Gaussian((8,)),
        )
    config = TrainingConfig(
        60,
        64,
        1e-2,
        Constant(),
        ema_decay=0.0,
        precision="float32",
        log_every=60,
        evaluate_every=60,
        checkpoint_every=60,
    )
    preprocessing = Standardise((8,)).fit(data[:300].numpy())
    heard = _Hears()
    Trainer(model, ELBO(), InMemory(data[:300]), InMemory(data[300:]), preprocessing, config, listener=heard).fit()
    return heard.values


class _Hears(Listener):
    """Keeps the ELBO of each evaluation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Keep it."""
        self.values.append(line["elbo"])
        return {}


def _saves() -> tuple[bool, str]:
    """A model folder gives back the same numbers."""
    with fixed_noise(3):
        posterior = DiagonalGaussian(MLP((4,), (2,), (8,)), MLP((4,), (2,), (8,)))
        vae = VAE(StandardNormal(2), posterior, MLP((2,), (1, 4), (8,)), Gaussian((4,)))
        x = torch.randn(5, 4)
    model = PackagedModel(vae, Standardise((4,)).fit(x.numpy())).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", model, card={})
        again, _ = load_model(Path(folder) / "model", "packaged")
    assert isinstance(again, PackagedModel)
    same = torch.equal(model.encode(x).mean, again.eval().encode(x).mean)
    return same, "the same to the last bit" if same else "other numbers came back"


CHECKS: dict[str, Callable[[], tuple[bool, str]]] = {
    "exact evidence": _exact,
    "training": _learns,
    "model folder": _saves,
}
