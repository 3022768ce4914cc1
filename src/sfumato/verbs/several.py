"""Several runs that are trained at once, and then evaluated one after another; each is a run folder like any other."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.core.errors import Diverged
from sfumato.data import InMemory
from sfumato.training import Outcome, Trainer
from sfumato.training.several import fit_several
from sfumato.verbs.train import Talk, TrainedRun

AT_ONCE = 16
MEMORY = 2**30  # bytes, for all that is kept beside the data
COPIES = 8  # of the weights: their average, two moments, the gradient, what checkpoints hold

End = TrainedRun | Diverged | int | None


def most_at_once(trainer: Trainer) -> int:
    """Return how many runs like that of ``trainer`` are trained at once."""
    needed = COPIES * sum(parameter.nbytes for parameter in trainer.model.parameters())
    if getattr(trainer.preprocessing, "mode", "") == "fixed" and isinstance(trainer.train, InMemory):
        needed += trainer.train.x.nbytes  # every run has its own draw of the data
    return max(1, min(AT_ONCE, MEMORY // needed))


def train_several(begun: Sequence[tuple[Talk, Trainer]]) -> list[End]:
    """Train runs that have begun, and finish each.

    Args:
        begun: what the verb that trains yields, and the trainer that it asked about.

    Returns:
        the runs; a Diverged for one that went wrong, the number of a signal for one that it stopped.
    """
    ended = fit_several([trainer for _, trainer in begun])
    signals = [each.signal for each in ended if isinstance(each, Outcome) and each.signal is not None]
    done: list[End] = []
    for (talk, _), end in zip(begun, ended, strict=True):
        try:
            if end is None or (signals and isinstance(end, Outcome) and end.finished):
                done.append(signals[0])  # evaluated when the run goes on
            elif isinstance(end, Diverged):
                talk.throw(end)
            else:
                talk.send(end)
        except StopIteration as stop:
            run: TrainedRun = stop.value
            done.append(run if run.outcome.finished else run.outcome.signal or 2)
        except Diverged as error:
            done.append(error)
        finally:
            talk.close()
    return done
