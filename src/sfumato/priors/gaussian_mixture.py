r"""A learned mixture of normals."""

from __future__ import annotations

import warnings
from typing import Literal, final

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Prior
from sfumato.core.library import library
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Size, register
from sfumato.distributions import GaussianMixture as Mixture

LOG_VARIANCE_BOUNDS = (-14.0, 14.0)


@final
@register("prior")
class GaussianMixture(Prior):
    r"""p(z) = sum_k w_k N(z; mu_k, S_k), everything learned.

    The diagonal of S_k, or of L_k in S_k = L_k L_k^T, is bounded smoothly to [1e-3, 1e3]. It can be trained with the
    model, or fitted to the latents of a trained one (:meth:`fit`; :func:`sfumato.evaluation.fit_prior`).

    Reference: Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders, Dilokthanakul et al., 2016,
    https://arxiv.org/abs/1611.02648; fitted afterwards: From Variational to Deterministic Autoencoders, Ghosh et al.,
    2020, https://arxiv.org/abs/1903.12436.

    Args:
        latent_dim: the number of dimensions of z.
        components: K.
        covariance: ``diagonal``, or ``full``.

    Returns (call):
        a :class:`~sfumato.distributions.GaussianMixture` of batch shape () and event shape (latent_dim,); labels make
        no difference to it.

    >>> GaussianMixture(latent_dim=2, components=5)().sample((3,)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self, latent_dim: Size, components: Size = 10, covariance: Literal["diagonal", "full"] = "diagonal"
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_variances = nn.Parameter(torch.zeros(components, latent_dim))
        full = covariance == "full"
        self.lower = nn.Parameter(torch.zeros(components, latent_dim, latent_dim)) if full else None

    def forward(self, y: Tensor | None = None) -> Mixture:
        """Return p(z)."""
        log_weights = self.logits.log_softmax(-1)
        scale = (0.5 * soft_bound(self.log_variances, *LOG_VARIANCE_BOUNDS)).exp()
        if self.lower is None:
            return Mixture(log_weights, self.means, scale)
        return Mixture(log_weights, self.means, scale_tril=self.lower.tril(-1) + torch.diag_embed(scale))

    @torch.no_grad()
    def fit(self, z: Tensor, seed: int = 0) -> None:
        """Fit to latents, (n, latent_dim), by at most 300 rounds of the expectation-maximisation of scikit-learn.

        Raises:
            UserError: scikit-learn is not installed; there are fewer latents than components.
        """
        mixture = library("sklearn.mixture", "sklearn", "fitting a GaussianMixture")
        if len(z) < len(self.logits):
            raise UserError(
                f"a mixture of {len(self.logits)} normals needs at least as many z to be fitted to; got {len(z)}. Take "
                "more --draws, or another prior."
            )
        kind = "diag" if self.lower is None else "full"
        found = mixture.GaussianMixture(len(self.logits), covariance_type=kind, max_iter=300, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", library("sklearn.exceptions", "sklearn", "it").ConvergenceWarning)
            found.fit(z.double().cpu().numpy())
        self.logits.copy_(torch.from_numpy(found.weights_).log())
        self.means.copy_(torch.from_numpy(found.means_))
        covariances = torch.from_numpy(found.covariances_)
        if self.lower is None:
            self.log_variances.copy_(covariances.log())
        else:
            lower = torch.linalg.cholesky(covariances)
            self.lower.copy_(lower.tril(-1))
            self.log_variances.copy_(2 * lower.diagonal(dim1=-2, dim2=-1).log())
