"""Training: one readable loop, exact resume, a guard against steps that go wrong."""

from sfumato.training.config import TrainingConfig
from sfumato.training.listener import Listener
from sfumato.training.loop import Trainer
from sfumato.training.outcome import Outcome

__all__ = ["Listener", "Outcome", "Trainer", "TrainingConfig"]
