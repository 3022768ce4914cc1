r"""A mixture of normals, each with its own covariance."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


@final
class GaussianMixture(Distribution):
    r"""p(z) = sum_k w_k N(z; mu_k, S_k), with S_k = diag s_k^2 or S_k = L_k L_k^T.

    The squares (z - mu_k)^T S_k^-1 (z - mu_k) are matrix products, in float64: in float32 their cancellation would be
    seen where components are narrow.

    Reference: Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster et al., 1977,
    https://www.jstor.org/stable/2984875.

    Args:
        log_weights: log w, (components,), or (batch, components) for weights of each example's own; -inf is allowed.
        means: mu, (components, *event).
        scale: s, of the same shape.
        scale_tril: L, (components, latent, latent), lower triangular, in the place of ``scale``.
        of_classes: log p(k | y), (classes, components), where components belong to classes.

    ``log_prob`` takes (..., *batch, *event) and returns nats, (..., *batch).

    >>> two = GaussianMixture(torch.zeros(2) - math.log(2), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1))
    >>> two.log_prob(torch.zeros(1))
    tensor(-2.9189)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        log_weights: Tensor,
        means: Tensor,
        scale: Tensor | None = None,
        scale_tril: Tensor | None = None,
        of_classes: Tensor | None = None,
    ) -> None:
        if (scale is None) == (scale_tril is None):
            raise ValueError("a mixture has either scale or scale_tril")
        self.log_weights, self.means, self.of_classes = log_weights, means, of_classes
        self.scale, self.scale_tril = scale, scale_tril
        super().__init__(log_weights.shape[:-1], means.shape[1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z)."""
        return torch.logsumexp(self._log_normals(value) + self.log_weights, -1)

    def log_components(self, value: Tensor) -> Tensor:
        """Return log p(z | y) in nats for every class: (..., classes); without classes the same for all, (..., 1)."""
        if self.of_classes is None:
            return self.log_prob(value).unsqueeze(-1)
        return torch.logsumexp(self._log_normals(value).unsqueeze(-2) + self.of_classes, -1)

    @property
    def mean(self) -> Tensor:
        """E[z], (*batch, *event)."""
        flat = self.log_weights.exp() @ self.means.flatten(1)
        return flat.reshape(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Var[z_i], (*batch, *event)."""
        within = self._variances() + self.means.flatten(1).square()
        second = (self.log_weights.exp() @ within).reshape(self.batch_shape + self.event_shape)
        return second - self.mean.square()

    def tempered(self, temperature: float) -> GaussianMixture:
        """Return the same mixture with every component's deviation from its mean multiplied by ``temperature``."""
        scale, scale_tril = (None if each is None else each * temperature for each in (self.scale, self.scale_tril))
        return GaussianMixture(self.log_weights, self.means, scale, scale_tril, self.of_classes)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws, (*sample_shape, *batch, *event): first a component, then z."""
        with torch.no_grad():
            count = math.prod(sample_shape)
            chosen = torch.multinomial(self.log_weights.exp(), max(1, count), replacement=True)[..., :count]
            rows = chosen.movedim(-1, 0).reshape((*sample_shape, *self.batch_shape))
            noise = torch.randn(*rows.shape, *self.event_shape, dtype=self.means.dtype, device=self.means.device)
            if self.scale is not None:
                return self.means[rows] + self.scale[rows] * noise
            assert self.scale_tril is not None
            flat = (self.scale_tril[rows] @ noise.reshape(*rows.shape, -1, 1)).squeeze(-1)
            return self.means[rows] + flat.reshape(noise.shape)

    def _variances(self) -> Tensor:
        if self.scale is not None:
            return self.scale.flatten(1).square()
        assert self.scale_tril is not None
        return self.scale_tril.square().sum(-1)

    def _log_normals(self, value: Tensor) -> Tensor:
        """Return log N(z; mu_k, S_k), (..., components)."""
        z = value.flatten(value.ndim - len(self.event_shape)).double()
        means = self.means.flatten(1).double()
        if self.scale is not None:
            scale = self.scale.flatten(1).double()
            precision = scale.square().reciprocal()
            squares = z.square() @ precision.T - 2 * z @ (means * precision).T + (means.square() * precision).sum(-1)
            log_determinant = scale.log().sum(-1)
        else:
            assert self.scale_tril is not None
            scale = self.scale_tril.double()
            unit = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)
            white = torch.linalg.solve_triangular(scale, unit, upper=False)
            centre = (white @ means.unsqueeze(-1)).squeeze(-1)
            squares = (torch.einsum("...d,ked->...ke", z, white) - centre).square().sum(-1)
            log_determinant = scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        found = -0.5 * squares - log_determinant - 0.5 * z.shape[-1] * math.log(2 * math.pi)
        return found.to(torch.promote_types(value.dtype, self.means.dtype))
