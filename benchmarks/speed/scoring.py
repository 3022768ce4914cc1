"""Bounds on log p(x) from a posterior and a decoder, in numpy: the same float32 formula and noise for everyone.

    ELBO = log p(x | z) - KL(N(mu, sigma^2) || N(0, I)),   z = mu + sigma eps        (one draw)
    L_K  = log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)                              (K draws)

with log p(x | z) = sum_i (x_i l_i - log(1 + exp(l_i))) of the decoder's logits l. Sums over images are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
NOISE_SEED = 2026


def log_likelihood(logits: Array, x: Array) -> Array:
    """Return log p(x | z), (rows,), of logits and binary x, both (rows, pixels)."""
    softplus = np.logaddexp(np.float32(0), logits)
    found: Array = (x * logits - softplus).sum(-1, dtype=np.float64)
    return found


def kl(mean: Array, log_variance: Array) -> Array:
    """Return KL(q || N(0, I)), (rows,)."""
    terms = np.exp(log_variance) + mean**2 - 1 - log_variance
    found: Array = 0.5 * terms.sum(-1, dtype=np.float64)
    return found


def bounds(
    encode: Callable[[Array], tuple[Array, Array]],
    decode: Callable[[Array], Array],
    x: Array,
    samples: int = 1,
    block: int = 10_000,
) -> Array:
    """Return the ELBO (one sample) or L_K of each image, nats, (images,).

    Args:
        encode: images (rows, pixels) to mean and log-variance, (rows, latents).
        decode: z (rows, latents) to logits (rows, pixels).
        x: binary images, float32 (images, pixels).
        samples: K.
        block: rows that are decoded together.
    """
    generator = np.random.default_rng(NOISE_SEED)
    found, images = [], max(1, block // samples)
    for start in range(0, len(x), images):
        part = x[start : start + images]
        mean, log_variance = encode(part)
        noise = generator.standard_normal((samples, *mean.shape), dtype=np.float32)
        z = mean + np.exp(0.5 * log_variance) * noise
        logits = decode(z.reshape(-1, z.shape[-1])).reshape(samples, *part.shape)
        likelihood = log_likelihood(logits, part)
        if samples == 1:
            found.append(likelihood[0] - kl(mean, log_variance))
        else:
            log_ratio = 0.5 * (noise**2 + log_variance - z**2).sum(-1, dtype=np.float64)
            found.append(np.logaddexp.reduce(likelihood + log_ratio, axis=0) - np.log(samples))
    return np.concatenate(found)
