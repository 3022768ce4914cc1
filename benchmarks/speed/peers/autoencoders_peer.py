"""autoencoders: its VariationalAutoencoderModel and VAETrainer."""

from __future__ import annotations

import tempfile
from typing import Any

import autoencoders.training.trainer as training
import torch
from autoencoders import VariationalAutoencoderConfig
from autoencoders.data.base import DatasetLoaders, TensorSpec
from autoencoders.models.vae import VariationalAutoencoderModel
from autoencoders.modules import BaseAutoencoderModule, BaseAutoencoderModuleConfig
from peers.torch_parts import decoder, evaluate, trunk
from torch.nn import functional as F
from torch.utils.data import DataLoader
from worker import Gate
from worker import Peer as Base
from workloads import LEARNING_RATE, PIXELS, Workload


class Trunk(BaseAutoencoderModule):  # type: ignore[misc]
    """The workload's trunk in its form; the model puts the heads on it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(BaseAutoencoderModuleConfig(), TensorSpec(shape=(PIXELS,)))
        self.network, width = trunk(workload)
        self.output_spec = TensorSpec(shape=(width,))

    def forward(self, inputs: Any) -> Any:
        """Return features."""
        return self.network(inputs)


class Model(VariationalAutoencoderModel):  # type: ignore[misc]
    """Its model with the Bernoulli likelihood, which it has not got: only mse and l1, both averaged over pixels."""

    def compute_loss(self, reconstruction: Any, targets: Any) -> Any:
        """Return -log p(x | z), nats, summed over pixels, the mean over images."""
        return F.binary_cross_entropy_with_logits(reconstruction, targets, reduction="sum") / len(targets)


class Trainer(training.VAETrainer):  # type: ignore[misc]
    """Its trainer, which asks the gate before every epoch."""

    gate: Gate

    def train_epoch(self, dataloader: Any) -> Any:
        """Wait for a request, then train; what comes after it is not timed."""
        self.gate()
        found = super().train_epoch(dataloader)
        self.gate.done()
        return found

    def _step_optimizer(self, optimizer: Any) -> None:
        super()._step_optimizer(optimizer)
        self.gate.step()


class Peer(Base):
    """Its VAE."""

    packages = ("autoencoders", "torch", "numpy")
    settings = (
        "a subclass of VariationalAutoencoderModel with a Bernoulli likelihood (it has only mse and l1), free_bits 0 "
        "(its default of 0.02 is no ELBO); our networks as its modules",
        "its VAETrainer with Adam, learning rate 1e-3; validation (100 images) and saving the best epoch, which it does"
        " after each epoch, are not in the time",
        "DataLoader(shuffle=True), num_workers 0, its default, over float32 tensors in memory",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        torch.manual_seed(seed)
        config = VariationalAutoencoderConfig(latent_dim=workload.latent_dim, free_bits=0.0)
        self.model = Model(
            config=config,
            sample_spec=TensorSpec(shape=(PIXELS,)),
            encoder=Trunk(workload),
            decoder=decoder(workload),
        )
        images = torch.from_numpy(train).float()
        loader: DataLoader[Any] = DataLoader(images, batch_size=workload.batch, shuffle=True)  # type: ignore[arg-type]
        few: DataLoader[Any] = DataLoader(images[:100], batch_size=100)  # type: ignore[arg-type]
        self.loaders = DatasetLoaders(train=loader, validation=few, test=few)

    @staticmethod
    def cannot(workload: Workload) -> str:
        """It has no importance-weighted bound."""
        return "autoencoders has no importance-weighted objective" if workload.samples > 1 else ""

    def train(self, gate: Gate) -> None:
        """Run its trainer."""
        config = training.TrainingConfig(
            output_dir=tempfile.mkdtemp(),
            epochs=10**6,
            learning_rate=LEARNING_RATE,
            batch_size=self.workload.batch,
            device="cpu",
        )
        trainer = Trainer(self.model, config)
        trainer.gate = gate
        trainer.fit(self.loaders)

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""
        return evaluate(self.model, self.model.encode, x)

    def decode(self, z: Any) -> Any:
        """Return logits."""
        return evaluate(self.model, self.model.decode, z)
