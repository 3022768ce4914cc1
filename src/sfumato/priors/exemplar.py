r"""A mixture over training examples."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from torch import Tensor, nn

from sfumato.core.examples import KeepsExamples
from sfumato.core.interfaces import Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import NonNegative, Range, Shape, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import GaussianMixture
from sfumato.priors.gaussian_mixture import LOG_VARIANCE_BOUNDS

ENCODED = 5_000  # examples that are encoded at once


@final
@register("prior")
class Exemplar(NeedsWhole, KeepsExamples, Prior):
    r"""p(z) = 1/N sum_n N(z; mu(x_n), s^2 I): around the posterior means of N training examples, with one learned s.

    mu is the encoder of the model, not a copy. In training the sum is over a random subset, and what is trained on is
    left out of its own prior, p(z | all but x): otherwise s would shrink and every z would explain itself. Outside
    training it is over all N, which takes a pass of the encoder over them at every call. The examples are stored with
    the weights: a model with this prior contains them.

    Reference: Exemplar VAE: Linking Generative Models, Nearest Neighbor Retrieval, and Data Augmentation, Norouzi et
    al., 2020, https://arxiv.org/abs/2004.04795.

    Args:
        latent_dim: the number of dimensions of z.
        shape: of one example, as the encoder sees it.
        exemplars: N.
        subset: how many of them make the prior of one training step.
        radius: exemplars at most so far from an example (Euclidean) count as itself and are left out. At 0 those that
            are equal to it but for rounding; data that are binarised anew at every step need more.

    Returns (call):
        a :class:`~sfumato.distributions.GaussianMixture` of batch shape () and event shape (latent_dim,); labels make
        no difference to it.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> posterior = DiagonalGaussian(mean=MLP((784,), (2,)), log_variance=MLP((784,), (2,)))
    >>> prior = Exemplar(latent_dim=2, shape=(784,), exemplars=20, subset=10)
    >>> prior.start_from(torch.rand(20, 784))
    >>> model = VAE(prior, posterior, MLP((2,), (1, 784)), Bernoulli((784,)))
    >>> prior().sample((3,)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        latent_dim: Size,
        shape: Shape,
        exemplars: Annotated[int, Range(2, 10_000_000)],
        subset: Annotated[int, Range(2, 10_000_000)] = 500,
        radius: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.subset, self.radius = min(subset, exemplars), radius
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.keep(exemplars, shape)

    def forward(self, y: Tensor | None = None) -> GaussianMixture:
        """Return p(z): in training over a random subset, else over all.

        Raises:
            UserError: there is no model, or there are no examples, yet.
        """
        rows = self._drawn() if self.training else self.kept(self.log_variance)
        return self._around(rows, rows.new_full((len(rows),), -math.log(len(rows))))

    def without(self, x: Tensor) -> GaussianMixture:
        """Return p(z | all but x) for each of a batch of training examples, of batch shape (batch,)."""
        rows = self._drawn() if self.training else self.kept(self.log_variance)
        exact = torch.float64 if not self.radius else rows.dtype  # equality needs more digits than a distance does
        ours, theirs = rows.flatten(1).to(exact), x.flatten(1).to(exact)
        norms = theirs.square().sum(-1, keepdim=True) + ours.square().sum(-1)
        squares = norms - 2 * theirs @ ours.T
        same = squares <= self.radius**2 + 1e-6 * norms
        same = same & ~same.all(-1, keepdim=True)  # where all are the same there is nothing else
        return self._around(rows, torch.where(same, -math.inf, rows.new_zeros(())).log_softmax(-1))

    def _drawn(self) -> Tensor:
        rows = self.kept(self.log_variance)
        return rows[torch.randperm(len(rows), device=rows.device)[: self.subset]]

    def _around(self, rows: Tensor, log_weights: Tensor) -> GaussianMixture:
        means = torch.cat([self.whole.posterior(part).mean for part in torch.split(rows, ENCODED)])
        scale = (0.5 * soft_bound(self.log_variance, *LOG_VARIANCE_BOUNDS)).exp()
        return GaussianMixture(log_weights, means, scale.expand_as(means))
