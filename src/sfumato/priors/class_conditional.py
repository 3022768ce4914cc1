r"""One learned mean for each class: the article's conditional VAE."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sfumato.core.interfaces import Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Probability, Size, register
from sfumato.distributions import LabelledMixture
from sfumato.priors.frequencies import log_frequencies

LOG_VARIANCE_BOUNDS = (-14.0, 14.0)


@final
@register("prior")
class ClassConditional(Prior):
    r"""p(z | y) = N(mu^y, I) with learned means, and p(y) the frequencies of the classes.

    KL = 1/2 sum_i (-log sigma_i^2 + (mu_i - mu_i^y)^2 + sigma_i^2 - 1) for a known label. Where the label is missing
    (-1) the prior is the mixture p(z) = sum_y p(y) N(mu^y, I). With ``learn_variance`` every class and dimension owns a
    variance too: N(mu^y, s_y^2), which start at 1.

    Reference: Su Jianlin's conditional VAE; Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298.

    Args:
        num_classes: the number of classes.
        latent_dim: the number of dimensions of z.
        frequencies: p(y) for each class, adding up to 1; by default all equal.
        learn_variance: learn the variances as well; the article's form keeps them at 1.

    Returns (call):
        a :class:`~sfumato.distributions.LabelledMixture` of batch shape (batch,), or () without labels.

    >>> ClassConditional(num_classes=10, latent_dim=2)(torch.tensor([3, -1])).batch_shape
    torch.Size([2])
    """

    log_frequencies: Tensor

    def __init__(
        self,
        num_classes: Size,
        latent_dim: Size,
        frequencies: tuple[Probability, ...] | None = None,
        learn_variance: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.latent_shape = (latent_dim,)
        self.means = nn.Parameter(torch.randn(num_classes, latent_dim))
        self.log_variances = nn.Parameter(torch.zeros(num_classes, latent_dim)) if learn_variance else None
        found = log_frequencies("ClassConditional", num_classes, frequencies)
        self.register_buffer("log_frequencies", found, persistent=False)

    def forward(self, y: Tensor | None = None) -> LabelledMixture:
        """Return p(z | y), or p(z) where ``y`` is None or -1."""
        if self.log_variances is None:
            return LabelledMixture(self.means, self.log_frequencies, y)
        scale = (0.5 * soft_bound(self.log_variances, *LOG_VARIANCE_BOUNDS)).exp()
        return LabelledMixture(self.means, self.log_frequencies, y, scale)
