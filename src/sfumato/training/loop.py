"""The training loop.

A step is: the batch of (seed, epoch, position); noise of (seed, step, rank); terms, objective, backward, clip, the
guard's verdict, Adam, average. A checkpoint holds the rest, so a run that was killed goes on bit for bit. Of several
processes each does its part of the batch, and all of them do the rest alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor, nn

from sfumato.core.errors import Diverged, UserError
from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.processes import Differs, Lost
from sfumato.core.spec import fingerprint
from sfumato.data import Examples, Order, Prefetched
from sfumato.io.checkpoints import Checkpoint
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest
from sfumato.training.config import TrainingConfig
from sfumato.training.coupling import Coupling
from sfumato.training.engine import Differentiated, Engine, Way, reported
from sfumato.training.gradients import Gradients, clip
from sfumato.training.guard import Verdict, bad_value
from sfumato.training.interruption import Interruption
from sfumato.training.keeping import Good, Keeper, shared
from sfumato.training.listener import Listener
from sfumato.training.outcome import Outcome
from sfumato.training.runtime import open_runtime
from sfumato.training.state import new_state, summed
from sfumato.training.validation import validate

WORTH_A_SEARCH = 200  # steps
NOISE = 0x6E6F697365  # "noise": keeps these random numbers apart from others with the same seed


class Trainer:
    """Trains a model.

    Args:
        model: a model whose call returns :class:`~sfumato.core.terms.Terms`; moved to the device, trained in place.
        objective: what is minimised.
        train: the training split.
        validation: the split that chooses the best step and stops early.
        preprocessing: raw data to the model's input.
        config: every number.
        folder: where checkpoints and metrics go, by the first of several processes; None keeps everything in memory.
        listener: told what happens; of several processes that of the first.
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
        schedules = [getattr(part, "schedule", None) for part in objective.modules()]
        if any(schedule is not None and schedule(config.steps) != 1 for schedule in schedules):
            raise UserError(
                f"the KL term would not reach its full weight in {config.steps:,} steps: its warm-up is longer. "
                "Train for more steps, or shorten the schedule of the objective."
            )
        self.runtime = open_runtime(config.precision)
        self.objective, self.config, self.delivered = objective.to(self.runtime.device), config, model
        self.train, self.validation = train, validation
        self.preprocessing = preprocessing.to(self.runtime.device)
        self.processes = self.runtime.processes
        self.folder = folder if self.processes.first else None
        self.listener = listener if listener and self.processes.first else Listener()
        self.items = items
        self.keeper = Keeper(self.folder, self.listener)
        self.checkpoints = self.keeper.checkpoints
        own, _ = self.processes.part(torch.arange(config.batch_size))
        self.state = new_state(model, objective, config, self.runtime)
        self.model = self.state.model
        parts = (self.model, objective, self.preprocessing, self.runtime)
        self.engine = Engine(*parts, len(own), self.state.spread)
        self._gradients = Gradients(self.state.replicated, self.processes) if self.processes.several else None
        self._coupling = Coupling(self.model, objective, self.processes)
        self.at_once = 1  # how many runs share a step; see sfumato.training.several
        self.exact = True  # whether a resumed training is promised to go on bit for bit
        self.begun = False
        self._order = self._new_order()
        self._trouble = ""
        self._started = 0.0
        self._interruption = Interruption()
        self._signal: int | None = None  # that the processes agreed on
        self._computing = False
        self._found: tuple[Good, Good] | None = None

    def resume(self) -> int:
        """Take over the latest checkpoint that verifies; return its step (0: there is none, start at the beginning).

        Raises:
            UserError: the checkpoint is that of another run, or a file of it is damaged.
        """
        way = self.processes.ask(self._find)
        if way is None:
            self.keeper.take_up(None, None)
            return 0
        latest, good = self._found or (None, None)
        if self.processes.several:
            whole = not self.state.spread
            latest, good = (shared(each, self.processes, whole) for each in (latest, good))
        assert latest is not None
        self.engine.way = Way.parse(way)
        self.state.restore_checkpoint(Checkpoint(latest.step, latest.tensors, latest.state), latest.best)
        self.begun = True
        self._order = self._new_order()
        self.keeper.take_up(latest, good)
        self._found = None
        return self.state.step

    def _find(self) -> str | None:
        """Find the checkpoint to go on from, and the one to go back to; return how its steps are computed, or None."""
        assert self.folder is not None
        latest = self.keeper.latest()
        if latest is None:
            return None
        self._compare(latest)
        good = self.keeper.good_of(latest)
        self._found = self.keeper.with_best(latest), self.keeper.with_best(good)
        return str(self.engine.way)

    def fit(self) -> Outcome:
        """Train to the end, to an interruption, or until patience runs out.

        Raises:
            Diverged: steps kept going wrong after every recovery.
        """
        self.at_once = 1
        with Interruption(self.listener.say) as interruption:
            try:
                next(self.training(interruption))
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
        raise AssertionError("a training by itself asks nobody")

    def training(self, interruption: Interruption) -> Generator[int, Verdict, Outcome]:
        """Train; where runs are trained at once, yield the number of every step and be sent its verdict.

        Args:
            interruption: asks for an end.

        Raises:
            Diverged: steps kept going wrong after every recovery.
        """
        self._interruption = interruption
        self._started = time.monotonic() - self.state.seconds
        self.listener.on_start(self.state.step, self.config.steps, self.config.batch_size)
        try:
            yield from self._train()
        except (Differs, Lost) as error:
            if self._computing and not self.state.spread:  # nothing has changed since the last whole step
                self._save()
            there = self.checkpoints.steps() if self.checkpoints else []
            kept = f" The checkpoint of step {there[-1]:,} is good; go on with --resume." if there else ""
            raise type(error)(f"{error}{kept}") from error
        return self._outcome(self._stop())

    def _train(self) -> Generator[int, Verdict, None]:
        state, config = self.state, self.config
        saved = state.step
        self.processes.check("the run", json.dumps(self._made_by(), sort_keys=True))
        self._check_weights()
        if not self.begun:
            if self.at_once == 1:
                self.choose_engine()
            self._evaluate()
            self._keep_good()
            self._save()
        while state.step < config.steps and not state.stopped_early and self._stop() is None:
            verdict = self._step(state.step) if self.at_once == 1 else (yield state.step)
            if verdict == "rollback":
                self._roll_back()
                continue
            state.step += 1
            if self._is_due(config.log_every):
                self._log()
            evaluated = self._is_due(config.evaluate_every)
            due = evaluated or self._is_due(config.checkpoint_every)
            if due:
                self._check_weights()
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
        if saved != state.step:
            self._check_weights()
        if saved != state.step or self.keeper.save_failed:
            self._save()
        if isinstance(self.train, Prefetched):
            self.listener.say(self.train.meter.sentence())

    def _stop(self) -> int | None:
        """Return the number of the signal that asks for an end after this step: all processes end at the same one."""
        return self._signal if self.processes.several else self._interruption.signal

    def _check_weights(self) -> None:
        """Refuse to go on where a process has other weights than the rest."""
        if self.processes.several:
            sums = "".join(map(digest, self.state.common()))
            self.processes.check(f"step {self.state.step:,}: the weights", sums)

    def choose_engine(self, seconds: float | None = None) -> None:
        """Measure the ways to compute a step and keep the fastest; it changes no number but by rounding.

        Args:
            seconds: how long the training will take; None: as long as its steps take.

        Raises:
            UserError: a compiled step was asked for, and there is none.
        """
        written = self._coupling.found or self.state.spread
        if self.config.engine == "auto" and (self.config.steps - self.state.step < WORTH_A_SEARCH or written):
            return
        if self.config.engine == "compiled" and self.state.spread:
            raise UserError(
                "the steps of weights that are spread over processes are computed as written. Leave --engine or "
                "--shard away."
            )
        if self.config.engine == "compiled" and self._coupling.found:
            raise UserError(
                "what looks at a whole batch that is spread over processes (optimal variance, objectives that compare "
                "examples) is computed as written. "
                "Leave --engine away, or use one process."
            )
        self.engine.way = Way.parse(self.processes.ask(lambda: self._measure_engine(seconds)))

    def _measure_engine(self, seconds: float | None) -> str:
        """Choose for all processes, by what this one measures with its part of the first batch."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        indices = self._order(0)
        own, counts = self.processes.part(indices)

        def trial() -> Tensor:
            with self.engine.products():
                loss, norm, output = self._differentiate(own, self.config.steps, counts / len(indices))
            self.state.optimizer.zero_grad()
            return torch.stack([loss, norm, *(values.mean() for values in output.values.values())]).double().cpu()

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
        return str(self.engine.way)

    def one_pass(self) -> None:
        """Do the steps of one pass over the training split, and nothing else: nothing is evaluated or written.

        Raises:
            Diverged: three steps in a row were not finite.
        """
        for step in range(self._order.steps_per_epoch):
            if self._step(step) == "rollback":
                raise Diverged(self._obituary())

    def measured_step(self, step: int) -> None:
        """Do a step whose only purpose is the time it takes."""
        self._step(step)

    def measured_evaluation(self) -> None:
        """Evaluate, for the time it takes."""
        self._validate()

    def _step(self, step: int) -> Verdict:
        """Do one step, or leave everything as it was."""
        state, config = self.state, self.config
        self.set_rate(step)
        indices = own = self._order(step)
        counts = True
        if self.processes.several:
            own, counts = self.processes.part(indices)
        self._computing = True
        self._coupling.count(counts)
        with self.engine.products():
            loss, norm, output = self._differentiate(own, step, counts / len(indices))
            totals = None
            if self._gradients is not None:
                numbers = (loss, reported(output), counts, self._interruption.signal, state.collect())
                totals = self._gradients.add_up(*numbers)
                loss, norm, self._signal = totals.loss, state.norm(totals.squares), totals.signal
            judged, length = float(loss), float(norm)
        self._computing = False
        verdict = state.guard.judge(judged, length)
        if verdict == "accept":
            clip(state.parameters, config.clip_norm, norm, length)
            state.optimizer.step()
            self.accept(totals.sums if totals else summed(reported(output)), len(indices))
        else:
            self.refuse(output, own, length)
        state.optimizer.zero_grad()
        return verdict

    def set_rate(self, step: int) -> float:
        """Give the optimizer the learning rate of ``step``, and return it."""
        rate: float = self.config.learning_rate * self.config.schedule(step) * self.state.guard.learning_rate_factor
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def accept(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Take over what a step that was done leaves, with the sums of what is reported over its examples."""
        self.model.accept_step()  # type: ignore[operator]
        self.state.average()
        self.state.add(sums, count)

    def refuse(self, output: ObjectiveOutput, indices: Tensor, length: float) -> None:
        """Remember what was wrong with a step that was not done."""
        found = self.processes.gather(bad_value(output, indices, self.items))
        self._trouble = next((text for text in found if text), f"the gradient's norm was {length:.3g}")

    def _differentiate(self, indices: Tensor, step: int, share: float) -> Differentiated:
        """Leave the gradients of the loss of examples ``indices``, each with a ``share``, in the parameters."""
        raw, y = self.train.batch(indices)
        device = self.runtime.device
        with fixed_noise(self.noise_of(step), device), self.state.links():
            y = None if y is None else y.to(device, non_blocking=True)
            return self.engine.differentiate(raw.to(device, non_blocking=True), y, step, share)

    def noise_of(self, step: int) -> int:
        """Return the seed of all that a step draws."""
        return seed_for(NOISE, self.config.seed, self.state.guard.recoveries, step, self.processes.rank)

    @property
    def order(self) -> Order:
        """Which examples make up the batch of a step."""
        return self._order

    def differentiate(self, step: int) -> Differentiated:
        """Leave the gradients of the whole batch of ``step`` in the parameters."""
        indices = self._order(step)
        with self.engine.products():
            return self._differentiate(indices, step, 1 / len(indices))

    def _new_order(self) -> Order:
        """Return the order of the data; every recovery has another one."""
        order = Order(len(self.train), self.config.batch_size, self.config.seed, salt=self.state.guard.recoveries)
        if isinstance(self.train, Prefetched):
            self.train.expect(lambda step: self.processes.part(order(step))[0], self.state.step)
        return order

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def _log(self) -> None:
        guard = self.state.guard
        line = {"step": self.state.step, "split": "train", **self.state.take_means(), "skipped": guard.skipped}
        self.keeper.write(line)

    def _evaluate(self) -> None:
        state = self.state
        values = self._validate()
        state.note_evaluation(values.pop("final_loss"), self.config.patience)
        line = {"step": state.step, "split": "validation", **values}
        shown = state.shown(self.delivered)
        self.preprocessing.to(next(shown.parameters()).device)  # of spread weights the whole is on the processor
        self.keeper.write({**line, **self.listener.on_evaluation(line, shown)})
        self.preprocessing.to(self.runtime.device)

    def _validate(self) -> dict[str, float]:
        state = self.state
        parts = (state.averaged, self.objective, self.validation, self.preprocessing)
        numbers = (state.step, self.config.steps, self.config.seed)
        with state.links():
            return validate(*parts, *numbers, self.runtime.device, self.processes, state.spread)

    def _keep_good(self) -> None:
        self.state.seconds = time.monotonic() - self._started
        self.keeper.keep_good(self.state, self._made_by())

    def _save(self) -> None:
        self.state.seconds = time.monotonic() - self._started
        self.keeper.save(self.state, self._made_by())

    def _made_by(self) -> dict[str, str]:
        """Return a digest of each part that a checkpoint only fits to, and where it was computed."""
        parts = {
            "model": self.delivered,
            "objective": self.objective,
            "training": self.config,
            "preprocessing": self.preprocessing,
        }
        surroundings = f"{self.runtime.device.type}, {'bf16' if self.runtime.bf16 else 'float32'}"
        if self.processes.several:
            surroundings += f", {self.processes.count} processes" + ", spread weights" * self.state.spread
        said = {"surroundings": surroundings, "engine": str(self.engine.way), "at_once": str(self.at_once)}
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
        self.exact = before["surroundings"] == now["surroundings"]
        runs = int(before.get("at_once", "1"))
        if runs == 1:
            self.at_once = 1  # it goes on by itself, as it began
        elif runs != self.at_once:
            self.listener.say(f"bit-exact not promised: {runs} runs shared every step, and now do {self.at_once}")
            self.exact = False
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
        good = self.keeper.go_back()
        state.restore(good.tensors, good.state["training"])
        state.best_weights = good.best
        guard.recoveries, guard.skipped = recoveries, skipped
        guard.recover()
        self._order = self._new_order()
        state.optimizer.zero_grad()
        self.listener.say(
            f"step {at:,}: {self._trouble}; back to step {state.step:,} with the learning rate times "
            f"{guard.learning_rate_factor:g}, recovery {guard.recoveries} of at most 5."
        )

    def _obituary(self) -> str:
        step = self.keeper.last_good()
        kept = "Nothing was written." if step is None else f"The checkpoint of step {step:,} is good."
        return (
            f"step {self.state.step:,}: stopped, {self._trouble}, and {self.state.guard.recoveries} recoveries did not "
            f"help. {kept} Likely causes: 1. the learning rate {self.config.learning_rate:g} is high for this model "
            f"(try --lr {self.config.learning_rate / 10:g}); 2. extreme values in the data (try sfumato inspect)."
        )

    def _outcome(self, signal: int | None) -> Outcome:
        """Give the model the best averaged weights, and say how it ended."""
        state = self.state
        self.model = state.deliver(self.delivered)
        self._coupling.release(self.model)
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
            save_failed=self.keeper.save_failed,
        )
