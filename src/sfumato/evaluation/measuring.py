"""The state in which a model is measured: evaluation mode, no gradient, no autocast, float32 or better."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood
from sfumato.likelihoods import Masked, Mixed


@contextlib.contextmanager
def measuring(model: nn.Module) -> Iterator[torch.device]:
    """Put ``model`` into evaluation mode, without gradient and autocast, and every module back as it was.

    Yields:
        the device of the model.

    Raises:
        UserError: weights narrower than float32.
    """
    tensors = [*model.parameters(), *model.buffers()]
    narrow = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dtype.itemsize < 4}
    if narrow:
        raise UserError(
            f"evaluation needs weights in float32 or wider; got {', '.join(map(str, narrow))}. Call model.float()."
        )
    device = tensors[0].device if tensors else torch.device("cpu")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield device
    finally:
        for module, training in modes:
            module.training = training


def refuse_gaps(likelihood: Likelihood, what: str) -> None:
    """Raise UserError where rows have missing cells, or columns of different kinds, which ``what`` cannot compare."""
    if isinstance(likelihood, Mixed | Masked):
        raise UserError(
            f"{what} compare whole rows of numbers; these have columns of different kinds, or missing cells. "
            "Leave them out."
        )
