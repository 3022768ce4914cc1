r"""One learned mean for each class: the article's conditional VAE."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Prior
from sfumato.core.spec import Probability, Size, register
from sfumato.distributions import LabelledMixture


@final
@register("prior")
class ClassConditional(Prior):
    r"""p(z | y) = N(mu^y, I) with learned means, and p(y) the frequencies of the classes.

    KL = 1/2 sum_i (-log sigma_i^2 + (mu_i - mu_i^y)^2 + sigma_i^2 - 1) for a known label. Where the label is missing
    (-1) the prior is the mixture p(z) = sum_y p(y) N(mu^y, I).

    Reference: Su Jianlin's conditional VAE; Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298.

    Args:
        num_classes: the number of classes.
        latent_dim: the number of dimensions of z.
        frequencies: p(y) for each class, adding up to 1; by default all equal.

    Returns (call):
        a :class:`~sfumato.distributions.LabelledMixture` of batch shape (batch,), or () without labels.

    >>> ClassConditional(num_classes=10, latent_dim=2)(torch.tensor([3, -1])).batch_shape
    torch.Size([2])
    """

    log_frequencies: Tensor

    def __init__(self, num_classes: Size, latent_dim: Size, frequencies: tuple[Probability, ...] | None = None) -> None:
        super().__init__()
        given = (1 / num_classes,) * num_classes if frequencies is None else frequencies
        if len(given) != num_classes or abs(sum(given) - 1) > 1e-4:
            raise UserError(
                f"ClassConditional needs one frequency for each of {num_classes} classes, adding up to 1; got "
                f"{len(given)} that add up to {sum(given):.6g}. Leave them out for equal ones."
            )
        self.num_classes = num_classes
        self.latent_shape = (latent_dim,)
        self.means = nn.Parameter(torch.randn(num_classes, latent_dim))
        shares = torch.tensor(given)
        self.register_buffer("log_frequencies", (shares / shares.sum()).log(), persistent=False)

    def forward(self, y: Tensor | None = None) -> LabelledMixture:
        """Return p(z | y), or p(z) where ``y`` is None or -1."""
        return LabelledMixture(self.means, self.log_frequencies, y)
