"""From a time to a number of steps, by a short measurement that leaves no trace."""

from __future__ import annotations

import copy
import math
import time

from torch import nn

from sfumato.core.interfaces import Objective
from sfumato.data import Examples
from sfumato.training.config import TrainingConfig
from sfumato.training.loop import Trainer

WARM = 3
MEASURED_SECONDS = 4.0
SHARE = 0.92


def steps_in(
    seconds: float,
    model: nn.Module,
    objective: Objective,
    train: Examples,
    validation: Examples,
    preprocessing: nn.Module,
    config: TrainingConfig,
) -> int:
    """Return how many steps of ``config`` fit into ``seconds`` on this machine, evaluations included; at least 1.

    Trains a copy for about four seconds, or a tenth of a shorter budget; ``model`` is not touched. 8 % of the time is
    kept for checkpoints and pictures. Of several processes the first decides.
    """
    trainer = Trainer(copy.deepcopy(model), objective, train, validation, preprocessing, config)
    begin = time.monotonic()
    trainer.choose_engine(seconds)
    seconds -= time.monotonic() - begin  # the training chooses again
    for step in range(WARM):
        trainer.measured_step(step)
    begin, done, agree = time.monotonic(), 0, trainer.processes.agree
    while agree((elapsed := time.monotonic() - begin) < min(MEASURED_SECONDS, seconds / 10) or done < WARM):
        trainer.measured_step(WARM + done)
        done += 1
    per_step = elapsed / done
    begin = time.monotonic()
    trainer.measured_evaluation()
    evaluations = math.ceil(config.steps / config.evaluate_every) + 1
    left = SHARE * seconds - evaluations * (time.monotonic() - begin)
    return agree(max(1, int(left / per_step)))
