r"""The variational mixture of posteriors."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from sfumato.core.errors import UserError
from sfumato.core.examples import first_of
from sfumato.core.gaussians import as_normal, has_density
from sfumato.core.interfaces import Prior
from sfumato.core.spec import Shape, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import GaussianMixture


@final
@register("prior")
class VampPrior(NeedsWhole, Prior):
    r"""p(z) = 1/K sum_k q(z | u_k): the model's own posterior at learned pseudo-inputs u_1 ... u_K.

    The posterior is the model's, not a copy: its network learns from both uses, and its weights are stored once. The
    prior gets to know it when a model is built with it. The pseudo-inputs are free numbers; :meth:`start_from` sets
    them to training examples.

    Reference: VAE with a VampPrior, Tomczak and Welling, 2018, https://arxiv.org/abs/1705.07120.

    Args:
        latent_dim: the number of dimensions of z, or its shape.
        shape: of one example, as the encoder sees it.
        components: K.

    Returns (call):
        a mixture of batch shape () and event shape ``latent_shape``; labels make no difference to it.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> posterior = DiagonalGaussian(mean=MLP((784,), (2,)), log_variance=MLP((784,), (2,)))
    >>> prior = VampPrior(latent_dim=2, shape=(784,), components=5)
    >>> model = VAE(prior, posterior, MLP((2,), (1, 784)), Bernoulli((784,)))
    >>> prior().sample((3,)).shape
    torch.Size([3, 2])
    """

    def __init__(self, latent_dim: Size | Shape, shape: Shape, components: Size = 500) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *shape))

    @property
    def starts_from(self) -> int:
        """How many examples it starts from: K."""
        return len(self.pseudo_inputs)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Set the pseudo-inputs to the first K of ``rows``, (K or more, *shape): preprocessed training examples.

        Raises:
            UserError: fewer rows, or of another shape.
        """
        self.pseudo_inputs.copy_(first_of(rows, self.pseudo_inputs, "VampPrior"))

    def forward(self, y: Tensor | None = None) -> Distribution:
        """Return p(z).

        Raises:
            UserError: there is no model yet, or its posterior has no density.
        """
        components = self.whole.posterior(self.pseudo_inputs)
        if not has_density(components):
            raise UserError("VampPrior is a mixture of posteriors; these have no density. Use DiagonalGaussian.")
        log_weights = self.pseudo_inputs.new_full((len(self.pseudo_inputs),), -math.log(len(self.pseudo_inputs)))
        normal = as_normal(components)
        if normal is not None:
            return GaussianMixture(log_weights, normal.loc, normal.scale)
        weights = Categorical(logits=log_weights, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)
