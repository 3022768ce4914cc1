r"""Several trainings in one step: runs of one architecture that differ in seed, learning rate, or numbers like beta.

A small model leaves a processor waiting: most of its step is the time between operations. N of them, side by side, have
the same number of operations, N times as large. With the weights theta_1 ... theta_N of the runs,

    d/d theta_n sum_m L_m(theta_m) = d/d theta_n L_n(theta_n),

so that one backward pass gives every run its own gradient. The function of one run is vectorised over runs
(``torch.func``), and traced once into a plain list of operations. Everything else is each run's own, and the same as if
it were trained alone: first weights, order of the data, noise, learning rate, clipping, guard, average, metrics,
evaluations, checkpoints. Losses and weights differ from those of a run by itself by rounding only.

What cannot be vectorised, or is not faster so, is trained one run after another.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.fx import GraphModule

from sfumato.core.errors import Diverged
from sfumato.core.interfaces import ObjectiveOutput
from sfumato.core.numerics import fixed_noise
from sfumato.core.spec import fingerprint, to_spec
from sfumato.data import Prefetched
from sfumato.training.draws import Draw, Giving, draws_of
from sfumato.training.engine import AGREEMENT, BETTER, Engine, Way, first_line, loss_of_batch, reported
from sfumato.training.gradients import clip
from sfumato.training.guard import Verdict
from sfumato.training.interruption import Interruption
from sfumato.training.loop import Trainer
from sfumato.training.outcome import Outcome
from sfumato.training.rows import Rows
from sfumato.training.state import summed

ROUNDS = 3
WORTH = 20.0  # seconds of training, one run after another, from which on the time for tracing is likely to come back
ENDED = 0.25  # the share of rows whose runs have ended that is carried along before the rows are put together anew

Ended = Outcome | Diverged


class Unfit(Exception):
    """Why runs cannot be vectorised."""


class Found(NamedTuple):
    """What a step found for one run.

    Args:
        gradient: of all parameters, (parameters,).
        loss: ().
        norm: of the gradient, ().
        sums: name -> the sum over the batch of each reported value.
        output: what the objective says about every example.
        remembered: what parts of the model want to take over, by its name.
    """

    gradient: Tensor
    loss: float
    norm: Tensor
    sums: dict[str, Tensor]
    output: ObjectiveOutput
    remembered: dict[str, Tensor]


def fit_several(trainers: Sequence[Trainer]) -> list[Ended | None]:
    """Train all of them, those of the same architecture at once where that is faster.

    Args:
        trainers: not begun, or resumed.

    Returns:
        how each one ended; None for those that an interruption left no time to begin.
    """
    ended: dict[int, Ended] = {}
    for numbers in grouped(trainers):
        group = [trainers[number] for number in numbers]
        if any(isinstance(each, Outcome) and each.signal is not None for each in ended.values()):
            break
        ended |= dict(zip(numbers, _fit_group(group), strict=False))
    return [ended.get(number) for number in range(len(trainers))]


def grouped(trainers: Sequence[Trainer]) -> list[list[int]]:
    """Return the numbers of the trainers that may share their steps, each in one group, in the order given."""
    groups: dict[Any, list[int]] = {}
    for number, trainer in enumerate(trainers):
        kind = _kind(trainer)
        groups.setdefault(number if kind is None else kind, []).append(number)
    return list(groups.values())


def _fit_group(group: Sequence[Trainer]) -> list[Ended]:
    shared = _shared(group) if len(group) > 1 else None
    if shared is not None:
        return _at_once(group, shared)
    ended: list[Ended] = []
    for trainer in group:
        ended.append(fit_alone(trainer))
        if isinstance(ended[-1], Outcome) and ended[-1].signal is not None:
            break
    return ended


def fit_alone(trainer: Trainer) -> Ended:
    """Train by itself; return how it ended."""
    try:
        return trainer.fit()
    except Diverged as error:
        return error


def _shared(group: Sequence[Trainer]) -> SharedStep | None:
    """Return the step that these runs share; None where they had better not."""
    first, begun = group[0], group[0].begun
    if begun and first.at_once == 1:
        return None
    if not begun:
        ahead = sum(trainer.config.steps for trainer in group)
        if ahead * min(_seconds(lambda: _by_itself(first, 0)) for _ in range(2)) < WORTH:
            return None
    shared = SharedStep(group)
    try:
        gain = shared.gain(group)
    except Exception as error:  # whatever torch cannot vectorise or trace
        reason = first_line(error)
        first.listener.say(f"{len(group)} runs one after another: {reason}")
        return None
    if gain < BETTER and not begun:
        return None
    first.engine.way = Way()
    first.listener.say(f"{len(group)} runs at once, {gain:.2f} times as fast as one after another here (measured)")
    return shared


def _at_once(group: Sequence[Trainer], shared: SharedStep) -> list[Ended]:
    """Train runs of the same architecture at once."""
    ended: dict[int, Ended] = {}
    rows = Rows([trainer.state for trainer in group])
    living = list(range(len(group)))  # whose rows they are
    with Interruption(group[0].listener.say) as interruption:
        agreed = Interruption()  # all of them end after the same step
        talks: dict[int, Generator[int, Verdict, Outcome]] = {}
        for number, trainer in enumerate(group):
            trainer.at_once = len(group)
            talks[number] = trainer.training(agreed)
        answers: dict[int, Verdict | None] = dict.fromkeys(talks)
        try:
            while answers:
                asked: dict[int, int] = {}
                agreed.signal = interruption.signal
                for number, verdict in answers.items():
                    try:
                        asked[number] = next(talks[number]) if verdict is None else talks[number].send(verdict)
                    except StopIteration as end:
                        ended[number] = end.value
                    except Diverged as error:
                        ended[number] = error
                if living and len(asked) < (1 - ENDED) * len(living):
                    rows.release()
                    living = list(asked)
                    rows = Rows([group[number].state for number in living]) if living else rows
                if not asked:
                    break
                rows.keep_up()
                places = {living.index(number): step for number, step in asked.items()}
                verdicts = advance([group[number] for number in living], rows, shared, places)
                answers = {number: verdicts[living.index(number)] for number in asked}
        finally:
            for talk in talks.values():
                talk.close()
            rows.release()
    return [ended[number] for number in range(len(group))]


def advance(
    trainers: Sequence[Trainer], rows: Rows, shared: SharedStep, steps: Mapping[int, int]
) -> dict[int, Verdict]:
    """Do a step of every run that ``steps`` names, row -> its number; return what the guards said.

    Runs whose batches have another size than most, the last ones of an epoch, are computed one by one.
    """
    sizes = {row: len(trainers[row].order(step)) for row, step in steps.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    most = {row: step for row, step in steps.items() if sizes[row] == usual}
    found = shared(trainers, rows, most) if len(most) > 1 else {}
    rates: list[float] = [0.0] * len(trainers)
    gradients: list[Tensor | None] = [None] * len(trainers)
    verdicts: dict[int, Verdict] = {}
    for row, step in steps.items():
        trainer = trainers[row]
        rates[row] = trainer.set_rate(step)
        if row not in found:
            found[row] = _by_itself(trainer, step)
        now = found[row]
        norm = float(now.norm)
        verdicts[row] = trainer.state.guard.judge(now.loss, norm)
        if verdicts[row] == "accept":
            holder = rows.rows[row]
            holder.grad = now.gradient
            clip([holder], trainer.config.clip_norm, now.norm, norm)
            gradients[row] = holder.grad
        else:
            trainer.refuse(now.output, trainer.order(step), norm)
    rows.step(rates, gradients)
    for row, verdict in verdicts.items():
        if verdict == "accept":
            for name, value in found[row].remembered.items():
                trainers[row].model.get_submodule(name).remembered = value
            trainers[row].accept(found[row].sums, sizes[row])
    return verdicts


def _by_itself(trainer: Trainer, step: int) -> Found:
    """Compute the step of one run as it is written."""
    loss, norm, output = trainer.differentiate(step)
    state = trainer.state
    gradient = torch.cat([_gradient(parameter).flatten() for parameter in state.parameters])
    state.optimizer.zero_grad()
    return Found(gradient, float(loss), norm, summed(reported(output)), output, _remembered(trainer.model))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class SharedStep:
    """The step that runs of one architecture share, from weights to gradients.

    Args:
        trainers: of the same kind; see :func:`grouped`.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        first = trainers[0]
        self.model, self.objective = copy.deepcopy(first.model).train(), copy.copy(first.objective)
        self.engine = Engine(self.model, self.objective, first.preprocessing, first.runtime, 0)
        self.device = first.runtime.device
        self.names = [f"model.{name}" for name, _ in self.model.named_parameters()]
        self.buffers = [f"model.{name}" for name, _ in self.model.named_buffers()]
        self.numbers = {name: getattr(first.objective, name) for name in first.objective.numbers}
        self._noted: dict[Any, list[Draw]] = {}
        self._graphs: dict[Any, GraphModule] = {}

    @torch.no_grad()
    def __call__(self, trainers: Sequence[Trainer], rows: Rows, steps: Mapping[int, int]) -> dict[int, Found]:
        """Return what ``steps``, row -> the number of its step, find. All their batches are of one size."""
        some = next(iter(steps))
        batches = {row: self._batch(trainers[row], step) for row, step in steps.items()}
        each = [batches.get(row, batches[some]) for row in range(len(trainers))]  # of an ended run: whatever fits
        x, noise = torch.stack([one[0] for one in each]), _stacked([one[2] for one in each])
        y = _stacked([one[1] for one in each])
        now = self._numbers(steps.get(row, 0) for row in range(len(trainers)))
        numbers = [self._numbers(getattr(trainer.objective, name) for trainer in trainers) for name in self.numbers]
        inputs = (rows.values, rows.buffers, numbers, x, y, noise, now)
        gradients, judged, sums, losses, values, remembered = self._graph(x, y, inputs)(*inputs)
        length = judged.tolist()
        return {
            row: Found(
                gradients[row],
                length[row][0],
                judged[row, 1],
                {name: total[row] for name, total in sums.items()},
                ObjectiveOutput(_row(losses, row), _row(values, row)),
                _row(remembered, row),
            )
            for row in steps
        }

    def gain(self, trainers: Sequence[Trainer]) -> float:
        """Return how many times as fast as one after another the runs are at once; nothing of them changes.

        Raises:
            Unfit: they differ by more than rounding.
        """
        first = trainers[0]
        step = first.config.steps // first.order.steps_per_epoch * first.order.steps_per_epoch  # a whole batch
        steps = dict.fromkeys(range(len(trainers)), step)
        rows = Rows([trainer.state for trainer in trainers])
        try:
            found = self(trainers, rows, steps)
            for row, trainer in enumerate(trainers):
                alone, together = (_told(each) for each in (_by_itself(trainer, step), found[row]))
                if not torch.allclose(together, alone, rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True):
                    raise Unfit("at once they have other numbers than by themselves")
            if not first.begun:
                first.choose_engine()
            times = [
                (_seconds(lambda: _by_itself(first, step)), _seconds(lambda: self(trainers, rows, steps)))
                for _ in range(ROUNDS)
            ]
        finally:
            rows.release()
        medians: list[float] = [statistics.median(column) for column in zip(*times, strict=True)]
        return len(trainers) * medians[0] / medians[1]

    def _batch(self, trainer: Trainer, step: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the batch of a run, preprocessed, its classes, and the noise of its forward pass."""
        raw, y = trainer.train.batch(trainer.order(step))
        classes = [] if y is None else [y.to(self.device, non_blocking=True)]
        with fixed_noise(trainer.noise_of(step), self.device):
            x = trainer.preprocessing(raw.to(self.device, non_blocking=True))
            return x, classes, [draw() for draw in self._draws(x, classes)]

    def _numbers(self, values: Iterable[float]) -> Tensor:
        return torch.tensor(list(map(float, values)), dtype=torch.float64, device=self.device)

    def _draws(self, x: Tensor, y: list[Tensor]) -> list[Draw]:
        """Return what the forward pass draws, noted when a batch of this shape comes for the first time."""
        key = (tuple(x.shape), len(y))
        if key not in self._noted:
            devices = [self.device] if self.device.type == "cuda" else []
            noted = draws_of(lambda: self.engine.said({}, x, y[0] if y else None, 0), devices)
            self._forget()
            if noted is None:
                raise Unfit("the model draws random numbers in a way that cannot be vectorised")
            self._noted[key] = noted
        return self._noted[key]

    def _graph(self, x: Tensor, y: list[Tensor], inputs: Any) -> GraphModule:
        """Return the operations of a step, traced when one of these shapes comes for the first time."""
        key = (tuple(x.shape), len(y))
        if key not in self._graphs:
            from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

            def work(values: Any, buffers: Any, numbers: Any, x: Any, y: Any, noise: Any, step: Any) -> Any:
                return self._all(values, buffers, numbers, x, y, noise, step)  # a method has an argument too many

            graph: GraphModule = make_fx(work)(*inputs)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            self._forget()
            self._graphs[key] = graph
        return self._graphs[key]

    def _all(self, values: Any, buffers: Any, numbers: Any, x: Any, y: Any, noise: Any, step: Any) -> Any:
        """Return gradients (runs, parameters), losses and norms (runs, 2), and what the objective says, by run."""
        gradients, loss, *told = vmap(self._one)(values, buffers, numbers, x, y, noise, step)
        flat = torch.cat([gradient.flatten(1) for gradient in gradients], 1)
        judged = torch.stack([loss, torch.linalg.vector_norm(flat, dim=1)], 1)
        return flat, judged, *told

    def _one(self, values: Any, buffers: Any, numbers: Any, x: Any, y: Any, noise: Any, step: Any) -> Any:
        """Return the same for one run: the function that is vectorised."""
        for name, number in zip(self.numbers, numbers, strict=True):
            setattr(self.objective, name, number)
        fixed = dict(zip(self.buffers, buffers, strict=True))

        def loss_of(values: Any) -> Any:
            given = fixed | dict(zip(self.names, values, strict=True))
            with Giving(noise):
                output = self.engine.said(given, x, y[0] if y else None, step)
            sums = summed(reported(output))
            told = sums, dict(output.losses), dict(output.values), _remembered(self.model)
            return loss_of_batch(output, 1 / len(x)), told

        gradients, (loss, told) = grad_and_value(loss_of, has_aux=True)(values)
        return gradients, loss, *told

    def _forget(self) -> None:
        """Forget what belongs to a pass that is over."""
        for name, number in self.numbers.items():
            setattr(self.objective, name, number)
        for name in _remembered(self.model):
            self.model.get_submodule(name).remembered = None  # type: ignore[assignment]


def _kind(trainer: Trainer) -> Any:
    """Return what runs must have in common to share their steps; None: this one cannot share."""
    if trainer.processes.several or isinstance(trainer.train, Prefetched):
        return None
    modules, parameters = list(trainer.model.modules()), trainer.state.parameters
    counted = any(getattr(module, "num_batches_tracked", None) is not None for module in modules)
    learned = [*trainer.objective.parameters(), *trainer.objective.buffers()]
    types = {parameter.dtype for parameter in parameters}
    if (
        counted
        or learned
        or trainer.engine.grouped
        or len(types) > 1
        or not all(parameter.requires_grad for parameter in parameters)
    ):
        return None
    return (
        fingerprint(trainer.model),
        tuple((name, tuple(value.shape)) for name, value in trainer.model.state_dict().items()),
        *types,
        _objective_kind(trainer),
        fingerprint(trainer.preprocessing),
        trainer.config.batch_size,
        len(trainer.train),
        str(trainer.runtime.device),
        trainer.runtime.bf16,
        trainer.begun and (trainer.at_once > 1 or id(trainer)),
    )


def _objective_kind(trainer: Trainer) -> str:
    """Return the objective without the numbers that may differ."""
    objective = trainer.objective
    try:
        tree = to_spec(objective)
    except TypeError:
        return f"{type(objective).__name__} {id(type(objective))} {sorted(map(str, vars(objective).items()))}"
    return json.dumps(tree | {name: getattr(objective, name) > 0 for name in objective.numbers}, sort_keys=True)


def _remembered(model: nn.Module) -> dict[str, Tensor]:
    """Return what parts of a model want to take over if the step is accepted, by the name of the part."""
    found = {name: getattr(module, "remembered", None) for name, module in model.named_modules()}
    return {name: value for name, value in found.items() if value is not None}


def _row(table: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: values[row] for name, values in table.items()}


def _stacked(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(same) for same in zip(*parts, strict=True)]


def _told(found: Found) -> Tensor:
    values = [found.loss, float(found.norm), *(float(total) for total in found.sums.values())]
    return torch.tensor(values, dtype=torch.float64)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
