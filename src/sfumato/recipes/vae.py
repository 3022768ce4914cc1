"""The VAE and the class-conditional VAE for given data."""

from __future__ import annotations

from typing import Literal

from sfumato.core.interfaces import Likelihood, Prior
from sfumato.models import VAE
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.recipes.networks import Recipe

Condition = Literal["prior", "decoder", "encoder", "both"]


def prior_for(latent_dim: int, frequencies: tuple[float, ...] = ()) -> Prior:
    """Return N(0, I), or with ``frequencies`` p(y) one learned mean for each class."""
    return ClassConditional(len(frequencies), latent_dim, frequencies) if frequencies else StandardNormal(latent_dim)


def build_vae(
    recipe: Recipe,
    likelihood: Likelihood,
    latent_dim: int,
    frequencies: tuple[float, ...] = (),
    condition: Condition = "prior",
) -> VAE:
    """Return an untrained VAE.

    Args:
        recipe: the networks.
        likelihood: p(x | z), which knows the shape of an example.
        latent_dim: the number of dimensions of z.
        frequencies: p(y) of each class for a class-conditional model, in which every class owns a learned mean; empty
            for a plain one.
        condition: who sees y besides the prior: ``prior``, nobody (the article's form); ``decoder``; ``encoder``;
            ``both``.
    """
    classes = len(frequencies)
    recipe = recipe.adapted(likelihood) if recipe.adapted else recipe
    encoder_sees = classes if condition in ("encoder", "both") else 0
    decoder_sees = classes if condition in ("decoder", "both") else 0
    return VAE(
        prior_for(latent_dim, frequencies),
        recipe.posterior(likelihood.shape, latent_dim, encoder_sees),
        recipe.decoder((latent_dim,), likelihood.parameter_shape, decoder_sees),
        likelihood,
    )
