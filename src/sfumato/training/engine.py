"""How the numbers of a step are computed: as written, or compiled, and by which products and convolutions.

Every way draws the same random numbers and computes the same formulas, so that two ways differ by rounding only. Which
one is fastest depends on the model, the batch and the processor, so it is measured, on the model that is trained; one
that does not agree with the plain one is not used. torch's own settings are the same again after every step.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import statistics
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vjp

from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import fingerprint
from sfumato.training.convolutions import ConvolutionsAsProducts
from sfumato.training.gradients import total_norm
from sfumato.training.groups import Together, backward, gathered, places
from sfumato.training.measured import Measured
from sfumato.training.runtime import Runtime

Choice = Literal["auto", "eager", "compiled"]
Convolutions = Literal["", "channels last", "convolutions as products"]
IMAGES: tuple[Convolutions, ...] = typing.get_args(Convolutions)
PLAIN, CHANNELS_LAST, AS_PRODUCTS = IMAGES
PAYS = 100.0  # seconds of training from which on the time that compiling takes is likely to come back
ROUNDS = 5
LONG_ENOUGH = 20.0  # seconds of measuring, after which no other round begins
BETTER = 1.03
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Way:
    """One way to compute a step.

    Args:
        compiled: whether torch compiles the step, or runs it as written.
        onednn: whether float32 matrix products go through oneDNN, which on some processors is twice as fast.
        convolutions: torch's own on images as they lie, or on images and weights with the channels side by side; or
            each as one matrix product, :mod:`sfumato.training.convolutions`.
    """

    compiled: bool = False
    onednn: bool = False
    convolutions: Convolutions = ""

    def __str__(self) -> str:
        words = ["compiled" if self.compiled else "eager", "oneDNN" * self.onednn, self.convolutions]
        return ", ".join(word for word in words if word)

    @classmethod
    def parse(cls, text: str) -> Way:
        """Return the way that ``str`` describes."""
        words = text.split(", ")
        return cls("compiled" in words, "oneDNN" in words, next((each for each in IMAGES if each == words[-1]), PLAIN))


class Differentiated(NamedTuple):
    """What a step found, none of which can be differentiated further but ``output`` of a step that is not compiled.

    Args:
        loss: ().
        norm: of all gradients together, ().
        output: what the objective says about every example.
    """

    loss: Tensor
    norm: Tensor
    output: ObjectiveOutput


class Engine:
    """Computes what the objective says about a batch, and its gradients.

    Args:
        model: in training mode.
        objective: what is minimised.
        preprocessing: raw data to the model's input.
        runtime: device and precision.
        batch_size: the size of a whole batch; other sizes are computed as written.
        spread: whether the weights are spread over processes: then a step is computed as written, and its norm is not
            known here.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        preprocessing: nn.Module,
        runtime: Runtime,
        batch_size: int,
        spread: bool = False,
    ) -> None:
        self.spread = spread
        self.model, self.objective, self.preprocessing = model, objective, preprocessing
        self.together = Together(model, objective)
        self.runtime, self.batch_size = runtime, batch_size
        self.way = Way()
        self._compiled: Callable[..., Any] | None = None
        named = [(name, each) for name, each in self.together.named_parameters() if each.requires_grad]
        self._names, self._parameters = [name for name, _ in named], [each for _, each in named]
        self._groups = places(model, objective, self._parameters)
        # a part that remembers something of the forward pass cannot be differentiated as a function
        self._is_function = not any(map(_remembers, self.together.modules()))
        self._has_images = any(parameter.ndim == 4 for parameter in self._parameters)

    @property
    def grouped(self) -> bool:
        """Whether there are several losses, each for its own parameters."""
        return self._groups is not None

    def differentiate(self, raw: Tensor, y: Tensor | None, step: int, share: float) -> Differentiated:
        """Leave the gradients of the loss in the parameters; return what was found.

        Args:
            raw: examples, (batch, *data).
            y: their classes, or None.
            step: the steps done.
            share: what an example counts in the loss: the loss is that many times the sum over the batch.
        """
        if not self.way.compiled or len(raw) != self.batch_size:
            output = self._compute(raw, y, step)
        else:
            now = torch.tensor(float(step), dtype=torch.float64)
            if self._is_function:
                return self._differentiate_as_function(raw, y, now, torch.tensor(share))
            output = self._compile(self._compute)(raw, y, now)
        loss = loss_of_batch(output, share)
        if self._groups is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            backward(losses_of_batch(output, share), self._groups, self._parameters)
        norm = loss.new_zeros(()) if self.spread else total_norm(self._parameters)
        return Differentiated(loss.detach(), norm, output)

    def _differentiate_as_function(self, raw: Tensor, y: Tensor | None, step: Step, share: Tensor) -> Differentiated:
        """Compute forward and backward pass as one compiled graph. A parameter that plays no part gets zeros."""
        with torch.no_grad():
            values = [parameter.detach() for parameter in self._parameters]
            gradients, loss, norm, said = self._compile(self._gradients)(values, raw, y, step, share)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            same = gradient.stride() == parameter.stride()  # the optimizer reads both as they lie in memory
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        return Differentiated(loss, norm, ObjectiveOutput(*said))

    def _gradients(self, values: list[Tensor], raw: Tensor, y: Tensor | None, step: Step, share: Tensor) -> Any:
        """Return the gradients at the parameters' ``values``, the loss, the norm, and what the objective says."""
        x = self.preprocessing(raw)

        def output_of(values: list[Tensor]) -> tuple[ObjectiveOutput, tuple[Any, Any]]:
            output = self.said(dict(zip(self._names, values, strict=True)), x, y, step)
            return output, (dict(output.losses), dict(output.values))

        def loss_of(values: list[Tensor]) -> tuple[Tensor, tuple[Any, Any]]:
            output, said = output_of(values)
            return loss_of_batch(output, share), said

        def losses_of(values: list[Tensor]) -> tuple[dict[str, Tensor], tuple[Any, Any]]:
            output, said = output_of(values)
            return losses_of_batch(output, share), said

        if self._groups is None:
            gradients, (loss, said) = grad_and_value(loss_of, has_aux=True)(values)
        else:
            losses, pull, said = vjp(losses_of, values, has_aux=True)  # type: ignore[misc]
            ones = {name: {other: torch.full_like(losses[other], other == name) for other in losses} for name in losses}
            each = {name: pull(direction)[0] for name, direction in ones.items()}
            gradients, loss = gathered(each, self._groups), torch.stack(list(losses.values())).sum()
        return gradients, loss, nn.utils.get_total_norm(gradients), said

    def _compile(self, work: Callable[..., Any]) -> Callable[..., Any]:
        if self._compiled is None:
            options: dict[str, Any] = {"fallback_random": True}  # the random numbers of the plain way
            self._compiled = torch.compile(work, fullgraph=True, dynamic=False, options=options)
        return self._compiled

    def _compute(self, raw: Tensor, y: Tensor | None, step: Step) -> ObjectiveOutput:
        turned = self.way.convolutions == CHANNELS_LAST
        given = dict(zip(self._names, self._parameters, strict=True)) if turned else {}
        return self.said(given, self.preprocessing(raw), y, step)

    def said(self, given: Mapping[str, Tensor], x: Tensor, y: Tensor | None, step: Step) -> ObjectiveOutput:
        """Return what the objective says about ``x``, with ``given`` parameters in place of those of both."""
        if self.way.convolutions == CHANNELS_LAST:
            x, given = _channels_last(x), {name: _channels_last(value) for name, value in given.items()}
        with self.runtime.autocast():
            arguments = (x, y, step)
            both = self.together
            output: ObjectiveOutput = functional_call(both, dict(given), arguments) if given else both(*arguments)
        return output

    @contextlib.contextmanager
    def products(self) -> Iterator[None]:
        """Inside, matrix products and convolutions are computed the way that was chosen."""
        with contextlib.ExitStack() as settings:
            if self.way.onednn:
                settings.enter_context(onednn_products())
            if self.way.convolutions == AS_PRODUCTS:
                settings.enter_context(ConvolutionsAsProducts())
            yield

    def ways(self) -> list[Way]:
        """Return every way there is on this device, the plain one first, the compiled ones last."""
        on_cpu = self.runtime.device.type == "cpu"
        onednn = on_cpu and not self.runtime.bf16 and _onednn_is_float32()
        images = IMAGES[: 1 + self._has_images + (self._has_images and on_cpu)]
        found = [Way(*way) for way in itertools.product((False, True), (False, True)[: 1 + onednn], images)]
        return [way for way in found if not (way.compiled and way.convolutions == AS_PRODUCTS)]

    def choose(self, trial: Callable[[], Tensor], seconds: Callable[[float], float], asked: Choice) -> str:
        """Measure the ways of computing a step, keep the fastest, and return what is to be said about it, or "".

        What was measured before, for the same model on the same machine, is taken as it is.

        Args:
            trial: does one step that changes nothing but gradients, and returns numbers that every way must agree on.
            seconds: from the seconds of one trial to those of the training that is ahead.
            asked: eager, the plain way; compiled, the fastest compiled one; auto, the fastest, where the training is
                long enough to pay for the search.

        Raises:
            RuntimeError: compiled was asked for, and cannot be.
        """
        self.way = Way()
        if asked == "eager":
            return ""
        if asked == "auto" and seconds(self._time(trial)) < PAYS:
            return ""
        expected, memory = trial(), Measured(self._surroundings())
        known = memory.read()
        before = {way: known[str(way)] for way in self.ways() if str(way) in known}
        self.way = _best(before, asked)
        usable = Way() in before and (self.way.compiled or asked == "auto")
        if usable and not self._objection(trial, expected):
            return self._sentence(before, "measured before")
        failures: dict[Way, str] = {}
        medians = self._measure(trial, expected, failures)
        memory.write({str(way): found for way, found in medians.items()})
        self.way = _best(medians, asked)
        if asked == "compiled" and not self.way.compiled:
            self.way = Way()
            raise RuntimeError(f"the step cannot be compiled: {failures[Way(compiled=True)]}")
        return self._sentence(medians, "measured")

    def _measure(self, trial: Callable[[], Tensor], expected: Tensor, failures: dict[Way, str]) -> dict[Way, float]:
        """Return the median seconds of the ways that agree with the plain one; the others go into ``failures``.

        To compile is what takes long: it is tried on the step as written and on the fastest of the others.
        """
        ways, fastest = self.ways(), Way()
        found: dict[Way, float] = {}
        eager = [way for way in ways if not way.compiled]
        if len(eager) > 1:
            found = self._race(eager, trial, expected, failures)
            fastest = min(found, key=found.__getitem__)
        last = [Way(), fastest, Way(compiled=True), replace(fastest, compiled=True)]
        return found | self._race([way for way in dict.fromkeys(last) if way in ways], trial, expected, failures)

    def _race(
        self, ways: list[Way], trial: Callable[[], Tensor], expected: Tensor, failures: dict[Way, str]
    ) -> dict[Way, float]:
        """Return the median seconds of those of ``ways`` that agree with the plain one, in turns."""
        times: dict[Way, list[float]] = {}
        for way in ways:
            self.way = way
            objection = self._objection(trial, expected)
            if objection:
                failures[way] = objection
            else:
                times[way] = []
        begin = time.perf_counter()
        for done in range(ROUNDS):
            if done and time.perf_counter() - begin > LONG_ENOUGH:
                break
            for way, found in times.items():
                self.way = way
                found.append(self._time(trial))
        return {way: statistics.median(found) for way, found in times.items()}

    def _objection(self, trial: Callable[[], Tensor], expected: Tensor) -> str:
        """Return why this way must not be used, or ""."""
        if self.way == Way():
            return ""
        try:
            found = trial()
        except Exception as error:  # no compiler, or something that it cannot read
            return first_line(error)
        if torch.allclose(found, expected, rtol=AGREEMENT, atol=AGREEMENT, equal_nan=True):
            return ""
        return "it gives other numbers than the plain step"

    def _sentence(self, seconds: dict[Way, float], when: str) -> str:
        if self.way == Way():
            return ""
        gain = seconds[Way()] / seconds[self.way]
        return f"engine: {self.way}, {gain:.2f} times as fast as eager here ({when}); --engine eager turns it off"

    def _surroundings(self) -> dict[str, Any]:
        """Return everything that the speed of a step depends on, as plain json."""
        parts = (self.model, self.objective, self.preprocessing)
        return {
            "parts": [fingerprint(part) for part in parts],
            "batch": self.batch_size,
            "runtime": self.runtime.describe(),
            "machine": [platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability()],
            "torch": torch.__version__,
        }

    def _time(self, trial: Callable[[], Tensor]) -> float:
        """Return the seconds of one trial, the better of two."""
        times = []
        for _ in range(2):
            begin = time.perf_counter()
            trial()
            if self.runtime.device.type == "cuda":
                torch.cuda.synchronize(self.runtime.device)
            times.append(time.perf_counter() - begin)
        return min(times)


def _remembers(module: nn.Module) -> bool:
    """Whether a forward pass in training changes the module: the variance of the batch, its mean, or codes."""
    running = getattr(module, "num_batches_tracked", None) is not None or getattr(module, "remembers", False)
    return hasattr(module, "batch_mean") or running


def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def loss_of_batch(output: ObjectiveOutput, share: float | Tensor) -> Tensor:
    """Return what is differentiated, (): the sum of all losses of all examples, each with a ``share``."""
    return torch.stack([values.sum() for values in output.losses.values()]).sum() * share


def losses_of_batch(output: ObjectiveOutput, share: float | Tensor) -> dict[str, Tensor]:
    """Return the same of every group by itself."""
    return {group: values.sum() * share for group, values in output.losses.items()}


def _best(seconds: dict[Way, float], asked: Choice) -> Way:
    """Return the fastest way that was asked for; the plain one where nothing is much faster, or there is none."""
    allowed = {way: found for way, found in seconds.items() if way.compiled or asked == "auto"}
    best = min(allowed, key=allowed.__getitem__, default=Way())
    return best if asked == "compiled" or seconds.get(Way(), 0.0) > BETTER * seconds.get(best, 0.0) else Way()


def reported(output: ObjectiveOutput) -> dict[str, Tensor]:
    """Return name -> (batch,) of what the metrics say, the loss first."""
    return {"loss": output.loss, **output.values}


@contextlib.contextmanager
def onednn_products() -> Iterator[None]:
    """Inside, float32 matrix products go through oneDNN, where this torch has a choice."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _onednn_is_float32() -> bool:
    """Whether oneDNN may be told to compute float32 products its own way, and then still computes in float32."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported",))


def first_line(error: BaseException) -> str:
    """Return what an error says first, or its name."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
