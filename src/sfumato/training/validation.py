"""The objective on a whole split: every example counts once, under noise that is the same at every evaluation."""

from __future__ import annotations

import torch
from torch import nn

from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Examples

BATCH = 500
STREAM = 0x76616C  # "val"


@torch.no_grad()
def validate(
    model: nn.Module,
    objective: Objective,
    examples: Examples,
    preprocessing: nn.Module,
    step: int,
    last_step: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the means over ``examples`` of the objective's values, in float32, nats.

    ``loss`` is the objective at ``step``, with the beta that training has there; ``final_loss`` the one at
    ``last_step``, when every schedule has ended, by which evaluations can be compared. A non-finite example makes its
    mean non-finite: nothing is dropped.

    Args:
        model: in any mode; put into evaluation mode and back.
        objective: what is trained.
        examples: the split.
        preprocessing: raw data to the model's input.
        step: the current step.
        last_step: the last step of the training.
        seed: of the noise.
        device: of the model.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, torch.Tensor] = {}
    for number, start in enumerate(range(0, len(examples), BATCH)):
        raw, y = examples.batch(torch.arange(start, min(start + BATCH, len(examples))))
        with fixed_noise(seed_for(STREAM, seed, number), device):
            x = preprocessing(raw.to(device))
            terms = model(x, None if y is None else y.to(device), objective.samples)
            now, final = objective(terms, step), objective(terms, last_step)
        values = {"loss": sum(now.losses.values()), "final_loss": sum(final.losses.values()), **now.values}
        for name, value in values.items():
            total = value.sum(dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total
    model.train(was_training)
    return {name: float(total) / len(examples) for name, total in sums.items()}
