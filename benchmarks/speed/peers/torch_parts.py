"""The networks of the workloads in plain torch, for the peers that take any network: images (rows, 784) to logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import CONVOLUTIONS, HIDDEN, LEVELS, PIXELS, SIDE, TRANSPOSED, WIDTH, Workload


def hidden(into: int, out: int, gated: bool) -> list[nn.Module]:
    """Return one hidden layer."""
    return [nn.Linear(into, 2 * out), nn.GLU()] if gated else [nn.Linear(into, out), nn.ReLU()]


def trunk(workload: Workload) -> tuple[nn.Sequential, int]:
    """Return images (rows, 784) to features, and how many there are."""
    if workload.network == "mlp":
        return nn.Sequential(*hidden(PIXELS, 512, False)), 512
    if workload.network == "gated":
        return nn.Sequential(*hidden(PIXELS, 300, True), *hidden(300, 300, True)), 300
    layers: list[nn.Module] = [nn.Unflatten(1, (1, SIDE, SIDE))]
    for into, out, kernel, stride, padding, _, _, _ in CONVOLUTIONS:
        layers += [nn.Conv2d(into, out, kernel, stride, padding), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten()), 1024


def decoder(workload: Workload) -> nn.Sequential:
    """Return z (rows, latents) to logits (rows, 784)."""
    if workload.network == "mlp":
        return nn.Sequential(*hidden(workload.latent_dim, 512, False), nn.Linear(512, PIXELS))
    if workload.network == "gated":
        layers = [*hidden(workload.latent_dim, 300, True), *hidden(300, 300, True), nn.Linear(300, PIXELS)]
        return nn.Sequential(*layers)
    layers = [nn.Linear(workload.latent_dim, 1024 * 16), nn.Unflatten(1, (1024, 4, 4))]
    for into, out, kernel, stride, padding, more, _, _ in TRANSPOSED:
        layers.append(nn.ConvTranspose2d(into, out, kernel, stride, padding, more))
        layers += [nn.BatchNorm2d(out), nn.ReLU()] if out > 1 else [nn.Flatten()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """A trunk with two affine heads: images (rows, 784) to mean and log-variance."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.trunk, width = trunk(workload)
        self.mean = nn.Linear(width, workload.latent_dim)
        self.log_variance = nn.Linear(width, workload.latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (rows, latents)."""
        features = self.trunk(x)
        return self.mean(features), self.log_variance(features)


class Ladder(nn.Module):
    """The ladder as people write it: every level's prior and posterior from one top-down state."""

    def __init__(self) -> None:
        super().__init__()
        below = LEVELS[1:]
        self.first = nn.Linear(PIXELS, 2 * WIDTH)
        self.steps = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in below)
        self.features = nn.ModuleList(nn.Linear(WIDTH, 2 * HIDDEN) for _ in LEVELS)
        self.posteriors = nn.ModuleList(nn.Linear(HIDDEN, 2 * size) for size in LEVELS)
        self.start = nn.Linear(LEVELS[0], 2 * WIDTH)
        self.priors = nn.ModuleList(nn.Linear(WIDTH, 2 * size) for size in below)
        self.looks = nn.ModuleList(nn.Linear(WIDTH, 2 * HIDDEN) for _ in below)
        self.merges = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in below)
        self.takes = nn.ModuleList(nn.Linear(size, 2 * WIDTH) for size in below)
        self.last = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, PIXELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the ELBO of each image, (rows,), with one draw of z."""
        up = F.glu(self.first(x))
        features = [self.features[0](up)]
        for step, feature in zip(self.steps, list(self.features)[1:], strict=True):
            up = up + F.glu(step(up))
            features.append(feature(up))
        features.reverse()
        mean, log_variance = self.posteriors[0](F.glu(features[0])).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        state = F.glu(self.start(z))
        for level, feature in enumerate(features[1:]):
            prior_mean, prior_log_variance = self.priors[level](state).chunk(2, 1)
            numbers = self.posteriors[level + 1](F.glu(self.looks[level](state) + feature))
            mean, log_variance = numbers.chunk(2, 1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            ratio = (log_variance - prior_log_variance).exp() + (mean - prior_mean) ** 2 / prior_log_variance.exp()
            kl = kl + 0.5 * (ratio - 1 - log_variance + prior_log_variance).sum(1)
            state = state + F.glu(self.merges[level](state) + self.takes[level](z))
        logits = self.out(F.glu(self.last(state)))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1) - kl


@torch.no_grad()
def evaluate(module: nn.Module, function: Any, values: Any) -> Any:
    """Return ``function`` of a numpy array, as numpy, with ``module`` in evaluation mode meanwhile."""
    was_training = module.training
    module.eval()
    found = function(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)))
    module.train(was_training)
    return tuple(part.numpy() for part in found) if isinstance(found, tuple) else found.numpy()
