"""The training loop.

A step is: the batch of (seed, epoch, position); noise of (seed, step); terms, objective, backward, clip, the guard's
verdict, Adam, average. A checkpoint holds the rest, so a run that was killed goes on bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.errors import Diverged, SfumatoError, UserError
from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.spec import to_spec
from sfumato.data import Examples, Order, Prefetched
from sfumato.io.checkpoints import Checkpoint
from sfumato.io.run import RunFolder, finite
from sfumato.training.config import TrainingConfig
from sfumato.training.engine import Engine, Way
from sfumato.training.guard import Verdict
from sfumato.training.interruption import Interruption
from sfumato.training.listener import Listener
from sfumato.training.runtime import open_runtime
from sfumato.training.state import BEST, TensorTree, TrainingState, best_weights
from sfumato.training.validation import validate

WORTH_A_SEARCH = 200  # steps
NOISE = 0x6E6F697365  # "noise": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class Good:
    """A state to go back to.

    Args:
        step: the steps done.
        tensors: file stem -> name -> tensor.
        state: everything else, as plain json: "training", and how far "metrics" and the "pending" lines were.
        best: the averaged weights of the best step until then.
    """

    step: int
    tensors: TensorTree
    state: dict[str, Any]
    best: dict[str, Tensor] | None

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation until then."""
        step: int | None = self.state["training"]["best_step"]
        return step


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        step: the steps done.
        best_step: the step of the best evaluation, whose averaged weights the model has now.
        best_value: its validation loss, nats.
        skipped: steps that changed nothing because they went wrong.
        recoveries: returns to the last good checkpoint.
        seconds: time used, over all sessions of the run.
        finished: whether there is nothing left to do.
        stopped_early: whether patience ended it.
        signal: the signal that interrupted it, or None.
        save_failed: why the last checkpoint could not be written, or "".
    """

    step: int
    best_step: int | None
    best_value: float | None
    skipped: int
    recoveries: int
    seconds: float
    finished: bool
    stopped_early: bool
    signal: int | None
    save_failed: str


class Trainer:
    """Trains a model.

    Args:
        model: a model whose call returns :class:`~sfumato.core.terms.Terms`; moved to the device, trained in place.
        objective: what is minimised.
        train: the training split.
        validation: the split that chooses the best step and stops early.
        preprocessing: raw data to the model's input.
        config: every number.
        folder: where checkpoints and metrics go; None keeps everything in memory.
        listener: told what happens.
        items: names of the training examples, for error messages.

    Raises:
        UserError: a split is empty, or the KL term's warm-up is longer than the training.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        train: Examples,
        validation: Examples,
        preprocessing: nn.Module,
        config: TrainingConfig,
        folder: RunFolder | None = None,
        listener: Listener | None = None,
        items: Sequence[str] | None = None,
    ) -> None:
        if not len(train) or not len(validation):
            raise UserError(
                f"training needs examples for training and for validation; got {len(train)} and {len(validation)}. "
                "Change --split, or add examples (exact copies of one are kept in one split)."
            )
        warm_up = getattr(objective, "schedule", None)
        if warm_up is not None and warm_up(config.steps) != 1:
            raise UserError(
                f"the KL term would not reach its full weight in {config.steps:,} steps: its warm-up is longer. "
                "Train for more steps, or shorten the schedule of the objective."
            )
        self.runtime = open_runtime(config.precision)
        self.model = model.to(self.runtime.device).train()
        self.objective, self.config = objective, config
        self.train, self.validation = train, validation
        self.preprocessing = preprocessing.to(self.runtime.device)
        self.folder, self.listener, self.items = folder, listener or Listener(), items
        self.checkpoints = folder.open_checkpoints() if folder else None
        self.engine = Engine(self.model, objective, self.preprocessing, self.runtime, config.batch_size)
        self.state = TrainingState(self.model, config)
        self.save_failed = ""
        self._begun = False
        self._unwritten: list[dict[str, Any]] = []
        self._good: Good | None = None
        self._order = self._new_order()
        self._trouble = ""
        self._started = 0.0

    def resume(self) -> int:
        """Take over the latest checkpoint that verifies; return its step (0: there is none, start at the beginning).

        Raises:
            UserError: the checkpoint is that of another run, or a file of it is damaged.
        """
        assert self.folder is not None
        assert self.checkpoints is not None
        latest = self.checkpoints.latest()
        self._tell_warnings()
        if latest is None:
            self.folder.metrics.truncate(0)
            return 0
        self._compare(latest)
        good_step = latest.state["good_step"]
        good = latest if good_step == latest.step else self.checkpoints.load(good_step)
        self.state.restore_checkpoint(latest, best_weights(self.checkpoints, latest))
        self._good = Good(good.step, good.tensors, good.state, best_weights(self.checkpoints, good))
        self._begun = True
        self._order = self._new_order()
        self.folder.metrics.truncate(latest.state["metrics"])
        self._unwritten = list(latest.state["pending"])
        return self.state.step

    def fit(self) -> Outcome:
        """Train to the end, to an interruption, or until patience runs out.

        Raises:
            Diverged: steps kept going wrong after every recovery.
        """
        state, config = self.state, self.config
        self._started = time.monotonic() - state.seconds
        self.listener.on_start(state.step, config.steps, config.batch_size)
        saved = state.step
        with Interruption(self.listener.say) as interruption:
            if not self._begun:
                self.choose_engine()
                self._evaluate()
                self._keep_good()
                self._save()
            while state.step < config.steps and not state.stopped_early and interruption.signal is None:
                if self._step(state.step) == "rollback":
                    self._roll_back()
                    continue
                state.step += 1
                if self._is_due(config.log_every):
                    self._log()
                evaluated = self._is_due(config.evaluate_every)
                due = evaluated or self._is_due(config.checkpoint_every)
                if due and not state.is_finite():
                    self._trouble = "a weight became infinite"
                    self._roll_back()
                    continue
                if evaluated:
                    self._evaluate()
                if due:
                    if not state.guard.bad_in_a_row:  # else it may be the state that makes every step go wrong
                        self._keep_good()
                    self._save()
                    saved = state.step
                self.listener.on_step(state.step)
            if saved != state.step or self.save_failed:
                self._save()
        if isinstance(self.train, Prefetched):
            self.listener.say(self.train.meter.sentence())
        return self._outcome(interruption.signal)

    def choose_engine(self, seconds: float | None = None) -> None:
        """Measure the ways to compute a step and keep the fastest; it changes no number but by rounding.

        Args:
            seconds: how long the training will take; None: as long as its steps take.

        Raises:
            UserError: a compiled step was asked for, and there is none.
        """
        if self.config.engine == "auto" and self.config.steps - self.state.step < WORTH_A_SEARCH:
            return
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        indices = self._order(0)

        def trial() -> Tensor:
            with self.engine.products():
                output = self._forward(indices, self.config.steps)
                found = self._differentiate(output)
            self.state.optimizer.zero_grad()
            return torch.tensor([*found, *(float(values.mean()) for values in output.values.values())])

        def ahead(per_step: float) -> float:
            return (self.config.steps - self.state.step) * per_step if seconds is None else seconds

        try:
            sentence = self.engine.choose(trial, ahead, self.config.engine)
        except RuntimeError as error:
            raise UserError(f"{error}. Leave --engine away, or use --engine eager.") from None
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        if sentence:
            self.listener.say(sentence)

    def measured_step(self, step: int) -> None:
        """Do a step whose only purpose is the time it takes."""
        self._step(step)

    def measured_evaluation(self) -> None:
        """Evaluate, for the time it takes."""
        self._validate()

    def _step(self, step: int) -> Verdict:
        """Do one step, or leave everything as it was."""
        state, config = self.state, self.config
        rate = config.learning_rate * config.schedule(step) * state.guard.learning_rate_factor
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        indices = self._order(step)
        with self.engine.products():
            output = self._forward(indices, step)
            loss, norm = self._differentiate(output)
        verdict = state.guard.judge(loss, norm)
        if verdict == "accept":
            if 0 < config.clip_norm < norm:
                nn.utils.clip_grads_with_norm_(state.parameters, config.clip_norm, torch.tensor(norm))
            state.optimizer.step()
            self.model.accept_step()  # type: ignore[operator]
            state.average()
            state.accumulate({"loss": torch.stack(list(output.losses.values())).sum(0), **output.values})
        else:
            self._trouble = self._describe(output, norm, indices, step)
        state.optimizer.zero_grad()
        return verdict

    def _forward(self, indices: Tensor, step: int) -> ObjectiveOutput:
        raw, y = self.train.batch(indices)
        device = self.runtime.device
        seed = seed_for(NOISE, self.config.seed, self.state.guard.recoveries, step, self.runtime.rank)
        with fixed_noise(seed, device):
            y = None if y is None else y.to(device, non_blocking=True)
            return self.engine(raw.to(device, non_blocking=True), y, step)

    def _differentiate(self, output: ObjectiveOutput) -> tuple[float, float]:
        """Leave the gradients of the mean loss in the parameters; return the loss and the gradients' norm."""
        loss = torch.stack([values.mean() for values in output.losses.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in self.state.parameters if parameter.grad is not None]
        return float(loss.detach()), float(nn.utils.get_total_norm(gradients))

    def _new_order(self) -> Order:
        """Return the order of the data; every recovery has another one."""
        order = Order(len(self.train), self.config.batch_size, self.config.seed, salt=self.state.guard.recoveries)
        if isinstance(self.train, Prefetched):
            self.train.expect(order, self.state.step)
        return order

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def _log(self) -> None:
        guard = self.state.guard
        line = {"step": self.state.step, "split": "train", **self.state.take_means(), "skipped": guard.skipped}
        self._write(line)

    def _evaluate(self) -> None:
        state = self.state
        values = self._validate()
        state.note_evaluation(values.pop("final_loss"), self.config.patience)
        line = {"step": state.step, "split": "validation", **values}
        self._write({**line, **self.listener.on_evaluation(line, state.averaged)})

    def _validate(self) -> dict[str, float]:
        return validate(
            self.state.averaged,
            self.objective,
            self.validation,
            self.preprocessing,
            self.state.step,
            self.config.steps,
            self.config.seed,
            self.runtime.device,
        )

    def _write(self, line: dict[str, Any]) -> None:
        """Append to the metrics; lines that find no room wait for the next."""
        self.listener.on_metrics(line)
        if self.folder is None:
            return
        self._unwritten.append(finite(line))
        try:
            self._write_pending(self.folder)
        except SfumatoError as error:
            self.listener.say(str(error))

    def _write_pending(self, folder: RunFolder) -> None:
        while self._unwritten:
            folder.metrics.append(self._unwritten[0])
            self._unwritten.pop(0)

    def _capture(self) -> Good:
        self.state.seconds = time.monotonic() - self._started
        tensors, plain = self.state.capture()
        state = {
            "training": plain,
            "metrics": self.folder.metrics.size() if self.folder else 0,
            "pending": list(self._unwritten),
            "good_step": self._good.step if self._good else self.state.step,
            "made_by": self._made_by(),
        }
        return Good(self.state.step, tensors, state, self.state.best_weights)

    def _keep_good(self) -> None:
        """Remember this step to go back to; only steps of the schedule, so that an interruption changes nothing."""
        self._good = None
        self._good = self._capture()

    def _save(self) -> None:
        """Write a checkpoint; without room training goes on and the next one tries again."""
        if self.folder is None or self.checkpoints is None:
            return
        try:
            self._write_pending(self.folder)
            self.folder.metrics.position()
            there = self.checkpoints.steps()
            if self._good and self._good.step not in (self.state.step, *there):  # it found no room in its time
                self._save_as(self._good, there)
            self._save_as(self._capture(), there)
            self.save_failed = ""
        except SfumatoError as error:
            self.save_failed = str(error)
            self.listener.say(f"{error} The last checkpoint stays good; the next one is tried as planned.")
        self._tell_warnings()

    def _save_as(self, kept: Good, there: Sequence[int]) -> None:
        """Write ``kept``; with the best weights in it when no other checkpoint ``there`` has them."""
        assert self.checkpoints is not None
        assert self._good is not None
        tensors = dict(kept.tensors)
        if kept.best is not None and kept.best_step not in (kept.step, *there):
            tensors[BEST] = kept.best
        protect = [step for step in (kept.best_step, self._good.step, self._good.best_step) if step is not None]
        self.checkpoints.save(kept.step, tensors, kept.state, protect)

    def _made_by(self) -> dict[str, str]:
        """Return a digest of each part that a checkpoint only fits to, and where it was computed."""
        parts = {
            "model": self.model,
            "objective": self.objective,
            "training": self.config,
            "preprocessing": self.preprocessing,
        }
        surroundings = f"{self.runtime.device.type}, {'bf16' if self.runtime.bf16 else 'float32'}"
        said = {"surroundings": surroundings, "engine": str(self.engine.way)}
        return {name: fingerprint(part) for name, part in parts.items()} | said

    def _compare(self, latest: Checkpoint) -> None:
        """Refuse a checkpoint of other parts; say so when it was computed elsewhere."""
        before, now = latest.state["made_by"], self._made_by()
        for name in ("model", "objective", "training", "preprocessing"):
            if before[name] != now[name]:
                raise UserError(
                    f"the checkpoint of step {latest.step:,} was made with another {name} than run.json describes now. "
                    "Put the original run.json back, or train a new run."
                )
        self.engine.way = Way.parse(before["engine"])
        if before["surroundings"] != now["surroundings"]:
            self.listener.say(
                f"bit-exact not promised: the steps were computed on {before['surroundings']} and now are on "
                f"{now['surroundings']}"
            )

    def _roll_back(self) -> None:
        """Return to the last good state with half the learning rate and another order, or give up."""
        state, guard = self.state, self.state.guard
        if guard.exhausted:
            raise Diverged(self._obituary())
        recoveries, skipped, at = guard.recoveries, guard.skipped, state.step
        assert self._good is not None
        good = self._good
        state.restore(good.tensors, good.state["training"])
        state.best_weights = good.best
        guard.recoveries, guard.skipped = recoveries, skipped
        guard.recover()
        self._order = self._new_order()
        if self.folder and self.checkpoints:
            self.checkpoints.forget_after(good.step)  # first, so that none knows more metrics than there are
            self.folder.metrics.truncate(good.state["metrics"])
        self._unwritten = list(good.state["pending"])
        state.optimizer.zero_grad()
        self.listener.say(
            f"step {at:,}: {self._trouble}; back to step {state.step:,} with the learning rate times "
            f"{guard.learning_rate_factor:g}, recovery {guard.recoveries} of at most 5."
        )

    def _describe(self, output: ObjectiveOutput, norm: float, indices: Tensor, step: int) -> str:
        """Return which number went wrong first, and for which example."""
        losses = {f"the {group}'s loss": values for group, values in output.losses.items()}
        for name, values in {**output.values, **losses}.items():
            bad = ~torch.isfinite(values)
            if bool(bad.any()):
                index = int(indices[bad.nonzero()[0, 0].cpu()])
                item = self.items[index] if self.items else f"training example {index}"
                return f"{name} became {'NaN' if bool(values[bad].isnan().any()) else 'infinite'} (first in {item})"
        return f"the gradient's norm was {norm:.3g}"

    def _obituary(self) -> str:
        assert self._good is not None
        there = [step for step in (self.checkpoints.steps() if self.checkpoints else []) if step <= self._good.step]
        kept = f"The checkpoint of step {there[-1]:,} is good." if there else "Nothing was written."
        return (
            f"step {self.state.step:,}: stopped, {self._trouble}, and {self.state.guard.recoveries} recoveries did not "
            f"help. {kept} Likely causes: 1. the learning rate {self.config.learning_rate:g} is high for this model "
            f"(try --lr {self.config.learning_rate / 10:g}); 2. extreme values in the data (try sfumato inspect)."
        )

    def _tell_warnings(self) -> None:
        assert self.checkpoints is not None
        for warning in self.checkpoints.warnings:
            self.listener.say(warning)
        self.checkpoints.warnings.clear()

    def _outcome(self, signal: int | None) -> Outcome:
        """Give the model the best averaged weights, and say how it ended."""
        state = self.state
        weights: Mapping[str, Tensor] = state.best_weights or state.averaged.state_dict()
        self.model.load_state_dict(weights)
        self.model.eval()
        return Outcome(
            step=state.step,
            best_step=state.best_step,
            best_value=state.best_value,
            skipped=state.guard.skipped,
            recoveries=state.guard.recoveries,
            seconds=time.monotonic() - self._started,
            finished=state.step >= self.config.steps or state.stopped_early,
            stopped_early=state.stopped_early,
            signal=signal,
            save_failed=self.save_failed,
        )


def fingerprint(part: Any) -> str:
    """Return the SHA-256 of what ``part`` is made of, or its name when it is not registered."""
    try:
        tree = to_spec(part)
    except TypeError:
        return type(part).__name__
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
