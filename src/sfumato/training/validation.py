"""The objective on a whole split: every example counts once, under noise that is the same at every evaluation."""

from __future__ import annotations

import torch
from torch import nn

from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.processes import ALONE, Processes
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
    processes: Processes = ALONE,
    alike: bool = False,
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
        processes: that share the work; the values are bit for bit those of one, as noise and order of the sums are.
        alike: whether all of them must compute the same number of batches, as layers of theirs talk to each other.
    """
    was_training, objective_was = model.training, objective.training
    model.eval()
    objective.eval()
    starts = range(0, len(examples), BATCH)
    mine = list(range(processes.rank, len(starts), processes.count))
    if alike and processes.rank >= len(starts) % processes.count > 0:
        mine.append(0)  # once more, for its layers
    parts: dict[int, dict[str, torch.Tensor]] = {}
    for number in mine:
        raw, y = examples.batch(torch.arange(starts[number], min(starts[number] + BATCH, len(examples))))
        with fixed_noise(seed_for(STREAM, seed, number), device):
            x = preprocessing(raw.to(device))
            terms = model(x, None if y is None else y.to(device), objective.samples)
            now, final = objective(terms, step), objective(terms, last_step)
        values = {"loss": now.loss, "final_loss": final.loss, **now.values}
        if number % processes.count == processes.rank:
            parts[number] = {name: value.sum(dtype=torch.float64) for name, value in values.items()}
    model.train(was_training)
    objective.train(objective_was)
    if processes.several:
        parts = _of_all(parts, len(starts), processes)
    sums = parts[0]
    for number in range(1, len(starts)):
        sums = {name: total + parts[number][name] for name, total in sums.items()}
    return {name: float(total) / len(examples) for name, total in sums.items()}


def _of_all(
    parts: dict[int, dict[str, torch.Tensor]], count: int, processes: Processes
) -> dict[int, dict[str, torch.Tensor]]:
    """Return the sums of all ``count`` batches, of which every process has its own; each is added to zeros only."""
    names = processes.agree(list(parts[0]) if processes.first else [])
    table = torch.zeros(count, len(names), dtype=torch.float64, device=processes.device)
    for number, sums in parts.items():
        table[number] = torch.stack([sums[name] for name in names])
    processes.sum(table)
    return {number: dict(zip(names, row.unbind(), strict=True)) for number, row in enumerate(table)}
