"""KNOWN-DEFECTS 2: a KL weight that never reaches its end is refused before the first step."""

from __future__ import annotations

import pytest
from training_helpers import tiny

from sfumato.core.errors import UserError
from sfumato.core.schedules import WarmUp
from sfumato.objectives import ELBO
from sfumato.training import Trainer, TrainingConfig


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    model, _, train, validation, preprocessing = tiny()
    config = TrainingConfig(steps=10)
    with pytest.raises(UserError, match="would not reach its full weight in 10 steps"):
        Trainer(model, ELBO(schedule=WarmUp(11)), train, validation, preprocessing, config)
    Trainer(model, ELBO(schedule=WarmUp(10)), train, validation, preprocessing, config)
