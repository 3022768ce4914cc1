"""Everything that a training is made of between two steps, and how it goes into a checkpoint and comes back.

Tensors and plain json only. What follows from (seed, step) is not here: order of the data, noise, schedules.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import MODEL, Objective
from sfumato.io.checkpoints import Checkpoint, Checkpoints
from sfumato.io.tensors import flatten_optimizer, unflatten_optimizer
from sfumato.training.config import TrainingConfig
from sfumato.training.gradients import total_norm
from sfumato.training.guard import Guard
from sfumato.training.runtime import Runtime

TensorTree = dict[str, dict[str, Tensor]]
BEST = "best"
OBJECTIVE = "objective"
PLAIN = ("step", "averages", "best_step", "best_value", "evaluations_since_best", "stopped_early", "count", "seconds")


class TrainingState:
    """The state of one training.

    Args:
        model: on its device.
        config: what was decided.
        objective: whose own networks are trained too, if it has some; they are not averaged and not delivered.
        parameters: what the optimizer changes of the model; by default all its parameters.
        averaged: a copy of the model for the averages; by default one is made.
        averaged_parameters: its counterpart of ``parameters``.

    ``step`` steps are done. ``best_step`` had the lowest validation loss, ``best_value`` nats; its averaged weights are
    ``best_weights``. ``sums`` and ``count`` accumulate the values reported since the last line of metrics.
    """

    spread = False  # whether weights are spread over processes; see sfumato.training.sharding

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        objective: nn.Module | None = None,
        parameters: list[Tensor] | None = None,
        averaged: nn.Module | None = None,
        averaged_parameters: list[Tensor] | None = None,
    ) -> None:
        self.model, self.objective = model, nn.Module() if objective is None else objective
        self._of_model: list[Tensor] = list(model.parameters()) if parameters is None else parameters
        self.parameters: list[Tensor] = [*self._of_model, *self.objective.parameters()]
        self.replicated = self.parameters
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.averaged = copy.deepcopy(model).eval() if averaged is None else averaged
        self.averages = 0
        self.ema_decay = config.ema_decay
        self._averaged_parameters: list[Tensor] = averaged_parameters or list(self.averaged.parameters())
        self._buffers, self._averaged_buffers = list(model.buffers()), list(self.averaged.buffers())
        self.guard = Guard()
        self.step = 0
        self.best_step: int | None = None
        self.best_value: float | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.evaluations_since_best = 0
        self.stopped_early = False
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.seconds = 0.0

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the current ones, and take over the buffers.

        The decay is min(ema_decay, (1 + n) / (10 + n)) after n steps, so that the average starts short. Reference: the
        warm-up of TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self.ema_decay, (1 + self.averages) / (10 + self.averages))
        torch._foreach_lerp_(self._averaged_parameters, self._of_model, 1 - decay)
        for buffer, current in zip(self._averaged_buffers, self._buffers, strict=True):
            buffer.copy_(current)
        self.averages += 1

    def add(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Add the sums of values over ``count`` examples."""
        for name, total in sums.items():
            self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.count += count

    def take_means(self) -> dict[str, float]:
        """Return the means over all examples since the last call, and start anew."""
        means = {name: float(total) / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def note_evaluation(self, loss: float, patience: int) -> bool:
        """Take note of a validation loss at the current step; return whether it is the best so far. NaN never is."""
        if math.isfinite(loss) and (self.best_value is None or loss < self.best_value):
            self.best_step, self.best_value, self.evaluations_since_best = self.step, loss, 0
            self.best_weights = self._averaged_weights()
            return True
        self.evaluations_since_best += 1
        self.stopped_early = 0 < patience <= self.evaluations_since_best
        return False

    def collect(self) -> Tensor | None:
        """Take the gradients of a step to where the optimizer reads them; here they are there."""
        return None

    def norm(self, squares: Tensor | None) -> Tensor:
        """Return the norm of all gradients together, ()."""
        return total_norm(self.parameters)

    def links(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for what may talk to other processes while it computes."""
        return contextlib.nullcontext()

    def shown(self, model: nn.Module) -> nn.Module:
        """Return a whole model with the averaged weights, to be looked at by the first process."""
        return self.averaged

    def deliver(self, model: nn.Module) -> nn.Module:
        """Give ``model`` the best averaged weights, and return it, ready for use."""
        model.load_state_dict(self.best_weights or self.averaged.state_dict())
        return model.eval()

    def common(self) -> list[dict[str, Tensor]]:
        """Return what must be the same in every process."""
        return [self.model.state_dict(), self.averaged.state_dict(), *self._of_objective().values()]

    def is_finite(self) -> bool:
        """Whether every weight and every average is finite."""
        tensors = [value for part in self.common() for value in part.values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def capture(self) -> tuple[TensorTree, dict[str, Any]]:
        """Return (file stem -> name -> tensor, json), copies that later steps do not change."""
        optimizer, settings = flatten_optimizer(self.optimizer.state_dict())
        tensors: TensorTree = {
            "model": cloned(self.model.state_dict()),
            "ema": cloned(self.averaged.state_dict()),
            "optimizer": cloned(optimizer),
            "sums": cloned(self.sums),
            **{stem: cloned(own) for stem, own in self._of_objective().items()},
        }
        return tensors, self.plain(settings)

    def plain(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything but tensors; ``settings`` are the optimizer's."""
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "optimizer": settings,
            "guard": self.guard.state(),
            "sums": list(self.sums),
        }

    def restore(self, tensors: TensorTree, plain: Mapping[str, Any]) -> None:
        """Take over what :meth:`capture` returned. The best weights are not in it, only their step."""
        self.model.load_state_dict(tensors["model"])
        self.averaged.load_state_dict(tensors["ema"])
        self.objective.load_state_dict(tensors.get(OBJECTIVE, {}))
        own = cloned(tensors["optimizer"])  # the optimizer takes tensors as they are, and changes them in place
        self.optimizer.load_state_dict(unflatten_optimizer(own, plain["optimizer"]))
        device = next(self.model.parameters()).device
        self.sums = {name: tensors["sums"][name].to(device) for name in plain["sums"]}
        self.restore_plain(plain)

    def restore_plain(self, plain: Mapping[str, Any]) -> None:
        """Take over what is neither a tensor nor the optimizer's."""
        self.guard.restore(plain["guard"])
        for name in PLAIN:
            setattr(self, name, plain[name])

    def restore_checkpoint(self, checkpoint: Checkpoint, best: dict[str, Tensor] | None) -> None:
        """Take over a checkpoint, and the best weights, which :func:`best_weights` finds.

        Raises:
            UserError: it is of another model.
        """
        try:
            self.restore(checkpoint.tensors, checkpoint.state["training"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint of step {checkpoint.step} is of another model ({reason}). Use the original run.json."
            ) from None
        self.best_weights = best

    def _of_objective(self) -> dict[str, dict[str, Tensor]]:
        """Return file stem -> name -> tensor of the objective's own networks, if it has some."""
        own = self.objective.state_dict()
        return {OBJECTIVE: own} if own else {}

    def _averaged_weights(self) -> dict[str, Tensor]:
        return cloned(self.averaged.state_dict())


def new_state(model: nn.Module, objective: Objective, config: TrainingConfig, runtime: Runtime) -> TrainingState:
    """Return the state of a training that begins with ``model``, which is moved to the device, unless it is copied.

    Raises:
        UserError: weights are to be spread, and the objective has several losses.
    """
    if config.shard and runtime.processes.several:
        if objective.groups != (MODEL,):
            raise UserError(
                f"an objective with losses for {', '.join(objective.groups)} needs whole weights in every process. "
                "Leave --shard away."
            )
        from sfumato.training.sharding import SpreadState  # what it imports takes half a second

        return SpreadState(model, config, runtime.processes)
    return TrainingState(model.to(runtime.device).train(), config, objective)


def best_weights(checkpoints: Checkpoints, latest: Checkpoint) -> dict[str, Tensor] | None:
    """Return the averaged weights of the best step that ``latest`` knows.

    They are those of the checkpoint of that step; where it found no room, every later one carries them.
    """
    step = latest.state["training"]["best_step"]
    if step is None:
        return None
    if BEST in latest.tensors:
        return latest.tensors[BEST]
    return (latest if step == latest.step else checkpoints.load(step)).tensors["ema"]


def summed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums over the last dimension, the examples."""
    return {name: value.detach().sum(-1, dtype=torch.float64) for name, value in values.items()}


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
