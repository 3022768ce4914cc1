"""The usual example script: torch's own VAE example in shape, a DataLoader over tensors, eager float32, Adam."""

from __future__ import annotations

import math
from typing import Any

import torch
from peers.torch_parts import Encoder, Ladder, decoder, evaluate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from worker import Gate
from worker import Peer as Base
from workloads import LEARNING_RATE, Workload


class Model(nn.Module):
    """A VAE as people write it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        if workload.network == "ladder":
            self.ladder = Ladder()
            return
        self.encoder, self.decoder, self.samples = Encoder(workload), decoder(workload), workload.samples

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss: the ELBO's with one sample, else the importance-weighted bound's."""
        if hasattr(self, "ladder"):
            return -self.ladder(x).mean()
        mean, log_variance = self.encoder(x)
        if self.samples == 1:
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            return (reconstruction + kl) / len(x)
        noise = torch.randn(self.samples, *mean.shape)
        z = mean + torch.exp(0.5 * log_variance) * noise
        logits = self.decoder(z.flatten(0, 1)).view(self.samples, *x.shape)
        likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        weights = likelihood + 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        return -(torch.logsumexp(weights, 0) - math.log(self.samples)).mean()


class Peer(Base):
    """A loop over a DataLoader."""

    packages = ("torch", "numpy")
    settings = (
        "TensorDataset of float32 tensors in memory, DataLoader(shuffle=True), num_workers 0 (others were slower here)",
        "torch.optim.Adam, eager float32, torch's own initialisation",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        torch.manual_seed(seed)
        self.model = Model(workload)
        images = TensorDataset(torch.from_numpy(train).float())
        self.loader = DataLoader(images, batch_size=workload.batch, shuffle=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)

    def train(self, gate: Gate) -> None:
        """Train as the example does."""
        while True:
            gate()
            self.model.train()
            for (x,) in self.loader:
                loss = self.model(x)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                gate.step()

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""
        return evaluate(self.model, self.model.encoder, x)

    def decode(self, z: Any) -> Any:
        """Return logits."""
        return evaluate(self.model, self.model.decoder, z)

    def bounds(self, x: Any, samples: int) -> Any:
        """Return the ELBO of a ladder by itself."""
        if self.workload.network == "ladder":
            torch.manual_seed(0)
            return evaluate(self.model, self.model.ladder, x)
        return super().bounds(x, samples)
