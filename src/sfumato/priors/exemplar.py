r"""A mixture over training examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core.examples import KeepsExamples
from sfumato.core.interfaces import Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Count, NonNegative, Range, Shape, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import GaussianMixture
from sfumato.priors.gaussian_mixture import LOG_VARIANCE_BOUNDS

ENCODED = 5_000  # examples that are encoded at once
SEARCHED = 50  # codes whose nearest are looked for at once
BLOCK = 100  # distances of which one is the least
TURNS = 100  # steps after which every code has been computed anew


@final
@register("prior")
class Exemplar(NeedsWhole, KeepsExamples, Prior):
    r"""p(z) = 1/N sum_n N(z; mu(x_n), s^2 I): around the posterior means of N training examples, with one learned s.

    mu is the encoder of the model, not a copy. In training the sum has few of the terms, and what is trained on is left
    out of its own prior, p(z | all but x): otherwise s would shrink and every z would explain itself. Outside training
    it is over all N, which takes a pass of the encoder over them at every call. The examples are stored with the
    weights: a model with this prior contains them.

    Which terms: a random subset, whose mean stands for that of all; or with ``nearest`` those around the codes that are
    nearest to the posterior means of the batch, each with its weight 1/N, so that the sum is a lower bound on p(z), and
    a close one. For the search every code is remembered, and computed anew within 100 steps.

    Reference: Exemplar VAE: Linking Generative Models, Nearest Neighbor Retrieval, and Data Augmentation, Norouzi et
    al., 2020, https://arxiv.org/abs/2004.04795.

    Args:
        latent_dim: the number of dimensions of z.
        shape: of one example, as the encoder sees it.
        exemplars: N.
        subset: how many of them, at random, make the prior of one training step.
        radius: exemplars at most so far from an example (Euclidean) count as itself and are left out. At 0 those that
            are equal to it but for rounding.
        nearest: how many of them each example chooses in the place of the random subset; what one chooses all see.
        drawn: whether the examples of training are zeros and ones that are drawn anew at every step, and the exemplars
            the probabilities of a 1. Then those are left out, whatever their distance, that an example may come from.

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

    codes: Tensor
    turn: Tensor
    batch_rows: Callable[[Tensor], Tensor] | None  # of a batch that is spread over processes; training sets it

    def __init__(
        self,
        latent_dim: Size,
        shape: Shape,
        exemplars: Annotated[int, Range(2, 10_000_000)],
        subset: Annotated[int, Range(2, 10_000_000)] = 500,
        radius: NonNegative = 0.0,
        nearest: Count = 0,
        drawn: bool = False,
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.subset, self.radius, self.nearest, self.drawn = min(subset, exemplars), radius, nearest, drawn
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.keep(exemplars, shape)
        if nearest:
            self.batch_rows = None
            self.register_buffer("codes", torch.zeros(exemplars, latent_dim))
            self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    def forward(self, y: Tensor | None = None) -> GaussianMixture:
        """Return p(z): in training over a random subset, else over all.

        Raises:
            UserError: there is no model, or there are no examples, yet.
        """
        rows = self._subset() if self.training else self.kept(self.log_variance)
        return self._around(rows, rows.new_full((len(rows),), -math.log(len(rows))))

    def without(self, x: Tensor, posterior: Distribution) -> GaussianMixture:
        """Return p(z | all but x) for each of a batch of training examples, of batch shape (batch,).

        Args:
            x: (batch, *shape).
            posterior: q(z | x).
        """
        if self.training and self.nearest:
            rows, log_weights = self._nearest_to(posterior.mean)
            return self._around(rows, torch.where(self._same(rows, x), -math.inf, log_weights))
        rows = self._subset() if self.training else self.kept(self.log_variance)
        return self._around(rows, torch.where(self._same(rows, x), -math.inf, rows.new_zeros(())).log_softmax(-1))

    def accept_step(self) -> None:
        """Compute the next of the remembered codes anew, after a step of training."""
        if self.nearest and self.started:
            size = len(self.codes)
            count = math.ceil(size / TURNS)
            place = (self.turn * count + torch.arange(count, device=self.turn.device)) % size
            with torch.no_grad():
                self.codes[place] = self.whole.posterior(self.kept(self.codes)[place]).mean.to(self.codes)
            self.turn += 1

    def _same(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return which exemplars count as the examples themselves, (batch, rows)."""
        ours, theirs = rows.flatten(1), x.flatten(1)
        if self.drawn:  # none of its ones has probability 0, none of its zeros 1
            never, always = (ours == 0).to(theirs), (ours == 1).to(theirs)
            same = theirs @ (never - always).T + always.sum(-1) < 0.5
        else:
            exact = rows.dtype if self.radius else torch.float64  # equality takes more digits than a distance
            ours, theirs = ours.to(exact), theirs.to(exact)
            norms = theirs.square().sum(-1, keepdim=True) + ours.square().sum(-1)
            same = norms - 2 * theirs @ ours.T <= self.radius**2 + 1e-6 * norms
        return same & ~same.all(-1, keepdim=True)  # where all are the same there is nothing else

    def _nearest_to(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exemplars that some of these codes, (batch, latent), are nearest to, and their log-weights."""
        ours, theirs = self.codes, codes.detach().to(self.codes)
        if self.batch_rows is not None:
            theirs = self.batch_rows(theirs)
        norms = ours.square().sum(-1)
        found = [
            least(torch.addmm(norms, part, ours.T, alpha=-2), min(self.nearest, len(ours)))
            for part in torch.split(theirs, SEARCHED)
        ]
        chosen = torch.cat(found).flatten().sort().values
        again = torch.cat([chosen.new_zeros(1, dtype=torch.bool), chosen[1:] == chosen[:-1]])
        rows = self.kept(self.log_variance)[chosen]
        return rows, torch.where(again, -math.inf, rows.new_full((), -math.log(len(ours))))

    def _subset(self) -> Tensor:
        rows = self.kept(self.log_variance)
        return rows[torch.randperm(len(rows), device=rows.device)[: self.subset]]

    def _around(self, rows: Tensor, log_weights: Tensor) -> GaussianMixture:
        means = torch.cat([self.whole.posterior(part).mean for part in torch.split(rows, ENCODED)])
        scale = (0.5 * soft_bound(self.log_variance, *LOG_VARIANCE_BOUNDS)).exp()
        return GaussianMixture(log_weights, means, scale.expand_as(means))


def least(values: Tensor, count: int) -> Tensor:
    """Return where the ``count`` least of each row of ``values``, (batch, n), are: (batch, count).

    They lie in the ``count`` blocks of a row whose minima are least, which is faster than a search among all n.
    """
    size = values.shape[-1]
    whole = nn.functional.pad(values, (0, -size % BLOCK), value=math.inf) if size % BLOCK else values
    blocks = whole.reshape(len(values), -1, BLOCK)
    some = min(count, blocks.shape[-2])
    near = blocks.amin(-1).topk(some, largest=False).indices
    inside = blocks.gather(-2, near.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(-2)
    place: Tensor = inside.topk(count, largest=False).indices
    return near.gather(-1, place // BLOCK) * BLOCK + place % BLOCK
