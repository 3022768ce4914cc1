"""JAX: flax networks, optax, the data on the device, and a whole epoch in one jitted scan."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from worker import Gate
from worker import Peer as Base
from workloads import CONVOLUTIONS, LEARNING_RATE, PIXELS, SIDE, TRANSPOSED, Workload


def convolve(x: Any, kernel: Any, stride: int, pad: tuple[tuple[int, int], tuple[int, int]]) -> Any:
    """Return the convolution of x (rows, h, w, channels) as one matrix product of its patches.

    XLA has no fast gradients of convolutions on the CPU: written like this a step was many times as fast.
    """
    high, wide = kernel.shape[:2]
    x = jnp.pad(x, ((0, 0), *pad, (0, 0)))
    rows, columns = (
        (size - width) // stride * stride + 1 for size, width in zip(x.shape[1:3], (high, wide), strict=True)
    )
    parts = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(high) for j in range(wide)]
    return jnp.concatenate(parts, -1) @ kernel.reshape(-1, kernel.shape[-1])


class Convolution(nn.Module):  # type: ignore[misc]
    """nn.Conv with kernel 4, stride 2 and padding 1."""

    channels: int

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        """Map (rows, h, w, channels) to (rows, h / 2, w / 2, channels)."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return convolve(x, kernel, 2, ((1, 1), (1, 1))) + bias


class Transposed(nn.Module):  # type: ignore[misc]
    """nn.ConvTranspose with kernel 3, stride 2 and padding 1, as four plain convolutions, one for each parity.

    With output o = 2 i - 1 + k, even rows see the kernel's row 1, odd ones rows 2 and 0; columns alike.
    """

    channels: int
    size: int

    @nn.compact  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        """Map (rows, h, w, channels) to (rows, size, size, channels)."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        taps = (slice(1, 2), slice(2, None, -2))

        def phase(a: int, b: int) -> Any:
            return convolve(x, kernel[taps[a], taps[b]], 1, ((0, a), (0, b)))

        rows = [jnp.stack([phase(a, b) for b in range(2)], 3) for a in range(2)]  # (rows, h, w, 2, channels) each
        whole = jnp.stack(rows, 2).reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], self.channels)
        return whole[:, : self.size, : self.size] + bias


class Networks(nn.Module):  # type: ignore[misc]
    """Encoder and decoder of a workload."""

    workload: Workload

    def setup(self) -> None:
        """Make the layers."""
        kind, latents = self.workload.network, self.workload.latent_dim
        self.mean, self.log_variance = nn.Dense(latents), nn.Dense(latents)
        if kind == "conv":
            self.down = [Convolution(row[1]) for row in CONVOLUTIONS]
            self.start = nn.Dense(1024 * 16)
            self.up = [Transposed(row[1], row[7]) for row in TRANSPOSED]
            self.norms = [nn.BatchNorm(momentum=0.9) for _ in range(len(CONVOLUTIONS) + len(TRANSPOSED) - 1)]
        else:
            widths, gate = ((512,), 1) if kind == "mlp" else ((300, 300), 2)
            self.down, self.up = [nn.Dense(gate * width) for width in widths], [nn.Dense(gate * w) for w in widths]
            self.logits = nn.Dense(PIXELS)

    def activate(self, h: Any) -> Any:
        """Return relu, or the gated half."""
        return nn.relu(h) if self.workload.network == "mlp" else nn.glu(h)

    def encode(self, x: Any, train: bool) -> Any:
        """Return mean and log-variance of images (rows, 784)."""
        if self.workload.network == "conv":
            h = x.reshape(-1, SIDE, SIDE, 1)
            for layer, norm in zip(self.down, self.norms, strict=False):
                h = nn.relu(norm(layer(h), use_running_average=not train))
            h = h.reshape(len(x), -1)
        else:
            h = x
            for layer in self.down:
                h = self.activate(layer(h))
        return self.mean(h), self.log_variance(h)

    def decode(self, z: Any, train: bool) -> Any:
        """Return logits (..., 784)."""
        if self.workload.network != "conv":
            for layer in self.up:
                z = self.activate(layer(z))
            return self.logits(z)
        h = self.start(z).reshape(-1, 4, 4, 1024)
        for layer, norm in zip(self.up, self.norms[len(CONVOLUTIONS) :], strict=False):
            h = nn.relu(norm(layer(h), use_running_average=not train))
        return self.up[-1](h).reshape(len(z), PIXELS)

    def __call__(self, x: Any, key: Any) -> Any:
        """Return the loss: the ELBO's with one sample, else the importance-weighted bound's."""
        samples = self.workload.samples
        mean, log_variance = self.encode(x, True)
        noise = jax.random.normal(key, (samples, *mean.shape) if samples > 1 else mean.shape)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        likelihood = -optax.sigmoid_binary_cross_entropy(self.decode(z, True), x).sum(-1)
        if samples == 1:
            kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
            return (kl - likelihood).mean()
        weights = likelihood + 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        return -(jax.nn.logsumexp(weights, 0) - math.log(samples)).mean()


class Peer(Base):
    """A scanned epoch."""

    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    settings = (
        "flax.linen, optax.adam, float32; the data on the device as uint8; permutation, gather, noise and all steps of "
        "an epoch in one jax.jit(lax.scan) with donated buffers",
        "convolutions written as matrix products of patches, because XLA has no fast gradients of its own on the CPU",
        "its first step is its first epoch: the scan is compiled as a whole",
    )

    def __init__(self, workload: Workload, train: Any, seed: int) -> None:
        super().__init__(workload, train, seed)
        self.networks, optimizer = Networks(workload), optax.adam(LEARNING_RATE)
        data, key = jnp.asarray(train), jax.random.key(seed)
        self.key, start, noise = jax.random.split(key, 3)
        initial = jax.jit(self.networks.init)(start, data[:2].astype(jnp.float32), noise)
        parameters, rest = initial["params"], initial.get("batch_stats", {})
        self.state: Any = (parameters, rest, optimizer.init(parameters))

        def loss(parameters: Any, rest: Any, x: Any, key: Any) -> Any:
            variables = {"params": parameters, "batch_stats": rest}
            value, changed = self.networks.apply(variables, x, key, mutable=["batch_stats"])
            return value, changed.get("batch_stats", {})

        def step(state: Any, batch: Any) -> Any:
            parameters, rest, momenta = state
            rows, key = batch
            x = data[rows].astype(jnp.float32)
            (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, rest, x, key)
            updates, momenta = optimizer.update(gradient, momenta, parameters)
            return (optax.apply_updates(parameters, updates), rest, momenta), value

        def epoch(state: Any, key: Any) -> Any:
            order, noise = jax.random.split(key)
            rows = jax.random.permutation(order, len(data)).reshape(workload.steps, workload.batch)
            return jax.lax.scan(step, state, (rows, jax.random.split(noise, workload.steps)))

        self.epoch = jax.jit(epoch, donate_argnums=0)

    def train(self, gate: Gate) -> None:
        """Run scanned epochs."""
        while True:
            gate()
            self.key, key = jax.random.split(self.key)
            self.state, losses = self.epoch(self.state, key)
            jax.block_until_ready(losses)
            gate.step()

    def _apply(self, method: Any, values: Any) -> Any:
        parameters, rest, _ = self.state
        variables = {"params": parameters, "batch_stats": rest}
        found = jax.jit(lambda given, x: self.networks.apply(given, x, False, method=method))(variables, values)
        return jax.tree.map(np.asarray, found)

    def encode(self, x: Any) -> Any:
        """Return mean and log-variance."""
        return self._apply(Networks.encode, x)

    def decode(self, z: Any) -> Any:
        """Return logits."""
        return self._apply(Networks.decode, z)
