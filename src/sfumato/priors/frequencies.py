"""p(y), the frequencies of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.errors import UserError


def log_frequencies(who: str, num_classes: int, frequencies: tuple[float, ...] | None) -> Tensor:
    """Return log p(y), nats, (classes,): of ``frequencies``, or with None all equal.

    Raises:
        UserError: not one for each class, or they do not add up to 1; ``who`` needs them.
    """
    given = (1 / num_classes,) * num_classes if frequencies is None else frequencies
    if len(given) != num_classes or abs(sum(given) - 1) > 1e-4:
        raise UserError(
            f"{who} needs one frequency for each of {num_classes} classes, adding up to 1; got "
            f"{len(given)} that add up to {sum(given):.6g}. Leave them out for equal ones."
        )
    shares = torch.tensor(given)
    return (shares / shares.sum()).log()
