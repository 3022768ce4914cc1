"""disent: its Vae framework under a lightning Trainer."""

from __future__ import annotations

import logging
from typing import Any

import peers.torchvision_operators  # noqa: F401 - before whatever imports torchvision

# isort: split
import lightning
import torch
from disent.dataset import DisentDataset
from disent.frameworks.vae import Vae
from disent.model import AutoEncoder, DisentDecoder, DisentEncoder
from peers.torch_parts import Encoder, decoder, evaluate
from torch.utils.data import DataLoader
from worker import Gate
from worker import Peer as Base
from workloads import LEARNING_RATE, SIDE, Workload

SHAPE = (1, SIDE, SIDE)


class DisentsEncoder(DisentEncoder):  # type: ignore[misc]
    """The workload's encoder in disent's form: mean and log-variance side by side."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(x_shape=SHAPE, z_size=workload.latent_dim, z_multiplier=2)
        self.encoder = Encoder(workload)

    def encode(self, x: Any) -> Any:
        """Return (rows, 2 latents)."""
        return torch.cat(self.encoder(x.flatten(1)), -1)


class DisentsDecoder(DisentDecoder):  # type: ignore[misc]
    """The workload's decoder in disent's form."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(x_shape=SHAPE, z_size=workload.latent_dim)
        self.decoder = decoder(workload)

    def decode(self, z: Any) -> Any:
        """Return logits as images."""
        return self.decoder(z).view(-1, *SHAPE)


class Callback(lightning.Callback):  # type: ignore[misc]
    """Asks the gate before every epoch."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Wait for a request."""
        self.gate()

    def on_train_batch_end(self, *arguments: Any, **rest: Any) -> None:
        """Note the first step."""
        self.gate.step()


class Peer(Base):
    """disent's Vae."""

    packages = ("disent", "lightning", "torch", "torchvision", "numpy")
    settings = (
        "lightning.Trainer without checkpoints, logger, progress bar and model summary; the rest as it comes",
        "Vae(recon_loss bce, loss_reduction mean_sum, adam, lr 1e-3); our networks in its encoder and decoder",
        "DisentDataset over float32 tensors in memory, DataLoader(shuffle=True), num_workers 0 as in its README",
        "torchvision's operators nms and qnms are declared, never called: its compiled part is not for CPU builds",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        lightning.seed_everything(seed, verbose=False)
        self.encoder, self.decoder = DisentsEncoder(workload), DisentsDecoder(workload)
        settings = Vae.cfg(
            recon_loss="bce",
            loss_reduction="mean_sum",
            optimizer="adam",
            optimizer_kwargs={"lr": LEARNING_RATE},
        )
        self.model = Vae(model=AutoEncoder(encoder=self.encoder, decoder=self.decoder), cfg=settings)
        images = DisentDataset(torch.from_numpy(train).float().view(-1, *SHAPE))
        self.loader = DataLoader(images, batch_size=workload.batch, shuffle=True, num_workers=0)

    @staticmethod
    def cannot(workload: Workload) -> str:
        """It has no importance-weighted bound."""
        return "disent has no importance-weighted objective" if workload.samples > 1 else ""

    def train(self, gate: Gate) -> None:
        """Run lightning."""
        trainer = lightning.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Callback(gate)],
        )
        trainer.fit(self.model, self.loader)

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""
        return evaluate(self.model, self.encoder.encoder, x)

    def decode(self, z: Any) -> Any:
        """Return logits."""
        return evaluate(self.model, self.decoder.decoder, z)
