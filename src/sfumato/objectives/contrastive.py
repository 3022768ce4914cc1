r"""Labels that bring the codes of a class together."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import Positive, register
from sfumato.core.terms import Terms
from sfumato.objectives.batch import codes, for_each


@final
@register("objective")
class Contrastive(Objective):
    r"""loss_i = -1/|P_i| sum_{p in P_i} log exp(s_ip / T) / sum_{a != i} exp(s_ia / T), s the cosine of two codes.

    P_i are the other examples of the batch with the label of i. An example without a label, or without another one of
    its class in the batch, has no loss; it still is among those that others are told from. A term of a sum.

    Reference: Supervised Contrastive Learning, Khosla et al., 2020, https://arxiv.org/abs/2004.11362.

    Args:
        temperature: T.

    Returns (call):
        losses {"model": (batch,)}, the mean over the batch for every example, nats, and the value ``contrastive``.

    >>> Contrastive(temperature=0.1).any_samples
    True
    """

    numbers: ClassVar[tuple[str, ...]] = ("temperature",)
    any_samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(self, temperature: Positive = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference.

        Raises:
            UserError: there are no labels.
        """
        if terms.y is None:
            raise UserError("Contrastive needs labels; these data have none. Give them, -1 where unknown.")
        z, y = self.whole(codes(terms)), self.whole(terms.y)
        loss = for_each(self._losses(z, y).mean(), len(terms.x), len(z))
        return ObjectiveOutput({MODEL: loss}, {"contrastive": loss.detach()})

    def _losses(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the loss of every example, (batch,)."""
        direction = F.normalize(z, dim=-1)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similarity = (direction @ direction.T / self.temperature).masked_fill(itself, -1e30)
        logs = torch.log_softmax(similarity, 1)
        alike = (y.unsqueeze(1) == y) & (y >= 0) & ~itself
        return -torch.where(alike, logs, 0.0).sum(1) / alike.sum(1).clamp(min=1)
