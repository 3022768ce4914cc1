"""What is trained, the same for everyone, and what it costs in multiply-adds. Standard library only.

A forward pass of one image takes M multiply-adds: those of the encoder, and K times those of the decoder where K draws
of z are decoded. Of them F are in the first layer, which needs no gradient of its input. A training step takes

    2 (3 M - F)   floating-point operations an image:

two for each multiply-add; forward, the gradient of the weights and the gradient of the input. Activations, noise, loss
and Adam are left out, so the fraction of the peak that follows from it is a lower bound of what the machine does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

SIDE = 28
PIXELS = SIDE * SIDE
LEVELS, WIDTH, HIDDEN = (4, 8, 16, 16), 256, 128  # of the ladder: z from the top, its states, its posteriors
LEARNING_RATE = 1e-3

# pythae's Encoder_Conv_VAE_MNIST and Decoder_Conv_AE_MNIST, convolutions with batch normalisation and ReLU between:
# (in channels, out channels, kernel, stride, padding, output padding, size of the input, size of the output)
CONVOLUTIONS = (
    (1, 128, 4, 2, 1, 0, 28, 14),
    (128, 256, 4, 2, 1, 0, 14, 7),
    (256, 512, 4, 2, 1, 0, 7, 3),
    (512, 1024, 4, 2, 1, 0, 3, 1),
)
TRANSPOSED = (
    (1024, 512, 3, 2, 1, 0, 4, 7),
    (512, 256, 3, 2, 1, 1, 7, 14),
    (256, 1, 3, 2, 1, 1, 14, 28),
)


@dataclass(frozen=True)
class Workload:
    """One model on one batch size.

    Args:
        name: its key in the result.
        about: what the page calls it.
        network: "mlp", 784-512-16 with ReLU; "gated", 784-300-300-40 with gates; "conv", pythae's layout for MNIST;
            "ladder", gated layers with four levels of z.
        batch: images a step.
        images: the training images of an epoch, a multiple of ``batch``: the first of the training split.
        latent_dim: dimensions of z.
        samples: draws of z for each image; more than one: the importance-weighted bound.
        turn: epochs that are timed at once.
        epochs: after so many (or after all that were timed, if more) the held-out bound is computed.
    """

    name: str
    about: str
    network: Literal["mlp", "gated", "conv", "ladder"]
    batch: int
    images: int
    latent_dim: int = 16
    samples: int = 1
    turn: int = 1
    epochs: int = 10

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.images // self.batch

    def total_epochs(self, rounds: int) -> int:
        """Epochs that a model has seen when it is scored: one to warm up, the timed ones, and what is missing."""
        return max(self.epochs, 1 + rounds * self.turn)

    def multiply_adds(self) -> tuple[int, int]:
        """Return (M, F) of one image, as above."""
        if self.network == "conv":
            layers = [into * out * kernel**2 * after**2 for into, out, kernel, _, _, _, _, after in CONVOLUTIONS]
            features, before_decoder = 1024, 1024 * 16
            decoder = sum(into * out * kernel**2 * before**2 for into, out, kernel, _, _, _, before, _ in TRANSPOSED)
            heads, first = 2 * features * self.latent_dim, layers[0]
            return sum(layers) + heads + self.samples * (self.latent_dim * before_decoder + decoder), first
        if self.network == "ladder":
            gated, below = 2 * WIDTH * WIDTH, LEVELS[1:]
            up = (len(LEVELS) - 1) * gated + len(LEVELS) * 2 * WIDTH * HIDDEN
            top = 2 * LEVELS[0] * (HIDDEN + WIDTH)
            rungs = sum(2 * size * (WIDTH + HIDDEN + WIDTH) + 2 * WIDTH * HIDDEN + gated for size in below)
            first = 2 * PIXELS * WIDTH
            return first + up + top + rungs + gated + WIDTH * PIXELS, first
        widths, gate = ((512,), 1) if self.network == "mlp" else ((300, 300), 2)
        sizes = (PIXELS, *widths)
        hidden = [gate * into * out for into, out in itertools.pairwise(sizes)]
        back = (self.latent_dim, *widths[::-1])
        decoder = sum(gate * into * out for into, out in itertools.pairwise(back)) + back[-1] * PIXELS
        return sum(hidden) + 2 * widths[-1] * self.latent_dim + self.samples * decoder, hidden[0]

    def operations(self) -> int:
        """Return the floating-point operations of training on one image, 2 (3 M - F)."""
        total, first = self.multiply_adds()
        return 2 * (3 * total - first)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("mlp-100", "784-512-16, batch 100", "mlp", 100, 10_000, turn=3, epochs=15),
        Workload("mlp-512", "784-512-16, batch 512", "mlp", 512, 9_728, turn=3, epochs=15),
        Workload("conv-128", "convolutions of pythae's size (17 M), batch 128", "conv", 128, 1_024, turn=2, epochs=10),
        Workload("iwae-50", "784-512-16, IWAE with 50 samples, batch 100", "mlp", 100, 1_000, samples=50, epochs=10),
        Workload("gated-100", "gated 300-300, 40 latents, batch 100", "gated", 100, 10_000, 40, turn=2, epochs=10),
        Workload("ladder-100", "ladder of four levels, gated 256, batch 100", "ladder", 100, 5_000, 44, epochs=10),
    )
}
BOUND_IMAGES, BOUND_SAMPLES = 1_000, 100
