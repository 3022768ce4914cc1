r"""The variational autoencoder, with or without classes.

Every sample x_k owns a posterior q(z | x_k); a z drawn from it goes through the decoder g; the likelihood scores x_k;
the prior p(z), or p(z | y), is what the posteriors are pulled to and what new z are drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from jaxtyping import Int
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import HALVES, Likelihood, Network, Posterior, Prior
from sfumato.core.spaces import REAL
from sfumato.core.spec import register
from sfumato.core.terms import Level, Terms
from sfumato.core.whole import NeedsWhole
from sfumato.models.model import Inference, Model, refuse_other_width, tempered


@final
@register("model")
class VAE(Model):
    r"""p(x, z | y) = p(x | z) p(z | y) with the posterior q(z | x).

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args:
        prior: p(z) or p(z | y).
        posterior: q(z | x).
        decoder: g, z to the numbers that the likelihood needs: ``out_shape = likelihood.parameter_shape``.
        likelihood: p(x | z).

    >>> from sfumato.networks import MLP
    >>> from sfumato.priors import StandardNormal
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> from sfumato.likelihoods import Bernoulli
    >>> model = VAE(
    ...     prior=StandardNormal(latent_dim=16),
    ...     posterior=DiagonalGaussian(mean=MLP((784,), (16,)), log_variance=MLP((784,), (16,))),
    ...     decoder=MLP((16,), (1, 784)),
    ...     likelihood=Bernoulli((784,)),
    ... )
    >>> model.sample(3, generator=0).shape
    torch.Size([3, 784])
    """

    def __init__(self, prior: Prior, posterior: Posterior, decoder: Network, likelihood: Likelihood) -> None:
        super().__init__()
        if not prior.latent_shape == posterior.latent_shape == decoder.in_shape:
            raise UserError(
                f"VAE needs one latent shape; got prior {prior.latent_shape}, posterior {posterior.latent_shape}, "
                f"decoder in_shape {decoder.in_shape}. Give all three the same."
            )
        refuse_other_width(likelihood, decoder)
        parts = (prior, *posterior.modules(), *decoder.modules())
        counts = {getattr(part, "num_classes", 0) for part in parts} - {0}
        if len(counts) > 1:
            raise UserError(f"VAE needs one number of classes; got parts for {sorted(counts)}. Give all the same.")
        place = getattr(prior, "space", REAL)
        possible = getattr(posterior, "spaces", (getattr(posterior, "space", REAL),))
        if place not in possible:
            raise UserError(
                f"VAE needs a prior and a posterior over the same z; those of {type(prior).__name__} and "
                f"{type(posterior).__name__} lie {' and '.join(sorted({place, *possible}))}. Take both for one of them."
            )
        self.prior, self.posterior, self.decoder, self.likelihood = prior, posterior, decoder, likelihood
        needing = [[part for part in room.modules() if isinstance(part, NeedsWhole)] for room in (prior, posterior)]
        if all(needing):
            raise UserError(
                f"{type(prior).__name__} is made of the posterior, and {type(posterior).__name__} follows the prior: "
                "neither can begin. Take another prior, or another posterior."
            )
        for part in needing[0] + needing[1]:
            part.bind(self)

    @property
    def halves(self) -> Mapping[str, Sequence[nn.Parameter]] | None:
        """The parameters of the posterior and of all the rest."""
        encoder = list(self.posterior.parameters())
        parts = (self.prior, self.decoder, self.likelihood)
        rest = [parameter for part in parts for parameter in part.parameters()]
        shared = {id(parameter) for parameter in encoder} & {id(parameter) for parameter in rest}
        return None if shared else dict(zip(HALVES, (encoder, rest), strict=True))

    def infer(self, x: Tensor, y: Int[Tensor, " batch"] | None = None) -> Inference:
        """Run the encoder; what is drawn is z itself."""
        return _Flat(self, x, y)


class _Flat(Inference):
    """One level."""

    def __init__(self, model: VAE, x: Tensor, y: Tensor | None) -> None:
        self.model, self.x, self.y = model, x, y
        self.posterior = model.posterior(x, y)
        without = getattr(model.prior, "without", None) if model.training else None
        self.prior = without(x, self.posterior) if without else model.prior(y)
        if getattr(self.posterior, "codes", None) is not None:
            self.prior = self.prior.knowing(self.posterior)

    def draw(self, samples: int) -> Tensor:
        # z, or the noise that z and its density follow from
        draw = getattr(self.posterior, "noise", self.posterior.rsample)
        found: Tensor = draw((samples,))
        return found

    def levels(self, drawn: Tensor) -> tuple[Level, ...]:
        carried = getattr(self.posterior, "carried", None)
        z, posterior = carried(drawn) if carried else (drawn, self.posterior)
        return (Level(z, posterior, self.prior),)

    def terms(self, drawn: Tensor) -> Terms:
        (level,) = self.levels(drawn)
        penalties = {**getattr(self.posterior, "penalties", {}), **self.model.decoder.penalties(level.z, self.y)}
        return Terms(self.x, self.y, (level,), self.model.decode(level.z, self.y), penalties)


__all__ = ["VAE", "tempered"]
