"""The nouns: one abstract base per room. Members are final classes under it; to tweak one, wrap it.

Sign, unit and reduction are law. Log-densities are in nats and summed over event dimensions; an objective returns one
number per example; means over examples are taken in the training loop and in ``evaluation``, nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core.errors import UserError
from sfumato.core.schedules import Step
from sfumato.core.spec import REGISTRY
from sfumato.core.terms import Terms


class Network(nn.Module, ABC):
    """Tensor to tensor, no probability.

    Args:
        in_shape: the shape of one input, without batch.
        out_shape: the shape of one output.
    """

    spec_kind: ClassVar[str] = "network"
    sees_label: ClassVar[bool] = False

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (..., *in_shape) to (..., *out_shape), float32 or wider whatever the autocast.

        Args:
            x: any number of leading dimensions before ``in_shape``.
            y: class numbers, (batch,), for the networks that look at them (``sees_label``); the others do not.

        Raises:
            UserError: the trailing shape of ``x`` is not ``in_shape``.
        """
        dims = len(self.in_shape)
        lead = x.shape[: x.ndim - dims]
        if x.ndim < dims or tuple(x.shape[x.ndim - dims :]) != self.in_shape:
            raise UserError(
                f"{type(self).__name__} expects inputs of shape (..., {', '.join(map(str, self.in_shape))}); "
                f"got {tuple(x.shape)}. Build it with in_shape={tuple(x.shape[1:])}, or reshape the data."
            )
        out = self.compute(x.reshape(-1, *self.in_shape))
        out = out.float() if out.dtype.itemsize < 4 else out
        return out.reshape(*lead, *self.out_shape)

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """Map (batch, *in_shape) to (batch, anything with the size of out_shape)."""

    def penalties(
        self, z: Float[Tensor, "samples batch ..."], y: Tensor | None = None
    ) -> Mapping[str, Float[Tensor, " batch"]]:
        """Return what a decoder asks to pay for itself at ``z``, by name; here nothing."""
        return {}


class Conditional(nn.Module, ABC):
    """A module whose call returns a ``torch.distributions.Distribution``."""


class Prior(Conditional):
    """p(z), or p(z | y)."""

    spec_kind: ClassVar[str] = "prior"
    num_classes: int = 0
    latent_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, y: Tensor | None = None) -> Distribution:
        """Return p(z | y) with batch shape (batch,), or without ``y`` p(z) with batch shape ()."""

    def accept_step(self) -> None:
        """Take over what the model has become; called after a step that was not skipped."""


class Posterior(Conditional):
    """q(z | x), or q(z | x, y)."""

    spec_kind: ClassVar[str] = "posterior"
    sees_label: bool = False
    latent_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z | x) with batch shape (batch,) and event shape ``latent_shape``."""


class Likelihood(Conditional):
    """p(x | z), given what the decoder makes of z.

    The decoder returns ``numbers_per_value`` numbers for every data value, on an axis of their own before the data's:
    (..., numbers_per_value, *shape).

    Args:
        shape: the shape of one example.
    """

    spec_kind: ClassVar[str] = "likelihood"
    discrete: ClassVar[bool] = False
    has_density: ClassVar[bool] = True  # or there is a score in its place, of which no bound is made
    numbers_per_value: int = 1
    remembered: Tensor | None = None  # what accept_step takes over: a statistic of the last training batch

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The ``out_shape`` that a decoder for this likelihood must have."""
        return (self.numbers_per_value, *self.shape)

    def forward(self, parameters: Tensor) -> Distribution:
        """Return p(x | z) with the event shape ``shape``.

        Args:
            parameters: (..., numbers_per_value, *shape).

        Raises:
            UserError: another width.
        """
        dims = len(self.parameter_shape)
        if tuple(parameters.shape[parameters.ndim - dims :]) != self.parameter_shape:
            raise UserError(
                f"{type(self).__name__} needs {self.numbers_per_value} numbers for each data value, shape "
                f"{self.parameter_shape}; the decoder gave {tuple(parameters.shape[-dims:])}. "
                f"Build the decoder with out_shape={self.parameter_shape}."
            )
        return self.distribution(parameters)

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the distribution for checked ``parameters``."""

    def accept_step(self) -> None:
        """Take over statistics of the last training batch; called after a step that was not skipped."""


MODEL, HALVES = "model", ("encoder", "decoder")


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective says about a batch.

    Args:
        losses: parameter group -> (batch,), in nats, to differentiate and minimise. Each changes its own group only:
            ``model``, all of the model; ``encoder`` and ``decoder``, its halves; or a network of the objective itself.
        values: name -> (batch,), in nats, to report. A different field on purpose.
    """

    losses: Mapping[str, Float[Tensor, " batch"]]
    values: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)

    @property
    def loss(self) -> Float[Tensor, " batch"]:
        """What the model minimises, to report and to choose by: of losses for its two halves the mean.

        What networks of the objective minimise is left out: an adversary that gets better makes no model worse.
        """
        halves = [self.losses[group] for group in HALVES if group in self.losses]
        whole = [self.losses[group] for group in (MODEL,) if group in self.losses]
        return torch.stack([*whole, *(half / len(halves) for half in halves)]).sum(0)


class Objective(nn.Module, ABC):
    """Reads :class:`Terms`, returns losses per example. Knows no model.

    Objectives add up, and have weights: ``ELBO() + 10 * MMD()``.

    ``numbers`` names the arguments that may be a tensor of shape () in ``forward``: arithmetic, no ``if``. Runs that
    differ in them alone, and not in whether they are 0, can be trained at once.

    ``samples``: draws of z for each example; ``any_samples``: in a sum it takes as many as the others ask for.
    ``compares``: the loss of an example depends on the others of its batch; see :meth:`whole`.
    """

    spec_kind: ClassVar[str] = "objective"
    numbers: ClassVar[tuple[str, ...]] = ()
    any_samples: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    samples: int = 1
    gather: Callable[[Tensor], Tensor] | None = None  # training sets it, over several processes

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that this objective trains beside the model, by the name of their loss."""
        return {}

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all its losses."""
        return (MODEL, *self.networks)

    @abstractmethod
    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values of ``terms`` at ``step`` (for schedules)."""

    def whole(self, rows: Tensor) -> Tensor:
        """Return the rows (batch, ...) of the whole batch, of which this process may have a part only."""
        return rows if self.gather is None or not self.training else self.gather(rows)

    def pairs(self) -> list[tuple[Objective, float]]:
        """Return the terms of a sum with their weights: here, this one."""
        return [(self, 1.0)]

    def __add__(self, other: Objective) -> Objective:
        """Return the sum of both."""
        return _sum([*self.pairs(), *other.pairs()])

    def __mul__(self, weight: float) -> Objective:
        """Return this objective with a weight."""
        return _sum([(term, weight * own) for term, own in self.pairs()])

    __rmul__ = __mul__


def _sum(weighted: list[tuple[Objective, float]]) -> Objective:
    """Return the sum: the member of the room ``objectives`` that is called so, which core may not import."""
    terms, weights = zip(*weighted, strict=True)
    found: Objective = REGISTRY[Objective.spec_kind]["Sum"](terms, weights)
    return found
