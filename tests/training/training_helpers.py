"""A tiny training of every kind, ways to interrupt it, and all that must be the same after a resume."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import torch

from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.data import InMemory
from sfumato.data.preprocessing import Binarise, Standardise
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP, ConvDecoder, ConvEncoder
from sfumato.objectives import ELBO, IWAE
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.training import Listener, Trainer, TrainingConfig
from sfumato.training.engine import Engine

COUNT, BATCH, DIM, LATENT, CLASSES = 203, 16, 64, 4, 3
KINDS = ("conditional", "iwae", "optimal")
CONFIG = TrainingConfig(
    steps=60,
    batch_size=BATCH,
    learning_rate=1e-2,
    schedule=WarmUpCosine(60, warmup=10),
    weight_decay=0.01,
    clip_norm=20.0,
    ema_decay=0.99,
    precision="float32",
    seed=5,
    log_every=2,
    evaluate_every=12,
    checkpoint_every=3,
)


def examples(count, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    grey = torch.rand(CLASSES, DIM, generator=torch.Generator().manual_seed(1))[y]
    if kind == "optimal":
        return InMemory(grey + 0.1 * torch.randn(count, DIM, generator=generator))
    y[::7] = -1
    return InMemory((grey * 255).to(torch.uint8), y if kind == "conditional" else None)


def tiny(kind="conditional", seed=3, variance="optimal"):
    """Return (model, objective, train, validation, preprocessing), as a fresh process would make them."""
    with fixed_noise(seed):
        trunk = MLP((DIM,), (16,), hidden=(), activate_output=True)
        mean, log_variance = (MLP((16,), (LATENT,), hidden=()) for _ in range(2))
        likelihood = Gaussian((DIM,), variance) if kind == "optimal" else Bernoulli((DIM,))
        prior = ClassConditional(CLASSES, LATENT) if kind == "conditional" else StandardNormal(LATENT)
        decoder = MLP((LATENT,), likelihood.parameter_shape, hidden=(16,))
        model = VAE(prior, DiagonalGaussian(mean, log_variance, trunk), decoder, likelihood)
    objective = IWAE(samples=3) if kind == "iwae" else ELBO(schedule=WarmUp(20))
    train, validation = examples(COUNT, 11, kind), examples(37, 12, kind)
    if kind == "conditional":  # noise: the best step is soon past, so the best weights are not the last ones
        validation.x = torch.randint(256, validation.x.shape, generator=torch.Generator().manual_seed(9)).to(
            torch.uint8
        )
    preprocessing = {
        "conditional": lambda: Binarise((DIM,), "dynamic"),
        "iwae": lambda: Binarise((DIM,), "dynamic"),
        "optimal": lambda: Standardise((DIM,)).fit(train.x.numpy()),
    }[kind]()
    return model, objective, train, validation, preprocessing


def with_convolutions(model, objective, train, validation, preprocessing):
    """Put convolutions over 8x8 images in the place of a tiny model."""
    shape, channels = (1, 8, 8), (4,)
    with fixed_noise(3):
        trunk = ConvEncoder(shape, (16,), channels)
        mean, log_variance = (MLP((16,), (LATENT,), hidden=()) for _ in range(2))
        decoder = ConvDecoder((LATENT,), (1, *shape), channels)
        model = VAE(StandardNormal(LATENT), DiagonalGaussian(mean, log_variance, trunk), decoder, Bernoulli(shape))
    images = [InMemory(split.x.view(-1, *shape)) for split in (train, validation)]
    return model, objective, *images, Binarise(shape, "dynamic")


def trainer(folder=None, kind="conditional", listener=None, change=None, cls=Trainer, **config):
    """Return a fresh trainer of ``kind``; ``change`` may replace the parts that :func:`tiny` returns."""
    parts = list(tiny(kind))
    if change:
        parts = list(change(*parts))
    run = RunFolder(folder) if folder is not None else None
    if run is not None:
        run.path.mkdir(exist_ok=True)
    return cls(*parts, replace(CONFIG, **config), run, listener)


def resumed(folder, **arguments):
    """Return a fresh trainer that has taken over the latest checkpoint."""
    fresh = trainer(folder, **arguments)
    fresh.resume()
    return fresh


def everything(done):
    """Return part -> digest or value of all that a trainer holds and wrote; the time used is left out."""
    if done.folder:  # after its end a trainer's model has the best weights; the checkpoint has the last ones
        latest = done.folder.open_checkpoints().latest()
        tensors, plain = latest.tensors, latest.state["training"]
        assert latest.step == done.state.step
    else:
        tensors, plain = done.state.capture()
    return {
        **{stem: digest(tensors[stem]) for stem in ("model", "ema", "optimizer", "sums")},
        **{name: value for name, value in plain.items() if name != "seconds"},
        "best": digest(done.state.best_weights or {}),
        "delivered": digest(done.model.state_dict()),
        "metrics.jsonl": done.folder.metrics.path.read_bytes() if done.folder else b"",
    }


def straight(folder, **arguments):
    """Train without interruption and return everything."""
    whole = trainer(folder, **arguments)
    whole.fit()
    return everything(whole)


def differences(folder, whole, **arguments):
    """Resume, train to the end, and return the names of the parts that are not those of ``whole``."""
    again = resumed(folder, **arguments)
    again.fit()
    found = everything(again)
    return [name for name in whole if whole[name] != found[name]]


class Crash(Exception):
    """Stands for the death of the process: nothing is saved, nothing is cleaned up."""


class At(Listener):
    """Does ``action`` once, when ``event`` (step, metrics, evaluation) happens at ``step``."""

    def __init__(self, step, action, event="step"):
        self.step, self.action, self.event, self.fired, self.sentences = step, action, event, 0, []

    def _maybe(self, event, step):
        if not self.fired and (event, step) == (self.event, self.step):
            self.fired += 1
            self.action()

    def say(self, sentence):
        self.sentences.append(sentence)

    def on_step(self, step):
        self._maybe("step", step)

    def on_metrics(self, line):
        self._maybe("metrics", line["step"])

    def on_evaluation(self, line, model):
        self._maybe("evaluation", line["step"])
        return {}


class Hears(At):
    """Only listens."""

    def __init__(self):
        super().__init__(-1, None)


def crash():
    raise Crash


def terminate():
    signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def poisoned(patch, steps, value=float("nan"), recoveries=None, rows=1):
    """Let the loss of the first ``rows`` examples be ``value`` at ``steps``, or only after so many ``recoveries``."""
    compute, differentiate, hits, now = Engine._compute, Trainer._differentiate, [], {}

    def noted(self, *arguments):
        now["recoveries"] = self.state.guard.recoveries
        return differentiate(self, *arguments)

    def poisoned_output(self, raw, y, step):
        output = compute(self, raw, y, step)
        if step in steps and recoveries in (None, now["recoveries"]):
            hits.append(step)
            losses = {}
            for name, loss in output.losses.items():
                mask = torch.zeros_like(loss)
                mask[:rows] = 1
                losses[name] = loss + mask * (loss * value if value == value and abs(value) < 1e30 else value)
            return replace(output, losses=losses)
        return output

    with patch.context() as inner:
        inner.setattr(Trainer, "_differentiate", noted)
        inner.setattr(Engine, "_compute", poisoned_output)
        yield hits


class Child:
    """A forked process that does ``work`` and leaves; nothing of the test's process is torn down in it."""

    def __init__(self, work):
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = work() or 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=60):
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, "the child hangs"
            time.sleep(0.001)
        return self.returncode

    def kill(self, number=signal.SIGKILL):
        if self.poll() is None:
            os.kill(self.pid, number)
