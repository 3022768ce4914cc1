r"""A posterior that follows the gradient of the joint density in a space whose distances are learned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.examples import KeepsExamples
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import Positive, Range, Shape, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import WithMomentum
from sfumato.posteriors.leapfrog import cooling, logit, slope_of_joint

LOG_DIAGONAL_BOUNDS = (-7.0, 7.0)
ITERATIONS = 6  # of each implicit equation
STRONGEST = 1e8  # force


@final
@register("posterior")
class RiemannianHamiltonian(NeedsWhole, KeepsExamples, Posterior):
    r"""z = z_K after K Hamiltonian steps under a learned metric G, from z_0 ~ q_0(z | x) and v_0 ~ N(0, G(z_0)).

        G^-1(z) = sum_i L_i L_i^T exp(-|z - c_i|^2 / T^2) + lambda I,   L_i = L_psi(x_i),   c_i = E q_0(z | x_i),

    over training examples x_i that it keeps, L_psi(x) lower triangular with a positive diagonal. The energy is H(z, v)
    = -log p(x, z) + 1/2 log det G(z) + 1/2 v^T G^-1(z) v, and a step the generalised leapfrog,

        v' = v - e/2 H_z(z, v'),   z' = z + e/2 (H_v(z, v') + H_v(z', v')),   v'' = v' - e/2 H_z(z', v'),

    whose first two equations are solved by iteration; solved exactly, it keeps volumes and is undone by a step with -v.
    The momentum cools as in :class:`~sfumato.posteriors.Hamiltonian`. Step size e and beta_0 are learned, and with
    them, through the ELBO, psi. The density is known together with the momentum, at its own draws only.

    In the paper the x_i are the whole training set; here as many of it as ``centroids`` says, for a step takes a pass
    over them. New data are drawn from the prior, as from any VAE; the paper's walk under the metric is not here.

    Reference: Geometry-Aware Hamiltonian Variational Auto-Encoder, Chadebec et al., 2020,
    https://arxiv.org/abs/2010.11518; Data Augmentation in High Dimensional Low Sample Size Setting Using a
    Geometry-Based Variational Autoencoder, Chadebec et al., 2022, https://arxiv.org/abs/2105.00026.

    Args:
        base: q_0, over a z of one row; it sees no label.
        metric: L_psi, data to (latent_dim, latent_dim): the lower triangle of L, of its diagonal the logarithm.
        shape: of one example, as the encoder sees it.
        centroids: how many x_i it keeps.
        steps: K.
        step_size: e at the start.
        inverse_temperature: beta_0 at the start.
        reach: T.
        floor: lambda.

    Returns (call):
        a :class:`~sfumato.distributions.WithMomentum` of batch shape (batch,) and event shape ``base.latent_shape``.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> from sfumato.priors import StandardNormal
    >>> base = DiagonalGaussian(mean=MLP((9,), (2,)), log_variance=MLP((9,), (2,)))
    >>> posterior = RiemannianHamiltonian(base, MLP((9,), (2, 2)), shape=(9,), centroids=4)
    >>> posterior.start_from(torch.rand(4, 9))
    >>> model = VAE(StandardNormal(2), posterior, MLP((2,), (1, 9)), Bernoulli((9,)))
    >>> model.terms(torch.zeros(5, 9), samples=3).log_posterior.shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        base: Posterior,
        metric: Network,
        shape: Shape,
        centroids: Size = 100,
        steps: Size = 3,
        step_size: Positive = 0.01,
        inverse_temperature: Annotated[float, Range(0.01, 0.99)] = 0.3,
        reach: Positive = 1.5,
        floor: Positive = 0.01,
    ) -> None:
        super().__init__()
        (*rest, dim) = base.latent_shape
        if rest or metric.out_shape != (dim, dim) or base.sees_label or metric.sees_label:
            raise UserError(
                f"RiemannianHamiltonian needs a posterior over z of one row and a network that gives {(dim, dim)}, and "
                f"neither may see labels; got z of {base.latent_shape} and {metric.out_shape}. Build them like that."
            )
        self.base, self.metric, self.steps = base, metric, steps
        self.reach, self.floor = reach, floor
        self.in_shape, self.latent_shape = base.in_shape, base.latent_shape
        self.log_step = nn.Parameter(torch.tensor(math.log(step_size)))
        self.heat = nn.Parameter(torch.tensor(logit(inverse_temperature)))
        self.keep(centroids, shape)

    def forward(self, x: Tensor, y: Tensor | None = None) -> WithMomentum:
        """Return q(z | x), or q(z | x, y) with a prior or decoder that sees the label.

        Raises:
            UserError: there is no model, or there are no examples, yet.
        """
        slope, metric, step = slope_of_joint(self.whole, x, y), self.learned(), self.log_step.exp()

        def dynamics(z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            heats = cooling(self.heat, self.steps)
            root = metric.root(z)
            before = _log_diagonal(root)
            momentum = heats[0] * torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
            for hot, cold in itertools.pairwise(heats):
                z, momentum = metric.leapfrog(z, momentum, step, slope)
                momentum = momentum * (cold / hot)
            root = metric.root(z)
            last = (root.mT @ momentum.unsqueeze(-1)).squeeze(-1)
            return z, last, _log_diagonal(root) - before

        return WithMomentum(self.base(x, None), dynamics)

    def learned(self) -> Metric:
        """Return the metric of the examples and weights as they are."""
        rows = self.kept(self.log_step)
        found = self.metric(rows)
        diagonal = soft_bound(found.diagonal(dim1=-2, dim2=-1), *LOG_DIAGONAL_BOUNDS).exp()
        return Metric(self.base(rows).mean, found.tril(-1) + torch.diag_embed(diagonal), self.reach, self.floor)


class Metric(NamedTuple):
    """G^-1(z) = sum_i L_i L_i^T exp(-|z - c_i|^2 / T^2) + lambda I.

    Args:
        centres: c, (n, d).
        lower: L, (n, d, d).
        reach: T.
        floor: lambda.
    """

    centres: Float[Tensor, "n d"]
    lower: Float[Tensor, "n d d"]
    reach: float
    floor: float

    def weights(self, z: Float[Tensor, "... d"]) -> Float[Tensor, "... n"]:
        """Return exp(-|z - c_i|^2 / T^2)."""
        return (-(z.unsqueeze(-2) - self.centres).square().sum(-1) / self.reach**2).exp()

    def inverse(self, z: Float[Tensor, "... d"]) -> Float[Tensor, "... d d"]:
        """Return G^-1(z)."""
        squares = self.lower @ self.lower.mT
        unit = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return torch.einsum("...n,nij->...ij", self.weights(z), squares) + self.floor * unit

    def root(self, z: Float[Tensor, "... d"]) -> Float[Tensor, "... d d"]:
        """Return R, lower triangular, with R R^T = G^-1(z): R^T v ~ N(0, I) for v ~ N(0, G)."""
        found: Tensor = torch.linalg.cholesky_ex(self.inverse(z))[0]  # of NaN it is NaN, which the guard sees
        return found

    def velocity(self, z: Float[Tensor, "... d"], momentum: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return G^-1(z) v = H_v."""
        return (self.inverse(z) @ momentum.unsqueeze(-1)).squeeze(-1)

    def force(self, z: Float[Tensor, "... d"], momentum: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return what the metric adds to -H_z, -1/2 d/dz (log det G(z) + v^T G^-1(z) v), in closed form:

        sum_i (|L_i^T v|^2 - tr G(z) L_i L_i^T) exp(-|z - c_i|^2 / T^2) (z - c_i) / T^2.

        It grows with |v|^2; cut at ``STRONGEST``, far above what a step can follow, an iteration that runs away stays
        finite.
        """
        stretched = torch.einsum("nij,...i->...nj", self.lower, momentum).square().sum(-1)
        squares = self.lower @ self.lower.mT
        traces = torch.einsum("...ij,nji->...n", torch.cholesky_inverse(self.root(z)), squares)
        weights = (stretched - traces) * self.weights(z) / self.reach**2
        return (weights.sum(-1, keepdim=True) * z - weights @ self.centres).clamp(-STRONGEST, STRONGEST)

    def leapfrog(
        self, z: Tensor, momentum: Tensor, step: Tensor, slope: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return (z, v) a step later; ``slope`` is d/dz log p(x, z)."""
        up = slope(z)
        half = momentum
        for _ in range(ITERATIONS):
            half = momentum + 0.5 * step * (up + self.force(z, half))
        here = self.velocity(z, half)
        there = z
        for _ in range(ITERATIONS):
            there = z + 0.5 * step * (here + self.velocity(there, half))
        return there, half + 0.5 * step * (slope(there) + self.force(there, half))


def _log_diagonal(root: Tensor) -> Tensor:
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
