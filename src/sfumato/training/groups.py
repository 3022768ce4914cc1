r"""Which loss changes which parameters.

An objective gives its losses by name. With L_g the loss of group g and P_g its parameters, a parameter moves along

    sum over the groups g with theta in P_g of d L_g / d theta

The names ``model``, ``encoder`` and ``decoder`` are the model's; any other is a network of the objective itself. All of
them are changed by one optimizer, in one step: there is one norm of all gradients together, one verdict on it, and a
step that is skipped changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import HALVES, MODEL, Objective

Places = dict[str, list[int]]


class Together(nn.Module):
    """What the objective says about what the model says: one module, so that all parameters have one name each.

    Args:
        model: whose call returns terms.
        objective: that reads them.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor | None, step: int | Tensor) -> object:
        """Return the :class:`~sfumato.core.interfaces.ObjectiveOutput` for a batch."""
        return self.objective(self.model(x, y, self.objective.samples), step)


def places(model: nn.Module, objective: Objective, parameters: Sequence[Tensor]) -> Places | None:
    """Return group -> the places of its parameters among ``parameters``; None: there is one loss, of the whole model.

    Raises:
        UserError: the model has no such halves.
    """
    if tuple(objective.groups) == (MODEL,):
        return None
    found: dict[str, Iterable[Tensor]] = {MODEL: model.parameters()}
    found |= getattr(model, "halves", None) or {}
    found |= {name: network.parameters() for name, network in objective.networks.items()}
    number = {id(parameter): place for place, parameter in enumerate(parameters)}
    groups: Places = {}
    for name in objective.groups:
        if name not in found:
            raise UserError(
                f"this objective has a loss for the {name} alone, and {type(model).__name__} has no such half: "
                f"what makes z from x and what makes x from z share weights. Use an objective with one loss, or a VAE "
                "whose parts share none."
                if name in HALVES
                else f"the objective has a loss called '{name}' and no network of that name. Add it to networks."
            )
        groups[name] = [number[id(each)] for each in found[name] if id(each) in number]
    return groups


def backward(losses: Mapping[str, Tensor], groups: Places, parameters: Sequence[Tensor]) -> None:
    """Leave in the ``parameters`` the gradients of the ``losses``, each (), of their groups."""
    for left, (name, loss) in zip(reversed(range(len(losses))), losses.items(), strict=True):
        own = [parameters[place] for place in groups[name]]
        found = torch.autograd.grad(loss, own, retain_graph=left > 0, allow_unused=True)
        for parameter, gradient in zip(own, found, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def gathered(gradients: Mapping[str, Sequence[Tensor]], groups: Places) -> list[Tensor]:
    """Return the gradient of every parameter, from those of each loss by all parameters."""
    count = len(next(iter(gradients.values())))
    found: list[Tensor | None] = [None] * count
    for name, every in gradients.items():
        for place in groups[name]:
            before = found[place]
            found[place] = every[place] if before is None else before + every[place]
    some = next(iter(gradients.values()))
    return [torch.zeros_like(some[place]) if each is None else each for place, each in enumerate(found)]
