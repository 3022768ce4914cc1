r"""The variational autoencoder, with or without classes.

Every sample x_k owns a posterior q(z | x_k); a z drawn from it goes through the decoder g; the likelihood scores x_k;
the prior p(z), or p(z | y), is what the posteriors are pulled to and what new z are drawn from.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Int
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood, Network, Posterior, Prior
from sfumato.core.spec import register
from sfumato.core.terms import Level, Terms
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
        self.prior, self.posterior, self.decoder, self.likelihood = prior, posterior, decoder, likelihood

    def infer(self, x: Tensor, y: Int[Tensor, " batch"] | None = None) -> Inference:
        """Run the encoder; what is drawn is z itself."""
        return _Flat(self, x, y)


class _Flat(Inference):
    """One level."""

    def __init__(self, model: VAE, x: Tensor, y: Tensor | None) -> None:
        self.model, self.x, self.y = model, x, y
        self.posterior, self.prior = model.posterior(x, y), model.prior(y)

    def draw(self, samples: int) -> Tensor:
        z: Tensor = self.posterior.rsample((samples,))
        return z

    def levels(self, drawn: Tensor) -> tuple[Level, ...]:
        return (Level(drawn, self.posterior, self.prior),)

    def terms(self, drawn: Tensor) -> Terms:
        return Terms(self.x, self.y, self.levels(drawn), self.model.decode(drawn, self.y))


__all__ = ["VAE", "tempered"]
