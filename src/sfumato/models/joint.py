r"""All levels of a hierarchical model as one: z = (z_1, ..., z_L) in one row, top first.

    p(z | y) = p(z_1 | y) prod_l p(z_l | z_<l),   q(z | x) = q(z_1 | x) prod_l q(z_l | x, z_<l)

Both are densities like any other, of a tensor with as many numbers as all levels have together; what bounds, annealing
and pictures do with the prior, posterior and decoder of a flat model they can do with these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from sfumato.core.gaussians import stated_normal
from sfumato.core.interfaces import Network, Posterior, Prior
from sfumato.core.terms import sum_levels
from sfumato.models.model import tempered

if TYPE_CHECKING:
    from sfumato.models.hierarchical import HierarchicalVAE

Shape = tuple[int, ...]
Choose = Callable[[int, Distribution], Tensor]
Walk = Callable[[Choose], Sequence[Distribution]]


class Chain(Distribution):
    r"""z = (z_1, ..., z_L), each drawn given those before: log p(z) = sum_l log p(z_l | z_<l).

    Args:
        walk: goes down the levels; it calls ``choose(level, conditional)`` for each, takes what comes back as z_l, of
            shape (*lead, *shape), and returns the conditionals.
        shapes: of z at each level.
        batch_shape: of the conditionals at the top.
        temperatures: on each level's standard deviation.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        walk: Walk,
        shapes: Sequence[Shape],
        batch_shape: torch.Size,
        temperatures: Sequence[float] = (),
    ) -> None:
        self.walk, self.shapes = walk, tuple(shapes)
        self.temperatures = tuple(temperatures)
        super().__init__(batch_shape, torch.Size([sum(map(math.prod, shapes))]), validate_args=False)

    @property
    def levels(self) -> int:
        """L."""
        return len(self.shapes)

    @property
    def mean(self) -> Tensor:
        """The mean of each level given the means of those above, (*batch, D)."""
        return self._gone(lambda level, conditional: self._wide(conditional.mean, level, self.batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - immutable
        """Return draws, (*sample_shape, *batch, D)."""
        lead = torch.Size(sample_shape) + self.batch_shape

        def choose(level: int, conditional: Distribution) -> Tensor:
            more = lead[: len(lead) - len(conditional.batch_shape)]
            z: Tensor = conditional.rsample(more) if conditional.has_rsample else conditional.sample(more)
            return z

        return self._gone(choose)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), nats, for z of (..., *batch, D)."""
        z = self.split(value)
        conditionals = self._cooled(lambda level, conditional: z[level])
        return sum_levels([part.log_prob(each) for part, each in zip(conditionals, z, strict=True)])

    def tempered(self, temperatures: Sequence[float]) -> Chain:
        """Return the chain with the standard deviation of each level, given those above, times its temperature."""
        return Chain(self.walk, self.shapes, self.batch_shape, temperatures)

    def detached(self) -> Chain:
        """Return the chain without gradients, whoever goes down it."""

        def walk(choose: Choose) -> Sequence[Distribution]:
            with torch.no_grad():
                return self.walk(choose)

        return Chain(walk, self.shapes, self.batch_shape, self.temperatures)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return z of (..., D) as its levels, each (..., *shape)."""
        parts = z.split([math.prod(shape) for shape in self.shapes], -1)  # type: ignore[no-untyped-call]
        return tuple(part.reshape(*z.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True))

    def whitened(self, z: Tensor) -> Tensor:
        """Return the numbers (z_l - mean_l) / deviation_l given the levels above, (..., D): N(0, 1) for draws of z.

        A level that is not normal is left as it is.
        """
        parts = self.split(z)
        found = []
        for part, conditional in zip(parts, self._cooled(lambda level, _: parts[level]), strict=True):
            loc, scale = _place(conditional)
            found.append(((part - loc) / scale).flatten(z.ndim - 1))
        return torch.cat(found, -1)

    def coloured(self, noise: Tensor) -> Tensor:
        """Return z of numbers like those that :meth:`whitened` returns."""
        parts = self.split(noise)

        def choose(level: int, conditional: Distribution) -> Tensor:
            loc, scale = _place(conditional)
            return loc + scale * parts[level]

        return self._gone(choose)

    def _gone(self, choose: Choose) -> Tensor:
        """Go down; return everything that was chosen, in one row."""
        chosen: list[Tensor] = []

        def remember(level: int, conditional: Distribution) -> Tensor:
            chosen.append(choose(level, conditional))
            return chosen[-1]

        self._cooled(remember)
        return torch.cat(
            [each.flatten(each.ndim - len(shape)) for each, shape in zip(chosen, self.shapes, strict=True)], -1
        )

    def _cooled(self, choose: Choose) -> Sequence[Distribution]:
        if not self.temperatures:
            return self.walk(choose)
        found: list[Distribution] = []

        def cold(level: int, conditional: Distribution) -> Tensor:
            found.append(tempered(conditional, self.temperatures[level]))
            return choose(level, found[-1])

        self.walk(cold)
        return found

    def _wide(self, value: Tensor, level: int, lead: torch.Size) -> Tensor:
        return value.expand(*lead, *self.shapes[level])


def _place(conditional: Distribution) -> tuple[Tensor | float, Tensor | float]:
    """Return mean and deviation of a normal; 0 and 1 where it is none, or has no mean (of an unknown class)."""
    normal = stated_normal(conditional)
    if normal is None:
        return 0.0, 1.0
    unknown = normal.loc.isnan()
    return torch.where(unknown, 0.0, normal.loc), torch.where(unknown, 1.0, normal.scale)


class JointPrior(Prior):
    """p(z | y) of all levels; it owns nothing."""

    ladder: HierarchicalVAE

    def __init__(self, model: HierarchicalVAE) -> None:
        super().__init__()
        _look_at(self, model)
        self.latent_shape = (sum(math.prod(shape) for shape in model.level_shapes),)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Of the top level."""
        return self.ladder.top.num_classes

    @property
    def log_frequencies(self) -> Tensor | None:
        """log p(y), where the top level has it."""
        return getattr(self.ladder.top, "log_frequencies", None)

    def forward(self, y: Tensor | None = None) -> Chain:
        """Return the chain of the priors, of batch shape (), or (batch,) with ``y``."""
        return self.ladder.prior_chain(y)


class JointPosterior(Posterior):
    """q(z | x) of all levels; it owns nothing."""

    ladder: HierarchicalVAE

    def __init__(self, model: HierarchicalVAE) -> None:
        super().__init__()
        _look_at(self, model)
        self.latent_shape = (sum(math.prod(shape) for shape in model.level_shapes),)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Chain:
        """Return the chain of the posteriors, of batch shape (batch,); labels make no difference to it."""
        return self.ladder.posterior_chain(x, y)


class JointDecoder(Network):
    """All levels of z to the numbers that the likelihood needs; it owns nothing."""

    ladder: HierarchicalVAE

    def __init__(self, model: HierarchicalVAE) -> None:
        super().__init__((sum(math.prod(shape) for shape in model.level_shapes),), model.top_down.out_shape)
        _look_at(self, model)

    def compute(self, x: Tensor) -> Tensor:
        """Map (rows, D) to (rows, *out_shape)."""
        return self.ladder.decoded(x)


def _look_at(view: nn.Module, model: HierarchicalVAE) -> None:
    """Let ``view`` know the model without making it a part: it is the view that belongs to the model."""
    view.__dict__["ladder"] = model
