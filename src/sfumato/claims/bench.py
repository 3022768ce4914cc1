"""The bench of one seed: the data, the models that experiments are made of, and their trainings, each done once.

All arms of a seed start from the same random numbers and see the same batches, so that they differ by nothing but what
is compared. Models are made of the library's own parts and trained by its own loop, in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.claims.claim import Setting
from sfumato.core.errors import Diverged, UserError
from sfumato.core.interfaces import Network, Objective, Posterior, Prior
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.schedules import WarmUpCosine
from sfumato.data import Dataset, Examples, InMemory, Levels, load_dataset
from sfumato.evaluation import Judge, train_judge
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import StandardNormal
from sfumato.training.config import TrainingConfig
from sfumato.training.listener import Listener
from sfumato.training.loop import Trainer
from sfumato.training.outcome import Outcome
from sfumato.training.several import Ended, fit_alone

WEIGHTS = 0x636C61696D  # "claim": keeps the first weights apart from other random numbers of the same seed
VALIDATION = 250
POINTS = 60
EMA = 0.98
WARM_UP = 20
SETTLED = 2_000
GENTLE = 0.3


@dataclass(frozen=True, eq=False)
class Trained:
    """A model after its training.

    Args:
        model: in evaluation mode, with averaged weights.
        curve: lines of training means in nats, with "step": about 60 of them.
        watched: what ``watch`` returned, with "step", as often.
        skipped: steps that changed nothing because they went wrong.
        recoveries: returns to an earlier state.
        diverged: whether it ended before its time.
    """

    model: VAE
    curve: list[dict[str, Any]]
    watched: list[dict[str, Any]]
    skipped: int
    recoveries: int
    diverged: bool

    def series(self, name: str) -> list[float]:
        """Return one quantity along the curve."""
        return [float(line[name]) for line in self.curve]


@dataclass(eq=False)
class Material:
    """What the seeds of a process share: the data and the judge.

    Args:
        setting: how much is spent.
    """

    setting: Setting

    @cached_property
    def dataset(self) -> Dataset:
        """The data.

        Raises:
            UserError: they are not images with classes.
        """
        dataset = load_dataset(self.setting.data)
        if not dataset.is_images or dataset.num_classes < 2:
            raise UserError(f"the claims need images of at least two classes; got {dataset!r}. Use fashion-mnist-mini.")
        return dataset

    @cached_property
    def preprocessing(self) -> Levels:
        """Grey values to [0, 1]."""
        return Levels(self.dataset.shape)

    @cached_property
    def judge(self) -> Judge:
        """The classifier whose features measure how far pictures are from real ones; the same for all seeds."""
        return train_judge(self.dataset, self.preprocessing, seed=0, steps=self.setting.judge_steps)

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        """Test images, preprocessed, and their classes, in an order that mixes the classes."""
        split = self.dataset.split("test")
        rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[: self.setting.test]
        raw, y = split.batch(rows)
        assert y is not None
        return self.preprocessing(raw), y

    @cached_property
    def training_images(self) -> Tensor:
        """All training images, preprocessed."""
        images: Tensor = self.preprocessing(self.dataset.split("train").x)
        return images


@dataclass(eq=False)
class Bench:
    """Where one seed of every experiment is done.

    Args:
        material: data and judge.
        seed: of weights, batches and noise.
        fit: trains; the benches of several seeds may have their trainings done at once.
    """

    material: Material
    seed: int
    fit: Callable[[Trainer], Ended | None] = fit_alone
    _done: dict[str, Trained] = field(default_factory=dict)

    @property
    def setting(self) -> Setting:
        """How much is spent."""
        return self.material.setting

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        return self.material.dataset.shape

    @property
    def test(self) -> Tensor:
        """Test images, preprocessed."""
        return self.material.real[0]

    @property
    def evidence_images(self) -> Tensor:
        """Those of them whose evidence is estimated."""
        return self.test[: self.setting.evidence]

    def mlp(self, width: int | None = None) -> Network:
        """Return an encoder of its own: image to a vector of the latent's size."""
        return MLP(self.shape, (self.setting.latent_dim,), (width or self.setting.width,))

    def heads(self, width: int | None = None) -> tuple[Network, Network, Network]:
        """Return two affine heads and the trunk that both sit on."""
        size = width or self.setting.width
        trunk = MLP(self.shape, (size,), (), activate_output=True)
        one, other = (MLP((size,), (self.setting.latent_dim,), ()) for _ in range(2))
        return one, other, trunk

    def vae(
        self,
        posterior: Callable[[], Posterior] | None = None,
        prior: Callable[[], Prior] | None = None,
        variance: Literal["fixed", "optimal", "shared"] = "optimal",
        scale: float = 1.0,
    ) -> VAE:
        """Return an untrained model: one trunk with two heads, N(0, I), and a normal with the optimal variance."""
        with fixed_noise(seed_for(WEIGHTS, self.seed)):
            decoder = MLP((self.setting.latent_dim,), (1, *self.shape), (self.setting.width,))
            return VAE(
                prior=prior() if prior else StandardNormal(self.setting.latent_dim),
                posterior=posterior() if posterior else DiagonalGaussian(*self.heads()),
                decoder=decoder,
                likelihood=Gaussian(self.shape, variance, scale),
            )

    def train(
        self,
        name: str,
        build: Callable[[], VAE],
        objective: Objective | None = None,
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
        preprocessing: nn.Module | None = None,
        watch: Callable[[VAE], Mapping[str, Any]] | None = None,
    ) -> Trained:
        """Train once under ``name``; whoever asks again gets the same.

        Args:
            name: of the arm, the same only for the same training.
            build: makes the model.
            objective: by default the ELBO.
            steps: by default the setting's.
            learning_rate: by default the setting's.
            preprocessing: by default grey values to [0, 1].
            watch: asked about the averaged model about 20 times on the way.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; what is half trained is no result.
        """
        if name not in self._done:
            steps = steps or self.setting.steps
            config = TrainingConfig(
                steps=steps,
                batch_size=self.setting.batch_size,
                learning_rate=learning_rate or self.setting.learning_rate,
                schedule=WarmUpCosine(steps, max(1, steps // WARM_UP)),
                ema_decay=EMA,
                precision="float32",
                engine="eager",
                seed=self.seed,
                log_every=max(1, steps // POINTS),
                evaluate_every=max(1, steps // 20) if watch else steps,
                checkpoint_every=max(1, steps // 5),
            )
            model = build()
            start_at_data(model, self.training_input(preprocessing))
            self._done[name] = self._fit(model, objective or ELBO(), config, preprocessing, _Notes(watch))
        return self._done[name]

    def standard(self) -> Trained:
        """Return the VAE that most claims compare with: the ELBO, the optimal variance."""
        return self.train("standard", self.vae)

    def without_kl(self) -> Trained:
        """Return the same without the KL term."""
        return self.train("without KL", self.vae, ELBO(beta=0.0))

    def autoencoder(self) -> Trained:
        """Return the autoencoder: no noise at all."""
        return self.train("autoencoder", lambda: self.vae(lambda: Dirac(self.mlp())), ELBO(beta=0.0))

    def fixed(self, scale: float, steps: int | None = None) -> Trained:
        """Return the VAE whose decoder has the standard deviation ``scale``, in units of the grey range."""
        name = f"fixed {scale:g} {steps or self.setting.steps}"
        return self.train(name, lambda: self.vae(variance="fixed", scale=scale), steps=steps)

    def training_input(self, preprocessing: nn.Module | None = None) -> Tensor:
        """Return the first 2,000 training images, preprocessed."""
        raw = self.material.dataset.split("train").x[:SETTLED]
        x: Tensor = (preprocessing or self.material.preprocessing)(raw)
        return x

    def _fit(
        self, model: VAE, objective: Objective, config: TrainingConfig, preprocessing: nn.Module | None, notes: _Notes
    ) -> Trained:
        validation = self.material.dataset.split("validation")
        few: Examples = InMemory(*validation.batch(torch.arange(min(VALIDATION, len(validation)))))
        train = self.material.dataset.split("train")
        trainer = Trainer(
            model, objective, train, few, preprocessing or self.material.preprocessing, config, listener=notes
        )
        ended = self.fit(trainer)
        if ended is None or (isinstance(ended, Outcome) and ended.signal is not None):
            raise KeyboardInterrupt
        model.load_state_dict(trainer.state.averaged.state_dict())
        guard = trainer.state.guard
        settle_variance(model.eval(), self.training_input(preprocessing))
        return Trained(model, notes.curve, notes.watched, guard.skipped, guard.recoveries, isinstance(ended, Diverged))


@torch.no_grad()
def start_at_data(model: VAE, x: Tensor) -> None:
    """Centre an untrained model on ``x``: the encoder's first layer, its means, and the decoder's last layer.

    The decoder's first weights shrink as well. z may be stretched and shifted without changing a reconstruction, when
    the decoder's first layer undoes it, so only the KL term says where z lies, and it is slow about it: with the usual
    start the variance of z stayed at 0.2 to 0.4 where its end is 1.

    Args:
        model: whose encoders and decoder are MLPs.
        x: training images, preprocessed.
    """
    centre = x.mean(0)
    for part in model.posterior.modules():
        if isinstance(part, MLP) and part.in_shape == centre.shape:
            first = affine(part)[0]
            first.bias.copy_(-first.weight @ centre.flatten())
    mean, decoder = model.posterior.mean, model.decoder
    assert isinstance(mean, MLP)
    assert isinstance(decoder, MLP)
    affine(mean)[-1].bias.sub_(model.encode(x).mean.mean(0))
    affine(decoder)[0].weight.mul_(GENTLE)
    affine(decoder)[-1].bias.copy_(centre.flatten())


def affine(network: MLP) -> list[nn.Linear]:
    """Return the affine layers of ``network``, from first to last."""
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]


@torch.no_grad()
def settle_variance(model: VAE, x: Tensor) -> None:
    """Give an optimal variance its end, the mean squared error of ``x``: the running average of a short training lags.

    Args:
        model: in evaluation mode; another kind of variance is left as it is.
        x: training images, preprocessed.
    """
    if isinstance(model.likelihood, Gaussian) and model.likelihood.variance == "optimal":
        error = (model.reconstruct(x, noise=True, generator=0) - x).double().square().mean()
        if error > 0 and error.isfinite():
            model.likelihood.log_variance.fill_(float(error.log()))


class _Notes(Listener):
    """Keeps the lines of a training.

    Args:
        watch: asked at every evaluation.
    """

    def __init__(self, watch: Callable[[VAE], Mapping[str, Any]] | None) -> None:
        self.watch = watch
        self.curve: list[dict[str, Any]] = []
        self.watched: list[dict[str, Any]] = []

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Keep the means of the training."""
        if line["split"] == "train":
            self.curve = [kept for kept in self.curve if kept["step"] < line["step"]] + [dict(line)]

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Ask about the model on its way."""
        if self.watch is not None:
            assert isinstance(model, VAE)
            with torch.no_grad():
                self.watched.append({"step": line["step"], **self.watch(model)})
        return {}
