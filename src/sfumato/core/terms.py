"""The record between a model and everything that measures it.

A model makes one :class:`Terms` for a batch; objectives, bounds and diagnostics only read it. Shapes: S samples first,
then the batch. Unit: nats, summed over event dimensions. A latent variable has one or more levels, top first,

    q(z | x) = prod_l q(z_l | ...),   p(z | y) = prod_l p(z_l | ...),

and a flat VAE has one. Every quantity is computed when it is asked for, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from sfumato.core.fixed import fixed
from sfumato.core.gaussians import as_normal, closed_form_kl, has_density, kl_parts
from sfumato.core.once import once


@dataclass(frozen=True, eq=False)
class Level:
    """One level of the latent variable.

    Args:
        z: the samples, (samples, batch, *event).
        posterior: q(z_l | x, ...), of batch shape (batch,) or (samples, batch).
        prior: p(z_l | ..., y), of batch shape (), (batch,) or (samples, batch).
    """

    z: Tensor
    posterior: Distribution
    prior: Distribution


@dataclass(frozen=True, eq=False)
class Terms:
    """What a model says about a batch.

    Args:
        x: the data, (batch, *data).
        y: class numbers, (batch,), -1 where unknown; None without classes.
        levels: the levels of z, top first.
        observation: p(x | z), of batch shape (samples, batch).
        penalties: named extra losses of the parts, each (batch,).
        given: class numbers (batch,) to what the model says with them in the place of ``y``, with new draws of z.
        draw_prior: to new draws of p(z | y), (batch, *latent), all levels in one row; they carry gradients if they can.
        observe: z as :attr:`draw_prior` gives it, (..., batch, *latent), to p(x | z).

    The last three ask the model again; terms that were put together by hand need not have them.
    """

    x: Tensor
    y: Int[Tensor, " batch"] | None
    levels: tuple[Level, ...]
    observation: Distribution
    penalties: Mapping[str, Tensor] = field(default_factory=dict)
    given: Callable[[Tensor], Terms] | None = None
    draw_prior: Callable[[], Tensor] | None = None
    observe: Callable[[Tensor], Distribution] | None = None

    @property
    def z(self) -> tuple[Tensor, ...]:
        """The samples of every level, top first."""
        return tuple(level.z for level in self.levels)

    @once
    def log_likelihood(self) -> Float[Tensor, "samples batch"]:
        """log p(x | z) in nats."""
        return self.observation.log_prob(self.x)

    @once
    def log_prior(self) -> Float[Tensor, "samples batch"]:
        """log p(z | y) in nats, over all levels."""
        return sum_levels([level.prior.log_prob(level.z) for level in self.levels])

    @once
    def log_posterior(self) -> Float[Tensor, "samples batch"] | None:
        """log q(z | x) in nats, over all levels; None where a posterior has no density."""
        if not all(has_density(level.posterior) for level in self.levels):
            return None
        return sum_levels([level.posterior.log_prob(level.z) for level in self.levels])

    @once
    def log_weights(self) -> Float[Tensor, "samples batch"] | None:
        """log w = log p(x | z) + log p(z | y) - log q(z | x) in nats; None where a posterior has no density."""
        if self.log_posterior is None:
            return None
        return self.log_likelihood + self.log_prior - self.log_posterior

    @once
    def path_log_weights(self) -> Float[Tensor, "samples batch"] | None:
        """The values of :attr:`log_weights`, whose gradient holds the parameters of log q fast."""
        if self.log_posterior is None:
            return None
        log_posterior = sum_levels([level.posterior.log_prob(level.z) for level in self._path_levels])
        return self.log_likelihood + self.log_prior - log_posterior

    @once
    def path_kl(self) -> Float[Tensor, "levels batch"] | None:
        """The values of :attr:`sampled_kl`, whose gradient holds the parameters of log q fast: it goes through z alone.

        What is left out, the score of q, is 0 on average.
        """
        if self.log_posterior is None:
            return None
        return torch.stack([self._sampled_kl(level) for level in self._path_levels])

    @once
    def kl(self) -> Float[Tensor, "levels batch"] | None:
        """KL(q || p) of each level in nats, in closed form; None where some level has none.

        A prior may mark single examples as without a closed form by NaN (unlabelled ones under a class-conditional
        prior); their entry is the Monte-Carlo estimate. A level whose distributions hang on the samples of another is
        averaged over the samples.
        """
        batch = self.x.shape[0]
        rows = []
        for level in self.levels:
            exact = closed_form_kl(level.posterior, level.prior)
            if exact is None:
                return None
            row = exact.expand(*exact.shape[:-1], batch).reshape(-1, batch).mean(0)
            if getattr(level.prior, "partly_closed_form", False):
                row = torch.where(row.isnan(), self._sampled_kl(level), row)
            rows.append(row)
        return torch.stack(rows)

    @once
    def sampled_kl(self) -> Float[Tensor, "levels batch"] | None:
        """log q - log p of each level in nats, averaged over the samples: unbiased for KL; None without a density."""
        if self.log_posterior is None:
            return None
        return torch.stack([self._sampled_kl(level) for level in self.levels])

    @once
    def kl_parts(self) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]] | None:
        """(L_mu, L_sigma) in nats, over all levels: the two parts of the KL; None unless all are Gaussian.

        An unlabelled example under a class-conditional prior has no mean that it is pulled to: its L_mu is what L_sigma
        leaves of the sampled KL.
        """
        totals = []
        for level in self.levels:
            parts = kl_parts(level.posterior, level.prior)
            if parts is None:
                return None
            l_mu, l_sigma = (self._per_example(part, level) for part in parts)
            if getattr(level.prior, "partly_closed_form", False):
                l_mu = torch.where(l_mu.isnan(), self._sampled_kl(level) - l_sigma, l_mu)
            totals.append((l_mu, l_sigma))
        l_mu, l_sigma = (torch.stack(column).sum(0) for column in zip(*totals, strict=True))
        return l_mu, l_sigma

    @once
    def sigma(self) -> Float[Tensor, " batch"] | None:
        """The posterior's standard deviation, averaged over all latent dimensions; None unless Gaussian."""
        normals = [as_normal(level.posterior) for level in self.levels]
        scales = [normal.scale for normal in normals if normal is not None]
        if len(scales) < len(self.levels):
            return None
        batch = self.x.shape[0]
        pairs = zip(scales, self.levels, strict=True)
        flat = [scale.reshape(-1, batch, level.z[0, 0].numel()) for scale, level in pairs]
        return torch.cat([scale.mean(0) for scale in flat], -1).mean(-1)

    @once
    def _path_levels(self) -> tuple[Level, ...]:
        """The levels with posteriors whose parameters are constants."""
        return tuple(replace(level, posterior=fixed(level.posterior)) for level in self.levels)

    def _sampled_kl(self, level: Level) -> Tensor:
        return (level.posterior.log_prob(level.z) - level.prior.log_prob(level.z)).mean(0)

    def _per_example(self, values: Tensor, level: Level) -> Tensor:
        """Sum over the event of ``level``, average over samples."""
        batch, size = self.x.shape[0], level.z[0, 0].numel()
        return (
            values.expand(*values.shape[: values.ndim - level.z.ndim + 2], *level.z.shape[2:])
            .reshape(-1, batch, size)
            .sum(-1)
            .mean(0)
        )


def sum_levels(values: list[Tensor]) -> Tensor:
    """Add the levels' log-densities, each (samples, batch)."""
    return torch.stack(values).sum(0) if len(values) > 1 else values[0]
