"""Ladders of latent variables for given data: of gated layers for vectors and small images, else of convolutions."""

from __future__ import annotations

import math

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.core.spec import Size, checked
from sfumato.models import HierarchicalVAE
from sfumato.networks.ladder import ConvBottomUp, ConvTopDown, MLPBottomUp, MLPTopDown
from sfumato.recipes.vae import prior_for

LADDERS = {"ladder": "levels of z above each other, each prior and posterior given the levels above"}
SMALL = 1024  # values of an image up to which layers are fully connected
SMALLEST_SIDE = 4
LEVELS, LEAST = 4, 4  # of vectors: how many, and the dimensions that the top ones have at least
MOST_LEVELS = 256
WIDTH, HIDDEN = 256, 128
WIDTHS, CONV_HIDDEN, CHANNELS = (32, 64, 64, 96, 128), 32, 4


def build_ladder(
    likelihood: Likelihood, latent_dim: int, levels: int, frequencies: tuple[float, ...] = ()
) -> HierarchicalVAE:
    """Return an untrained ladder.

    Args:
        likelihood: p(x | z), which knows the shape of an example.
        latent_dim: dimensions of z: of convolutions those of the vector at the top; of vectors those of the lowest
            level, see :func:`halving`.
        levels: L.
        frequencies: p(y) of each class for a class-conditional model, in which every class owns a learned mean of the
            top level; empty for a plain one.
    """
    shape, out = likelihood.shape, likelihood.parameter_shape
    if not is_convolutional(shape):
        dims = halving(latent_dim, levels)
        down = MLPTopDown(dims, out, WIDTH, HIDDEN)
        top = prior_for(dims[0], frequencies)
        return HierarchicalVAE(top, MLPBottomUp(shape, levels, WIDTH, HIDDEN), down, likelihood)
    widths, counts = WIDTHS[: sizes_of(shape)], spread(levels - 1, sizes_of(shape))
    up = ConvBottomUp(shape, widths, counts, CONV_HIDDEN)
    path = ConvTopDown(out, latent_dim, CHANNELS, widths, counts, CONV_HIDDEN)
    return HierarchicalVAE(prior_for(latent_dim, frequencies), up, path, likelihood)


def halving(latent_dim: int, levels: int) -> tuple[int, ...]:
    """Return the dimensions of each level, top first: half as many as the level below, but 4 at least.

    A top level that can say everything leaves the others nothing to say: they die (binary MNIST, see the log).

    >>> halving(16, 4)
    (4, 4, 8, 16)
    """
    return tuple(min(latent_dim, max(LEAST, latent_dim >> above)) for above in reversed(range(levels)))


def is_convolutional(shape: tuple[int, ...]) -> bool:
    """Return whether a ladder for examples of ``shape`` is one of convolutions."""
    return len(shape) == 3 and math.prod(shape) > SMALL and min(shape[1:]) >= 2 * SMALLEST_SIDE


def usual_levels(shape: tuple[int, ...]) -> int:
    """Return how many levels a ladder for examples of ``shape`` has if nobody says: for images two a size."""
    return 2 * sizes_of(shape) if is_convolutional(shape) else LEVELS


def checked_levels(levels: int) -> int:
    """Return ``levels`` or raise UserError."""
    levels = checked(levels, Size, "--levels")
    if not 2 <= levels <= MOST_LEVELS:
        raise UserError(f"--levels must be a whole number from 2 to {MOST_LEVELS}; got {levels}.")
    return levels


def sizes_of(shape: tuple[int, ...]) -> int:
    """Return how often images are halved: until their smaller side is from 4 to 7 pixels."""
    return max(1, min(len(WIDTHS), int(math.log2(min(shape[1:]) / SMALLEST_SIDE))))


def spread(levels: int, sizes: int) -> tuple[int, ...]:
    """Return how many levels lie at each size, from the image down; the small sizes, which cost least, get more.

    >>> spread(5, 3)
    (1, 2, 2)
    """
    counts = [0] * sizes
    for number in range(levels):
        counts[-1 - number % sizes] += 1
    return tuple(counts)
