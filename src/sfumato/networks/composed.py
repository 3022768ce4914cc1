"""One network after another."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network
from sfumato.core.spec import register


@final
@register("network")
class Composed(Network):
    """then(first(x)); a label goes to ``then``.

    Reference: Deep Learning, Goodfellow, Bengio and Courville, 2016, https://www.deeplearningbook.org, chapter 6
    (networks as chains of functions).

    Args:
        first: a network that sees no label.
        then: takes what ``first`` gives: ``in_shape = first.out_shape``.

    Returns (call):
        (..., *then.out_shape).

    >>> from sfumato.networks import MLP, Log1p
    >>> Composed(Log1p((5,)), MLP((5,), (3,))).out_shape
    (3,)
    """

    def __init__(self, first: Network, then: Network) -> None:
        if first.sees_label or first.out_shape != then.in_shape:
            raise UserError(
                f"Composed needs a first network without labels whose out_shape is the in_shape of the next; got "
                f"{first.out_shape} and {then.in_shape}. Build the next with in_shape={first.out_shape}."
            )
        super().__init__(first.in_shape, then.out_shape)
        self.first, self.then = first, then

    @property
    def sees_label(self) -> bool:  # type: ignore[override]
        """Whether ``then`` does."""
        return self.then.sees_label

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Map (..., *in_shape) to (..., *out_shape)."""
        out: Tensor = self.then(self.first(x), y)
        return out

    def compute(self, x: Tensor) -> Tensor:
        """Map inputs without labels."""
        return self.forward(x)
