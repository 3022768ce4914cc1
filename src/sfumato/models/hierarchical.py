r"""A ladder of latent variables with a shared top-down path and residual posteriors.

    p(x, z | y) = p(x | z) p(z_1 | y) prod_{l > 1} p(z_l | z_<l)
    q(z | x)    = q(z_1 | x) prod_{l > 1} q(z_l | x, z_<l)

The state h_{l-1} that the levels above have made serves both, which is what makes the inference bidirectional: the
bottom-up features f_l of x say only what is new. With (m, log s^2) = a_l(h_{l-1}) and (d, e) = b_l(h_{l-1}, f_l),

    p(z_l | z_<l)    = N(m, s^2)
    q(z_l | x, z_<l) = N(m + s d, s^2 exp(e)),   KL_l = 1/2 sum (d^2 + exp(e) - e - 1),

so that a posterior which says nothing new is the prior, whatever that is.
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal, independent_normal
from sfumato.core.interfaces import Likelihood, Prior
from sfumato.core.numerics import soft_bound
from sfumato.core.spec import register
from sfumato.core.terms import Level, Terms
from sfumato.models.joint import Chain, Choose, JointDecoder, JointPosterior, JointPrior
from sfumato.models.model import Inference, Model, refuse_other_width
from sfumato.networks.ladder import BottomUp, TopDown

PRIOR_BOUNDS = (-10.0, 6.0)
TOP_BOUNDS = (-20.0, 10.0)
RESIDUAL_BOUNDS = (-14.0, 8.0)


@final
@register("model")
class HierarchicalVAE(Model):
    r"""p(x, z | y) = p(x | z) p(z_1 | y) prod_l p(z_l | z_<l), with q(z | x) = q(z_1 | x) prod_l q(z_l | x, z_<l).

    Reference: Ladder Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282; NVAE, Vahdat
    and Kautz, 2020, https://arxiv.org/abs/2007.03898 (residual posteriors); Very Deep VAEs, Child, 2021,
    https://arxiv.org/abs/2011.10650.

    Args:
        top: p(z_1), or p(z_1 | y): any prior; with classes the levels below follow from the class through the top one.
        bottom_up: x to the features of each level.
        top_down: the shared path from z_1 to what the likelihood needs.
        likelihood: p(x | z).

    ``prior``, ``posterior`` and ``decoder`` are the joint ones, with all levels of z in one row, top first;
    :meth:`split` takes such a z apart.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.networks.ladder import MLPBottomUp, MLPTopDown
    >>> from sfumato.priors import StandardNormal
    >>> model = HierarchicalVAE(
    ...     top=StandardNormal(latent_dim=4),
    ...     bottom_up=MLPBottomUp((784,), levels=2, width=32, hidden=16),
    ...     top_down=MLPTopDown((4, 8), (1, 784), width=32, hidden=16),
    ...     likelihood=Bernoulli((784,)),
    ... )
    >>> [z.shape for z in model.terms(torch.zeros(5, 784), samples=3).z]
    [torch.Size([3, 5, 4]), torch.Size([3, 5, 8])]
    >>> model.sample(3, temperature=(1.0, 0.5), generator=0).shape
    torch.Size([3, 784])
    """

    def __init__(self, top: Prior, bottom_up: BottomUp, top_down: TopDown, likelihood: Likelihood) -> None:
        super().__init__()
        if tuple(top.latent_shape) != top_down.latent_shapes[0]:
            raise UserError(
                f"HierarchicalVAE needs a prior for the top level's shape, {top_down.latent_shapes[0]}; got one for "
                f"{tuple(top.latent_shape)}. Give both the same."
            )
        if bottom_up.feature_shapes != top_down.feature_shapes:
            raise UserError(
                f"HierarchicalVAE needs features for each level of the top-down path, {top_down.feature_shapes}; the "
                f"bottom-up path gives {bottom_up.feature_shapes}. Build both with the same levels and hidden."
            )
        self.top, self.bottom_up, self.top_down, self.likelihood = top, bottom_up, top_down, likelihood
        joint = {"prior": JointPrior(self), "posterior": JointPosterior(self), "decoder": JointDecoder(self)}
        self.__dict__.update(joint)  # views of what is here, not parts
        refuse_other_width(likelihood, self.decoder)

    @property
    def level_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of z at each level, top first."""
        return self.top_down.latent_shapes

    def infer(self, x: Tensor, y: Int[Tensor, " batch"] | None = None) -> Inference:
        """Run the bottom-up path; what is drawn is the noise that all levels follow from."""
        return _Ladder(self, x, y)

    def split(self, z: Float[Tensor, "... latent"]) -> tuple[Tensor, ...]:
        """Return the levels of a z in one row, top first, each (..., *shape)."""
        return self.prior_chain().split(z)

    def whitened(self, z: Float[Tensor, "... latent"]) -> Float[Tensor, "... latent"]:
        """Return (z_l - mean_l) / deviation_l of the prior given the levels above, for every level that is normal."""
        return self.prior_chain().whitened(z)

    def coloured(self, noise: Float[Tensor, "... latent"]) -> Float[Tensor, "... latent"]:
        """Return z of such numbers."""
        return self.prior_chain().coloured(noise)

    def prior_chain(self, y: Tensor | None = None) -> Chain:
        """Return p(z | y)."""
        top: Distribution = self.top(y)

        def walk(choose: Choose) -> list[Distribution]:
            return [level.prior for level in self._descend(choose, None, top)[0]]

        return Chain(walk, self.level_shapes, top.batch_shape)

    def posterior_chain(self, x: Tensor, y: Tensor | None = None) -> Chain:
        """Return q(z | x)."""
        features, top = self.bottom_up(x), self.top(y)

        def walk(choose: Choose) -> list[Distribution]:
            return [level.posterior for level in self._descend(choose, features, top)[0]]

        return Chain(walk, self.level_shapes, x.shape[:1])

    def decoded(self, z: Float[Tensor, "rows latent"]) -> Tensor:
        """Return what the likelihood needs, (rows, *out_shape)."""
        first, *others = self.split(z)
        state = self.top_down.begin(first)
        for level, part in enumerate(others, 1):
            state = self.top_down.merge(level, state, part)
        return self.top_down.finish(state)

    def _descend(self, choose: Choose, features: list[Tensor] | None, top: Distribution) -> tuple[list[Level], Tensor]:
        """Go down the levels.

        Args:
            choose: (level, distribution) to z_l, (*lead, *shape): the posterior's where there are features, else the
                prior's.
            features: of the bottom-up path, or None.
            top: p(z_1 | y).

        Returns:
            the levels, whose posterior is their prior where there are no features, and the last state, in rows.
        """
        path = self.top_down
        prior, posterior = top, top if features is None else self._top_posterior(features[0])
        z = choose(0, posterior)
        lead = z.shape[: z.ndim - len(self.level_shapes[0])]
        levels, state = [Level(z, posterior, prior)], path.begin(z.reshape(-1, *self.level_shapes[0]))
        for number, shape in enumerate(self.level_shapes[1:], 1):
            dims = len(shape)
            mean, log_variance = path.prior(number, state).reshape(*lead, 2, *shape).unbind(len(lead))
            prior = independent_normal(mean, soft_bound(log_variance, *PRIOR_BOUNDS), dims)
            posterior = prior
            if features is not None:
                found = path.posterior(number, state, features[number]).reshape(*lead, 2, *shape)
                posterior = residual_normal(prior, *found.unbind(len(lead)))
            z = choose(number, posterior)
            levels.append(Level(z, posterior, prior))
            state = path.merge(number, state, z.reshape(-1, *shape))
        return levels, state

    def _top_posterior(self, features: Tensor) -> Distribution:
        mean, log_variance = self.top_down.posterior(0, None, features).unbind(1)
        return independent_normal(mean, soft_bound(log_variance, *TOP_BOUNDS), len(self.level_shapes[0]))


class _Ladder(Inference):
    """The levels of a batch."""

    def __init__(self, model: HierarchicalVAE, x: Tensor, y: Tensor | None) -> None:
        self.model, self.x, self.y = model, x, y
        self.features, self.top = model.bottom_up(x), model.top(y)

    def draw(self, samples: int) -> Float[Tensor, "samples batch latent"]:
        return torch.randn(samples, len(self.x), self.model.latent_dim, device=self.x.device, dtype=self.x.dtype)

    def levels(self, drawn: Tensor) -> tuple[Level, ...]:
        return self._descend(drawn)[0]

    def terms(self, drawn: Tensor) -> Terms:
        levels, state = self._descend(drawn)
        parameters = self.model.top_down.finish(state)
        observation = self.model.likelihood(parameters.reshape(*drawn.shape[:2], *parameters.shape[1:]))
        return Terms(self.x, self.y, levels, observation)

    def _descend(self, drawn: Tensor) -> tuple[tuple[Level, ...], Tensor]:
        sizes = [math.prod(shape) for shape in self.model.level_shapes]
        noise = torch.split(drawn, sizes, -1)

        def choose(level: int, posterior: Distribution) -> Tensor:
            normal = as_normal(posterior)
            assert normal is not None
            return normal.loc + normal.scale * noise[level].reshape(*drawn.shape[:2], *self.model.level_shapes[level])

        levels, state = self.model._descend(choose, self.features, self.top)
        return tuple(levels), state


def residual_normal(prior: Independent[Normal], shift: Tensor, log_ratio: Tensor) -> Independent[Normal]:
    """Return N(m + s d, s^2 exp(e)) for a prior N(m, s^2).

    Args:
        prior: with independent dimensions.
        shift: d, in units of the prior's standard deviation.
        log_ratio: e, bounded smoothly to [-14, 8].
    """
    m, s = prior.base_dist.loc, prior.base_dist.scale
    scale = s * (0.5 * soft_bound(log_ratio, *RESIDUAL_BOUNDS)).exp()
    return Independent(Normal(m + s * shift, scale, validate_args=False), len(prior.event_shape), validate_args=False)
