r"""A mixture of normals for each class."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Probability, Size, register
from sfumato.distributions import GaussianMixture
from sfumato.priors.frequencies import log_frequencies
from sfumato.priors.gaussian_mixture import LOG_VARIANCE_BOUNDS


@final
@register("prior")
class ClassConditionalMixture(Prior):
    r"""p(z | y) = sum_k w_k^y N(z; mu_k^y, diag (s_k^y)^2), all of it learned, and p(y) the frequencies of the classes.

    Where the label is missing (-1) the prior is the mixture over all, p(z) = sum_y p(y) p(z | y): for data of which
    some are labelled, and classes that are no single cloud.

    Reference: Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298; Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders,
    Dilokthanakul et al., 2016, https://arxiv.org/abs/1611.02648.

    Args:
        num_classes: the number of classes.
        latent_dim: the number of dimensions of z.
        components: of each class.
        frequencies: p(y) for each class, adding up to 1; by default all equal.

    Returns (call):
        a :class:`~sfumato.distributions.GaussianMixture` of batch shape (batch,), or () without labels.

    >>> ClassConditionalMixture(num_classes=10, latent_dim=2, components=3)(torch.tensor([3, -1])).batch_shape
    torch.Size([2])
    """

    log_frequencies: Tensor

    def __init__(
        self,
        num_classes: Size,
        latent_dim: Size,
        components: Size = 5,
        frequencies: tuple[Probability, ...] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.latent_shape = (latent_dim,)
        self.logits = nn.Parameter(torch.zeros(num_classes, components))
        self.means = nn.Parameter(torch.randn(num_classes, components, latent_dim))
        self.log_variances = nn.Parameter(torch.zeros(num_classes, components, latent_dim))
        found = log_frequencies("ClassConditionalMixture", num_classes, frequencies)
        self.register_buffer("log_frequencies", found, persistent=False)

    def forward(self, y: Tensor | None = None) -> GaussianMixture:
        """Return p(z | y), or p(z) where ``y`` is None or -1."""
        log_weights = self.logits.log_softmax(-1)
        everyone = (log_weights + self.log_frequencies.unsqueeze(-1)).flatten()
        own = torch.eye(self.num_classes, device=log_weights.device).unsqueeze(-1) > 0
        of_classes = torch.where(own, log_weights, -math.inf).flatten(1)
        weights = everyone if y is None else torch.where((y >= 0).unsqueeze(-1), of_classes[y.clamp(min=0)], everyone)
        scale = (0.5 * soft_bound(self.log_variances, *LOG_VARIANCE_BOUNDS)).exp()
        return GaussianMixture(weights, self.means.flatten(0, 1), scale.flatten(0, 1), of_classes=of_classes)
