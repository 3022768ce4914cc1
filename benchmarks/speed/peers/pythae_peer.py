"""pythae by its TrainingPipeline, with its own networks where it has them."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from peers.torch_parts import Encoder, decoder, evaluate
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import nn
from worker import Gate
from worker import Peer as Base
from workloads import LEARNING_RATE, SIDE, Workload

SHAPE = (1, SIDE, SIDE)


class GatedEncoder(BaseEncoder):  # type: ignore[misc]
    """The workload's encoder in pythae's form."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.encoder = Encoder(workload)

    def forward(self, x: Any) -> Any:
        """Return what pythae expects."""
        mean, log_variance = self.encoder(x.flatten(1))
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class GatedDecoder(BaseDecoder):  # type: ignore[misc]
    """The workload's decoder in pythae's form."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(decoder(workload), nn.Sigmoid())])

    def forward(self, z: Any) -> Any:
        """Return probabilities."""
        return ModelOutput(reconstruction=self.layers[0](z).reshape(-1, *SHAPE))


class Callback(TrainingCallback):  # type: ignore[misc]
    """Asks the gate before every epoch."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_epoch_begin(self, training_config: Any, **rest: Any) -> None:
        """Wait for a request."""
        self.gate()

    def on_train_step_end(self, training_config: Any, **rest: Any) -> None:
        """Note the first step."""
        self.gate.step()


class Peer(Base):
    """pythae's VAE and IWAE."""

    packages = ("pythae", "torch", "numpy")
    settings = (
        "TrainingPipeline with BaseTrainerConfig: batch size, learning rate 1e-3, Adam; the rest as it comes "
        "(no loader workers, no checkpoints on the way, no evaluation data: it keeps a copy of the best epoch)",
        "a BaseDataset of float32 tensors in memory; its progress bar, which it always shows, goes to a file",
        "reconstruction_loss bce; its default MLP, its networks for MNIST, and ours for the gated ones",
        "get_nll under torch.no_grad() and eval(), with its default batch_size of 100",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        torch.manual_seed(seed)
        options: dict[str, Any] = {
            "input_dim": SHAPE,
            "latent_dim": workload.latent_dim,
            "reconstruction_loss": "bce",
        }
        networks = {}
        if workload.network == "gated":
            networks = {"encoder": GatedEncoder(workload), "decoder": GatedDecoder(workload)}
        elif workload.network == "conv":
            config = VAEConfig(**options)
            networks = {"encoder": Encoder_Conv_VAE_MNIST(config), "decoder": Decoder_Conv_AE_MNIST(config)}
        if workload.samples > 1:
            self.model = IWAE(IWAEConfig(**options, number_samples=workload.samples), **networks)
        else:
            self.model = VAE(VAEConfig(**options), **networks)
        images = torch.from_numpy(train).float().view(-1, *SHAPE)
        self.images = BaseDataset(images, torch.ones(len(images)))
        self.seed = seed

    def train(self, gate: Gate) -> None:
        """Run the pipeline."""
        config = BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=self.workload.batch,
            num_epochs=10**6,
            learning_rate=LEARNING_RATE,
            optimizer_cls="Adam",
            seed=self.seed,
        )
        TrainingPipeline(self.model, config)(train_data=self.images, callbacks=[Callback(gate)])

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""

        def encoded(values: Any) -> Any:
            output = self.model.encoder(values.view(-1, *SHAPE))
            return output.embedding, output.log_covariance

        return evaluate(self.model, encoded, x)

    def decode(self, z: Any) -> Any:
        """Return logits: its decoder without the sigmoid at its end."""
        end = self.model.decoder.layers[-1]
        sigmoid, end[-1] = end[-1], nn.Identity()
        assert isinstance(sigmoid, nn.Sigmoid)
        logits = evaluate(self.model, lambda values: self.model.decoder(values).reconstruction.flatten(1), z)
        end[-1] = sigmoid
        return logits

    def bound(self, x: Any, samples: int) -> float:
        """Return what get_nll returns, which is the mean log-likelihood."""
        self.model.eval()
        with torch.no_grad():
            return float(self.model.get_nll(torch.from_numpy(x).view(-1, *SHAPE), n_samples=samples))

    def linears(self) -> list[Any]:
        """Return the affine layers of its default MLP."""
        encoder, layers = self.model.encoder, self.model.decoder.layers
        return [encoder.layers[0][0], encoder.embedding, encoder.log_var, layers[0][0], layers[1][0]]
