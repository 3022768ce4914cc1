"""The random numbers of a forward pass, drawn before it.

A forward pass that is vectorised over runs cannot ask a generator for numbers: every run has its own seed. So what it
asks for is noted once, and then drawn run by run, in the same order, from the same generator, before the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

NORMAL = (torch.Tensor.normal_, torch.randn, torch.randn_like)
UNIFORM = (torch.Tensor.uniform_, torch.rand, torch.rand_like)


@dataclass(frozen=True)
class Draw:
    """Independent numbers that a forward pass asks for.

    Args:
        normal: standard normal; else uniform in [0, 1).
        shape: of the tensor.
        stride: how it lies in memory, which is the order in which it is filled.
        dtype: of its numbers.
        device: where it is.
    """

    normal: bool
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __call__(self) -> Tensor:
        """Return new numbers from torch's random state."""
        empty = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return empty.normal_() if self.normal else empty.uniform_()


class Noting(TorchFunctionMode):
    """While entered, notes what is drawn: ``draws``."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        """Call ``function``; note a draw."""
        found = function(*arguments, **(options or {}))
        if _draws(function, arguments, options):
            normal = function in NORMAL
            self.draws.append(Draw(normal, tuple(found.shape), found.stride(), found.dtype, found.device))
        return found


class Giving(TorchFunctionMode):
    """While entered, hands out given numbers where some would be drawn.

    Args:
        numbers: a tensor for every draw, in their order.
    """

    def __init__(self, numbers: Sequence[Tensor]) -> None:
        super().__init__()
        self.left: Iterator[Tensor] = iter(numbers)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        """Call ``function``, or give the next numbers in its place."""
        if _draws(function, arguments, options):
            return next(self.left)
        if function is F.binary_cross_entropy_with_logits:
            return _cross_entropy(*arguments, **(options or {}))
        return function(*arguments, **(options or {}))


def draws_of(work: Callable[[], object], devices: Sequence[torch.device] = ()) -> list[Draw] | None:
    """Return what ``work`` draws from torch's random state, which stays as it was; None: something cannot be noted.

    Args:
        work: a forward pass.
        devices: those whose random state is used beside the processor's.

    >>> [draw.shape for draw in draws_of(lambda: torch.distributions.Normal(torch.zeros(2), 1.0).rsample((3,)))]
    [(3, 2)]
    >>> draws_of(lambda: torch.randperm(3)) is None
    True
    """
    with torch.random.fork_rng(devices=devices), Noting() as noted:
        work()
        after = _state(devices)
    with torch.random.fork_rng(devices=devices):
        for draw in noted.draws:
            draw()
        same = all(torch.equal(one, other) for one, other in zip(after, _state(devices), strict=True))
    return noted.draws if same else None


def _draws(function: Any, arguments: Sequence[Any], options: Any) -> bool:
    """Whether a call draws standard normal or uniform numbers whose shape it is told."""
    if function in (torch.Tensor.normal_, torch.Tensor.uniform_):
        return len(arguments) == 1 and not options
    return function in NORMAL or function in UNIFORM


def _state(devices: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _cross_entropy(logits: Tensor, target: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """Return the formula of the plain kernel; torch vectorises another, with four times as many passes over memory."""
    if arguments or {name for name, value in options.items() if value is not None} != {"reduction"}:
        return F.binary_cross_entropy_with_logits(logits, target, *arguments, **options)
    losses = (1 - target) * logits - F.logsigmoid(logits)
    return losses if options["reduction"] == "none" else getattr(losses, options["reduction"])()
