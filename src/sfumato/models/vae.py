r"""The variational autoencoder, with or without classes.

Every sample x_k owns a posterior q(z | x_k); a z drawn from it goes through the decoder g; the likelihood scores x_k;
the prior p(z), or p(z | y), is what the posteriors are pulled to and what new z are drawn from.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.interfaces import Likelihood, Network, Posterior, Prior
from sfumato.core.numerics import fixed_noise
from sfumato.core.spec import register
from sfumato.core.terms import Level, Terms

Noise = int | torch.Generator | None


@final
@register("model")
class VAE(nn.Module):
    r"""p(x, z | y) = p(x | z) p(z | y) with the posterior q(z | x).

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args:
        prior: p(z) or p(z | y).
        posterior: q(z | x).
        decoder: g, z to the numbers that the likelihood needs: ``out_shape = likelihood.parameter_shape``.
        likelihood: p(x | z).

    All labels are class numbers 0 ... num_classes - 1, -1 where unknown. Methods that draw take ``generator``, a seed
    or a ``torch.Generator``, and then leave torch's own random state as it was.

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
        if decoder.out_shape != likelihood.parameter_shape:
            raise UserError(
                f"{type(likelihood).__name__} needs {likelihood.numbers_per_value} numbers for each data value: a "
                f"decoder with out_shape={likelihood.parameter_shape}; got {decoder.out_shape}. Build it like that."
            )
        parts = (prior, *posterior.modules(), *decoder.modules())
        counts = {getattr(part, "num_classes", 0) for part in parts} - {0}
        if len(counts) > 1:
            raise UserError(f"VAE needs one number of classes; got parts for {sorted(counts)}. Give all the same.")
        self.prior, self.posterior, self.decoder, self.likelihood = prior, posterior, decoder, likelihood

    @property
    def num_classes(self) -> int:
        """The number of classes of a conditional model, else 0."""
        return self.prior.num_classes or getattr(self.decoder, "num_classes", 0)

    @property
    def labels_reach_networks(self) -> bool:
        """Whether encoder or decoder see the label; otherwise only the prior does."""
        return self.posterior.sees_label or self.decoder.sees_label

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return int(torch.Size(self.prior.latent_shape).numel())

    def terms(self, x: Tensor, y: Int[Tensor, " batch"] | None = None, samples: int = 1) -> Terms:
        """Return what the model says about ``x``, from ``samples`` draws of z for each example.

        Args:
            x: (batch, *data), preprocessed.
            y: class numbers, (batch,), -1 where unknown.
            samples: S.
        """
        posterior = self.posterior(x, y)
        z = posterior.rsample((samples,))
        observation = self.likelihood(self.decoder(z, y))
        return Terms(x, y, (Level(z, posterior, self.prior(y)),), observation)

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1) -> Terms:
        """Return :meth:`terms`."""
        return self.terms(x, y, samples)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z | x), of batch shape (batch,)."""
        posterior: Distribution = self.posterior(x, y)
        return posterior

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """Return p(x | z) for z of (..., batch, latent)."""
        observation: Distribution = self.likelihood(self.decoder(z, y))
        return observation

    def expectation(self, observation: Distribution) -> Tensor:
        """Return the expected data of p(x | z): the picture to show."""
        own = getattr(self.likelihood, "expectation", None)
        return own(observation) if own else observation.mean

    @torch.no_grad()
    def sample(
        self,
        n: int,
        label: int | Tensor | None = None,
        temperature: float = 1.0,
        *,
        draw: bool = False,
        generator: Noise = None,
    ) -> Tensor:
        """Generate: z from the prior, x from the decoder.

        Args:
            n: how many.
            label: one class number, or one for each sample, (n,); None draws classes by their frequencies.
            temperature: multiplies the standard deviation of the prior around its mean; 0 gives the mean.
            draw: draw x from p(x | z) instead of taking its mean.
            generator: a seed or generator.

        Returns:
            (n, *data), in the units of the model's input.
        """
        device = next(self.parameters()).device
        with fixed_noise(generator, device):
            y = self._labels(n, label, device)
            prior = self.prior(y)
            z = tempered(prior, temperature).sample((n,) if not prior.batch_shape else ())
            observation = self.decode(z, y)
            return observation.sample().to(z.dtype) if draw else self.expectation(observation)

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, y: Tensor | None = None, *, generator: Noise = None, noise: bool = False
    ) -> Tensor:
        """Return the expected data, (batch, *data), at the posterior's mean or, with ``noise``, at a draw from it."""
        posterior = self.encode(x, y)
        with fixed_noise(generator, x.device):
            z = posterior.sample() if noise else posterior.mean
        return self.expectation(self.decode(z, y))

    @torch.no_grad()
    def interpolate(
        self,
        start: Tensor,
        end: Tensor,
        steps: int = 8,
        y: Tensor | None = None,
        path: Literal["spherical", "linear"] = "spherical",
    ) -> Tensor:
        """Decode points on the path between the posterior means of two batches.

        Args:
            start: (batch, *data).
            end: (batch, *data).
            steps: points on the path, both ends included.
            y: class numbers for the networks that see them.
            path: spherical (White, 2016, https://arxiv.org/abs/1609.04468), which keeps to the radius where the prior
                has its mass, or linear.

        Returns:
            (steps, batch, *data).
        """
        z0, z1 = self.encode(start, y).mean, self.encode(end, y).mean
        weights = torch.linspace(0, 1, steps, device=z0.device, dtype=z0.dtype)
        mix = spherical if path == "spherical" else torch.lerp
        return self.expectation(self.decode(torch.stack([mix(z0, z1, weight) for weight in weights]), y))

    def accept_step(self) -> None:
        """Let the parts take over statistics of a training batch whose step was not skipped."""
        self.likelihood.accept_step()

    def _labels(self, n: int, label: int | Tensor | None, device: torch.device) -> Tensor | None:
        """Return class numbers (n,) or None; refuse labels that there are not."""
        if label is None:
            if not self.decoder.sees_label:
                return None
            weights = getattr(self.prior, "log_frequencies", torch.zeros(self.num_classes, device=device)).exp()
            return torch.multinomial(weights, n, replacement=True)
        if not self.num_classes:
            raise UserError("This model has no classes, so it cannot sample by label. Train with --conditional.")
        y = torch.as_tensor(label, device=device)
        if y.is_floating_point() or y.shape not in ((), (1,), (n,)):
            raise UserError(f"The label must be one class number, or one for each of {n} samples; got {_short(y)}.")
        y = y.expand(n)
        if int(y.min()) < 0 or int(y.max()) >= self.num_classes:
            raise UserError(f"The label must be a class number from 0 to {self.num_classes - 1}; got {_short(y)}.")
        return y


def _short(y: Tensor) -> str:
    """Return a label, or a few of many, for an error."""
    return str(sorted(set(y.flatten().tolist())) if y.numel() < 20 else list(y.shape))


def tempered(distribution: Distribution, temperature: float) -> Distribution:
    """Return ``distribution`` with its standard deviation multiplied by ``temperature``."""
    if temperature == 1.0:
        return distribution
    if not temperature >= 0:
        raise UserError(f"The temperature must be 0 or more; got {temperature}.")
    normal = as_normal(distribution)
    if normal is not None:
        cold = Normal(normal.loc, normal.scale * temperature, validate_args=False)
        return Independent(cold, len(distribution.event_shape), validate_args=False)
    if hasattr(distribution, "tempered"):
        cooled: Distribution = distribution.tempered(temperature)
        return cooled
    raise UserError(f"{type(distribution).__name__} has no temperature. Sample with temperature 1.")


def spherical(z0: Tensor, z1: Tensor, weight: Tensor) -> Tensor:
    """Return the point at ``weight`` in [0, 1] on the great arc from z0 to z1, (batch, latent); linear if parallel."""
    cosine = nn.functional.cosine_similarity(z0, z1, dim=-1).clamp(-1, 1).unsqueeze(-1)
    angle = cosine.acos()
    sine = angle.sin()
    arc = ((1 - weight) * angle).sin() / sine * z0 + (weight * angle).sin() / sine * z1
    return torch.where(sine.abs() < 1e-4, torch.lerp(z0, z1, weight), arc)
