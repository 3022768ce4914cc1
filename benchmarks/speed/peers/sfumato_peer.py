"""sfumato: Trainer.fit with its engine chosen by measurement, in the repository's own environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peers.torch_parts import decoder, evaluate, trunk
from torch import Tensor, nn
from worker import Gate
from worker import Peer as Base
from workloads import HIDDEN, LEARNING_RATE, LEVELS, SIDE, WIDTH, WORKLOADS, Workload

from sfumato.core.interfaces import Network
from sfumato.core.numerics import fixed_noise
from sfumato.core.spec import register
from sfumato.data import Dataset, Identity
from sfumato.evaluation.bounds import elbo_terms, importance_bound
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE, HierarchicalVAE, Model
from sfumato.networks import MLP
from sfumato.networks.ladder import MLPBottomUp, MLPTopDown
from sfumato.objectives import ELBO, IWAE
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.recipes import RECIPES
from sfumato.recipes.networks import heads
from sfumato.training import Listener, Trainer, TrainingConfig

SHAPE = (1, SIDE, SIDE)


@register("network")
class PythaesEncoder(Network):
    """The layers of pythae's Encoder_Conv_VAE_MNIST, but for its heads."""

    def __init__(self) -> None:
        layers, width = trunk(WORKLOADS["conv-128"])
        super().__init__(SHAPE, (width,))
        self.layers = layers

    def compute(self, x: Tensor) -> Tensor:
        """Return features."""
        features: Tensor = self.layers(x.flatten(1))
        return features


@register("network")
class PythaesDecoder(Network):
    """The layers of pythae's Decoder_Conv_AE_MNIST, with logits at the end."""

    def __init__(self) -> None:
        workload = WORKLOADS["conv-128"]
        super().__init__((workload.latent_dim,), (1, *SHAPE))
        self.layers = decoder(workload)

    def compute(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layers(x.flatten(1))
        return logits


def build(workload: Workload) -> Model:
    """Return the untrained model of a workload."""
    likelihood, latents = Bernoulli(SHAPE), workload.latent_dim
    if workload.network == "ladder":
        down = MLPTopDown(LEVELS, (1, *SHAPE), WIDTH, HIDDEN)
        return HierarchicalVAE(
            StandardNormal(LEVELS[0]), MLPBottomUp(SHAPE, len(LEVELS), WIDTH, HIDDEN), down, likelihood
        )
    if workload.network == "conv":
        return VAE(StandardNormal(latents), heads(PythaesEncoder(), latents), PythaesDecoder(), likelihood)
    if workload.network == "gated":
        recipe = RECIPES["mlp"]
        posterior = recipe.posterior(SHAPE, latents, 0)
        network = recipe.decoder((latents,), likelihood.parameter_shape, 0)
        return VAE(StandardNormal(latents), posterior, network, likelihood)
    posterior = heads(MLP(SHAPE, (512,), hidden=(), activate_output=True), latents)
    return VAE(StandardNormal(latents), posterior, MLP((latents,), (1, *SHAPE), hidden=(512,)), likelihood)


class Turns(Listener):
    """Asks the gate before every epoch."""

    def __init__(self, gate: Gate, steps: int) -> None:
        self.gate, self.steps = gate, steps

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Wait for the first request."""
        self.gate()

    def on_step(self, step: int) -> None:
        """Note the first step; wait after an epoch."""
        self.gate.step()
        if step % self.steps == 0:
            self.gate()


class Peer(Base):
    """sfumato's Trainer."""

    packages = ("sfumato", "torch", "numpy")
    settings = (
        "Trainer.fit, engine auto: the way of computing a step is measured and kept before the first step, which the "
        "time to the first step contains; guard, averaging, noise of (seed, step) and metrics as always",
        "learning rate 1e-3, precision auto, no folder: nothing is written. The weights that are scored are the "
        "current ones, not the averaged",
        "its own initialisation for the MLPs (He), torch's for the convolutions, whose layers are the peers'",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        with fixed_noise(seed):
            self.model = build(workload)
        rows = np.arange(len(train))
        splits = {"train": rows, "validation": rows[:0], "test": rows[:0]}
        self.images = Dataset("binary", train.reshape(-1, *SHAPE), None, splits).split("train")
        few = Dataset("few", train[:500].reshape(-1, *SHAPE), None, {**splits, "train": rows[:500]}).split("train")
        never = 10**6
        config = TrainingConfig(
            steps=never,
            batch_size=workload.batch,
            learning_rate=LEARNING_RATE,
            evaluate_every=never,
            checkpoint_every=never,
            seed=seed,
        )
        self.objective = IWAE(samples=workload.samples) if workload.samples > 1 else ELBO()
        self.pieces = (self.model, self.objective, self.images, few, Identity(SHAPE), config)
        self.trainer: Trainer | None = None

    def train(self, gate: Gate) -> None:
        """Run the training loop."""
        self.trainer = Trainer(*self.pieces, listener=Turns(gate, self.workload.steps))
        self.trainer.fit()

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""

        def encoded(values: Tensor) -> tuple[Tensor, Tensor]:
            found: Any = self.model.posterior(values.view(-1, *SHAPE))
            return found.mean, 2 * found.stddev.log()

        return evaluate(self.model, encoded, x)

    def decode(self, z: Any) -> Any:
        """Return logits."""
        return evaluate(self.model, lambda values: self.model.decoder(values).flatten(1), z)

    def bounds(self, x: Any, samples: int) -> Any:
        """Return the ELBO of a ladder by itself."""
        if self.workload.network == "ladder":
            return elbo_terms(self.model, torch.from_numpy(x).view(-1, *SHAPE))["elbo"].double().numpy()
        return super().bounds(x, samples)

    def bound(self, x: Any, samples: int) -> float:
        """Return the mean importance bound."""
        images = torch.from_numpy(x).view(-1, *SHAPE)
        return float(importance_bound(self.model, images, samples=samples, compiled=True).mean())

    def linears(self) -> list[Any]:
        """Return the affine layers of the MLP."""
        posterior = self.model.posterior
        assert isinstance(posterior, DiagonalGaussian)
        parts = (posterior.trunk, posterior.mean, posterior.log_variance, self.model.decoder)
        return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]

    def facts(self) -> dict[str, Any]:
        """Return which way of computing was chosen."""
        assert self.trainer is not None
        return {"engine": str(self.trainer.engine.way), "precision": self.trainer.runtime.describe()}
