r"""What a decoder makes of noise, whose density is estimated with the help of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from sfumato.core.gaussians import independent_normal
from sfumato.core.numerics import logmeanexp

Encoder = Callable[[Tensor], Distribution]


@final
class Marginal(Distribution):
    r"""p(z) = int N(u; 0, I) N(z; m(u), s^2 I) du, of which ``log_prob`` returns an estimate from below:

        log p^(z) = log 1/M sum_m N(u_m; 0, I) N(z; m(u_m), s^2 I) / r(u_m | z),   u_m from r(u | z) anew at every call.

    E p^(z) = p(z), so E log p^(z) <= log p(z), and whatever is a bound with the exact density is one with this in its
    place: sum_k p(x | z_k) p^(z_k) / q(z_k | x) still has the evidence for its mean. ``estimated`` says so to those who
    need the exact density, as annealing does.

    Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519; an unbiased
    estimate in the place of a density: The Pseudo-Marginal Approach for Efficient Monte Carlo Computations, Andrieu and
    Roberts, 2009, https://arxiv.org/abs/0903.5480.

    Args:
        mean: m, (..., e) to (..., d).
        log_variance: 2 log s, of shape () or (d,).
        encoder: r, z to a normal over u.
        dims: e and d.
        samples: M.

    ``log_prob`` takes (..., d) and returns nats, (...).

    >>> half = lambda z: independent_normal(z / 2, torch.full_like(z, 0.5).log())
    >>> Marginal(lambda u: u, torch.zeros(()), half, (1, 1)).log_prob(torch.zeros(1))  # N(0; 0, 2), exactly
    tensor(-1.2655)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    estimated = True

    def __init__(
        self,
        mean: Callable[[Tensor], Tensor],
        log_variance: Tensor,
        encoder: Encoder,
        dims: tuple[int, int],
        samples: int = 1,
    ) -> None:
        self.centre, self.log_variance, self.encoder = mean, log_variance, encoder
        self.noise_dim, self.samples, self.temperature = dims[0], samples, 1.0
        super().__init__(torch.Size(), torch.Size(dims[1:]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """m(0), (d,): the centre, not the mean."""
        return self.centre(self.log_variance.new_zeros(self.noise_dim))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p^(z)."""
        proposal = self.encoder(value)
        noise = torch.randn((self.samples, *proposal.mean.shape), dtype=torch.float64, device=value.device)
        u = proposal.mean + proposal.stddev * noise.to(value)
        zeros = torch.zeros_like(u[..., :1])
        prior: Distribution = independent_normal(zeros.expand_as(u), zeros.expand_as(u))
        log_joint = prior.log_prob(u) + self._given(u).log_prob(value)
        return logmeanexp(log_joint - proposal.log_prob(u))

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of z, (*sample_shape, d): exact ones."""
        like = self.log_variance
        u = torch.randn((*sample_shape, self.noise_dim), dtype=like.dtype, device=like.device)
        given = self._given(self.temperature * u)
        return given.mean + self.temperature * given.stddev * torch.randn_like(given.mean)

    def tempered(self, temperature: float) -> Marginal:
        """Return the same for draws alone, with both deviations, of u and of z given u, times ``temperature``."""
        same = Marginal(self.centre, self.log_variance, self.encoder, (self.noise_dim, *self.event_shape), self.samples)
        same.temperature = self.temperature * temperature
        return same

    def _given(self, u: Tensor) -> Distribution:
        centre = self.centre(u)
        return independent_normal(centre, self.log_variance.expand_as(centre))
