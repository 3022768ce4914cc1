"""Which networks a recipe gives to a model: a posterior and a decoder for any data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood, Network, Posterior
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.networks import MLP, Composed, ConvDecoder, ConvEncoder, KLDecoder, KLEncoder, WithLabel, WithMask
from sfumato.networks.autoencoder_kl import grid_size
from sfumato.posteriors import ClampedGaussian, DiagonalGaussian

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """A name for a pair of networks.

    Args:
        name: what ``--recipe`` takes.
        about: what it is for.
        posterior: (shape of an example, latent_dim, classes that the encoder sees or 0) -> q(z | x).
        decoder: (shape of z, shape of the likelihood's parameters, classes that it sees or 0) -> g.
        adapted: likelihood -> the recipe for it, where the networks depend on the range of x.
        places: shape of an example -> (height, width) of the latent grid, where there is one: the latent size is a
            multiple of their product.
        trunk: (shape of an example, classes that it sees or 0) -> features of x, for other posteriors than the usual
            one; None where there are no features to share.
    """

    name: str
    about: str
    posterior: Callable[[Shape, int, int], Posterior]
    decoder: Callable[[Shape, Shape, int], Network]
    adapted: Callable[[Likelihood], Recipe] | None = None
    places: Callable[[Shape], tuple[int, int]] | None = None
    trunk: Callable[[Shape, int], Network] | None = None


def labelled(build: Callable[[Shape], Network], shape: Shape, num_classes: int, row: bool = False) -> Network:
    """Return ``build(shape)``, or with classes a network that sees the label beside an input of ``shape``.

    ``row``: the network takes everything in one row, so that the label is a few more numbers and not planes.
    """
    if not num_classes:
        return build(shape)
    if row:
        return WithLabel(build((math.prod(shape) + num_classes,)), num_classes, shape)
    return WithLabel(build((shape[0] + num_classes, *shape[1:])), num_classes)


def reading(recipe: Recipe, features: Network | None) -> Recipe:
    """Return ``recipe`` with encoders that see ``features`` of x and not x itself; without any, as it is."""
    if features is None:
        return recipe
    shape, plain, trunk = features.out_shape, recipe.posterior, recipe.trunk

    def posterior(_: Shape, latent_dim: int, num_classes: int) -> Posterior:
        found = plain(shape, latent_dim, num_classes)
        if not isinstance(found, DiagonalGaussian):
            raise UserError(f"recipe {recipe.name} takes numbers of one kind, and no counts. Use another --recipe.")
        if found.trunk is not None:
            return DiagonalGaussian(found.mean, found.log_variance, Composed(features, found.trunk))
        return DiagonalGaussian(Composed(features, found.mean), Composed(features, found.log_variance))

    behind = None if trunk is None else lambda _, num_classes: Composed(features, trunk(shape, num_classes))
    return replace(recipe, posterior=posterior, trunk=behind)


def heads(trunk: Network, latent_dim: int) -> DiagonalGaussian:
    """Return the posterior with two affine heads on ``trunk``."""
    mean, log_variance = (MLP(trunk.out_shape, (latent_dim,), hidden=()) for _ in range(2))
    return DiagonalGaussian(mean, log_variance, trunk)


def mlp(widths: tuple[int, ...] = (300, 300), gated: bool = True, masked: bool = False) -> Recipe:
    """Fully connected, gated 300-300 as in Tomczak and Welling, 2018; one trunk with two heads.

    Without ``widths`` every map is affine. ``masked``: the encoder takes NaN for a missing value, and sees which.
    """

    def encoder(shape: Shape, num_classes: int, width: int, hidden: tuple[int, ...], activate: bool) -> Network:
        def build(in_shape: Shape) -> Network:
            return MLP(in_shape, (width,), hidden, gated, activate_output=activate)

        if masked:
            return WithMask(build((2 * shape[0], *shape[1:])))
        return labelled(build, shape, num_classes, row=True)

    def trunk(shape: Shape, num_classes: int) -> Network:
        return encoder(shape, num_classes, widths[-1], widths[:-1], True)

    def posterior(shape: Shape, latent_dim: int, num_classes: int) -> Posterior:
        if not widths:
            mean, log_variance = (encoder(shape, num_classes, latent_dim, (), False) for _ in range(2))
            return DiagonalGaussian(mean, log_variance)
        return heads(trunk(shape, num_classes), latent_dim)

    def decoder(latent: Shape, out_shape: Shape, num_classes: int) -> Network:
        return labelled(lambda shape: MLP(shape, out_shape, widths[::-1], gated), latent, num_classes)

    about = "small images, vectors, tables"
    return Recipe("mlp", about, posterior, decoder, trunk=trunk if widths else None)


def article() -> Recipe:
    """Two separate encoders f1 and f2 and a generator g, each fully connected: the article's picture."""

    def posterior(shape: Shape, latent_dim: int, num_classes: int) -> Posterior:
        def encoder(in_shape: Shape) -> Network:
            return MLP(in_shape, (latent_dim,))

        f1, f2 = (labelled(encoder, shape, num_classes, row=True) for _ in range(2))
        return DiagonalGaussian(mean=f1, log_variance=f2)

    def decoder(latent: Shape, out_shape: Shape, num_classes: int) -> Network:
        return labelled(lambda shape: MLP(shape, out_shape), latent, num_classes)

    return Recipe("article", "two separate encoders, as the article draws them", posterior, decoder)


def conv(name: str, widths: tuple[int, ...], features: int, about: str) -> Recipe:
    """Residual convolutions, one trunk with two heads."""

    def trunk(shape: Shape, num_classes: int) -> Network:
        return labelled(lambda s: ConvEncoder(s, (features,), widths), shape, num_classes)

    def posterior(shape: Shape, latent_dim: int, num_classes: int) -> Posterior:
        return heads(trunk(shape, num_classes), latent_dim)

    def decoder(latent: Shape, out_shape: Shape, num_classes: int) -> Network:
        return labelled(lambda shape: ConvDecoder(shape, out_shape, widths), latent, num_classes)

    return Recipe(name, about, posterior, decoder, trunk=trunk)


def autoencoder_kl(widths: tuple[int, ...] = (32, 64, 64), low: float = -1.0, high: float = 1.0) -> Recipe:
    """Latent diffusion's first stage, a grid of latent vectors, for x in [low, high]; diffusers loads its export."""

    def unlabelled(num_classes: int) -> None:
        if num_classes:
            raise UserError(
                "recipe autoencoder-kl shows the class to no network, as AutoencoderKL knows none. Use --condition "
                "prior, or another --recipe."
            )

    def posterior(shape: Shape, latent_dim: int, num_classes: int) -> Posterior:
        unlabelled(num_classes)
        centre, scale = (low + high) / 2, (high - low) / 2
        return ClampedGaussian(KLEncoder(shape, (2, latent_dim), widths, centre=centre, scale=scale))

    def decoder(latent: Shape, out_shape: Shape, num_classes: int) -> Network:
        unlabelled(num_classes)
        return KLDecoder(latent, out_shape, widths, scale=(high - low) / 2 if low == 0 else 1.0)

    def adapted(likelihood: Likelihood) -> Recipe:
        if isinstance(likelihood, Gaussian):
            return autoencoder_kl(widths)
        top = likelihood.levels - 1 if isinstance(likelihood, Categorical) else 1
        return autoencoder_kl(widths, 0.0, float(top))

    def places(shape: Shape) -> tuple[int, int]:
        return grid_size(shape[-2], shape[-1], len(widths))

    about = "the first stage of latent diffusion; `export --to diffusers` takes it"
    return Recipe("autoencoder-kl", about, posterior, decoder, adapted, places)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        mlp(),
        article(),
        conv("conv-small", (32, 64), 256, "images up to about 64 pixels"),
        conv("conv-large", (32, 64, 128, 256), 512, "larger images, with more time or a GPU"),
        autoencoder_kl(),
    )
}
