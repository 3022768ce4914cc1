r"""Raw data to what the model sees, with the change of volume that keeps likelihoods honest.

For an invertible x = f(raw), log p(raw) = log p(x) + log|det df/draw|. Discrete data carry masses, not densities: there
the term is 0. Everything runs on the tensor's device, and nothing waits for it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float32, Float64, Shaped
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.spec import Count, Name, Positive, Real, Shape, Size, register
from sfumato.data.content import Array
from sfumato.data.dataset import Dataset
from sfumato.data.randomness import random_unit

_STREAM = 0x62696E617279  # "binary"
_ROWS = 1024


class Preprocessing(nn.Module, ABC):
    """A map from raw examples, in any type, to float32.

    Args:
        shape: the shape of one example.
    """

    spec_kind: ClassVar[str] = "preprocessing"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, raw: Shaped[Tensor, "batch ..."]) -> Float32[Tensor, "batch ..."]:
        """Map (batch, *shape) to float32 of the same shape.

        Raises:
            UserError: another shape.
        """
        return self.transform(self.shaped(raw))

    def shaped(self, raw: Tensor) -> Tensor:
        """Return ``raw`` when it has the right shape, else raise UserError."""
        if tuple(raw.shape[1:]) != self.shape:
            raise UserError(f"expected examples of shape {self.shape}; got {tuple(raw.shape[1:])}. Reshape the data.")
        return raw

    @abstractmethod
    def transform(self, raw: Tensor) -> Tensor:
        """Map checked raw examples to float32."""

    def expected(self, raw: Tensor) -> Tensor:
        """Return the mean of what :meth:`forward` draws, for results that repeat; the same as it without randomness."""
        x: Tensor = self(raw)
        return x

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """Map (..., *shape) back to raw units: whole numbers where the raw data are discrete (rounded), else float."""

    def unrounded(self, x: Tensor) -> Tensor:
        """Map (..., *shape) back to raw units as real numbers: :meth:`inverse` before it rounds."""
        return self.inverse(x)

    @property
    def log_abs_det(self) -> float:
        """log|det df/draw| of one example, in nats, summed over its dimensions; 0 where the raw data are discrete."""
        return 0.0

    def log_abs_dets(self, raw: Shaped[Tensor, "batch ..."]) -> Float64[Tensor, " batch"]:
        """Return log|det df/draw| of each example, nats; where cells are missing, of those that are there."""
        return torch.full((len(raw),), self.log_abs_det, dtype=torch.float64, device=raw.device)

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError when ``raw`` (n, *shape) holds values that this map is not made for."""

    def prepare(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` with what is done once, before training, done; by default only streamed data change.

        They were not all checked before: every example is, when it is read.
        """
        return dataset.checking(self.check)


@final
@register("preprocessing")
class Identity(Preprocessing):
    """x = raw, as float32: for data that are 0 and 1 already.

    Args:
        shape: the shape of one example.

    >>> Identity((2,))(torch.tensor([[0, 1]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)

    def transform(self, raw: Tensor) -> Tensor:
        """Return ``raw`` as float32."""
        return raw.float()

    def inverse(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for values that are not 0 or 1."""
        odd = (raw != 0) & (raw != 1)
        if odd.any():
            raise UserError(
                f"{source} should hold 0 and 1, as the training examples do; got {raw[odd][0]:g}. Use --binarise "
                "dynamic, or another --likelihood."
            )


class _Discrete(Preprocessing):
    """What the two maps of evenly spaced levels share: k = raw (levels - 1) / high, a whole number."""

    def __init__(self, shape: tuple[int, ...], levels: int, high: float | None) -> None:
        super().__init__(shape)
        if levels < 2:
            raise UserError(f"{type(self).__name__}: levels must be a whole number from 2 to 65,536; got {levels}.")
        self.levels = levels
        self.high = float(levels - 1) if high is None else high

    def to_level(self, raw: Tensor) -> Tensor:
        """Return the nearest k as float32."""
        return (raw.float() * ((self.levels - 1) / self.high)).round()

    def from_level(self, k: Tensor) -> Tensor:
        """Return the nearest level in raw units: uint8 or int64 where the levels are whole numbers, else float32."""
        step = self.high / (self.levels - 1)
        raw = k.round().clamp(0, self.levels - 1) * step
        return raw.to(torch.uint8 if self.high <= 255 else torch.int64) if step == round(step) else raw.float()

    def unrounded(self, x: Tensor) -> Tensor:
        """Map (..., *shape) back to raw units as real numbers."""
        return x * (self.high / self.top)

    @property
    @abstractmethod
    def top(self) -> float:
        """The x of the highest level."""

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for values outside [0, high] or between the levels."""
        if raw.dtype == np.uint8 and self.levels == 256 and self.high == 255:
            return
        for part in _parts(raw):
            k = part.astype(np.float64) * ((self.levels - 1) / self.high)
            odd = (part < 0) | (part > self.high) | (np.abs(k - k.round()) > 1e-3)
            if odd.any():
                raise UserError(
                    f"{source} should hold {self.levels} levels from 0 to {self.high:g}, as the training examples do; "
                    f"got {part[odd][0]:g}. Use --likelihood gaussian, or leave that example out."
                )


@final
@register("preprocessing")
class Levels(_Discrete):
    """Evenly spaced levels to [0, 1]: x = raw / high, for the discretised logistic. Discrete, so log_abs_det is 0.

    Args:
        shape: the shape of one example.
        levels: how many there are; x is k / (levels - 1) for k = 0 ... levels - 1.
        high: the raw value of the highest level, by default levels - 1 (raw values are then the numbers k).

    >>> Levels((2,))(torch.tensor([[0, 255]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """

    def __init__(self, shape: Shape, levels: Size = 256, high: Positive | None = None) -> None:
        super().__init__(shape, levels, high)

    @property
    def top(self) -> float:
        """1."""
        return 1.0

    def transform(self, raw: Tensor) -> Tensor:
        """Return the nearest k / (levels - 1), exactly what the likelihood expects."""
        return self.to_level(raw) / (self.levels - 1)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the nearest level in raw units: uint8 or int64 where the levels are whole numbers, else float32."""
        return self.from_level(x * (self.levels - 1))


@final
@register("preprocessing")
class Integers(_Discrete):
    """Evenly spaced levels to 0 ... levels - 1, as float32: for the categorical likelihood. log_abs_det is 0.

    Args:
        shape: the shape of one example.
        levels: how many there are.
        high: the raw value of the highest level, by default levels - 1 (x is then raw).

    >>> Integers((2,), levels=4)(torch.tensor([[0, 3]]))
    tensor([[0., 3.]])
    """

    def __init__(self, shape: Shape, levels: Size, high: Positive | None = None) -> None:
        super().__init__(shape, levels, high)

    @property
    def top(self) -> float:
        """levels - 1."""
        return self.levels - 1.0

    def transform(self, raw: Tensor) -> Tensor:
        """Return k."""
        return self.to_level(raw)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the nearest level in raw units: uint8 or int64 where the levels are whole numbers, else float32."""
        return self.from_level(x)


@final
@register("preprocessing")
class Counts(Preprocessing):
    """x = raw, as float32: whole numbers from 0, without an upper end, for likelihoods of counts. log_abs_det is 0.

    Args:
        shape: the shape of one example.
        layer: of an AnnData, the one that holds the counts; "" for its ``X``, and for all other data.

    >>> Counts((2,))(torch.tensor([[0, 300]]))
    tensor([[  0., 300.]])
    """

    def __init__(self, shape: Shape, layer: Name = "") -> None:
        super().__init__(shape)
        self.layer = layer

    def transform(self, raw: Tensor) -> Tensor:
        """Return ``raw`` as float32."""
        return raw.float()

    def expected(self, raw: Tensor) -> Tensor:
        """Return ``raw`` as float32, or raise UserError where it holds no counts."""
        self.check(self.shaped(raw).numpy(force=True), "the data")
        return self.transform(raw)

    def inverse(self, x: Tensor) -> Tensor:
        """Return the nearest whole number from 0, int64."""
        return x.round().clamp(min=0).to(torch.int64)

    def unrounded(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for values that are no counts."""
        for part in _parts(raw):
            odd = (part < 0) | (part != np.floor(part)) | (part > 2**24)
            if odd.any():
                raise UserError(
                    f"{source} should hold counts, whole numbers from 0 to 16,777,216; got {part[odd][0]:g}. Use "
                    "--likelihood gaussian, or the raw counts."
                )


@final
@register("preprocessing")
class Unit(Preprocessing):
    """x = raw / high in [0, 1], real numbers: log_abs_det = -dimensions log(high).

    Args:
        shape: the shape of one example.
        high: the raw value that becomes 1.

    >>> Unit((2,), high=255.0)(torch.tensor([[0, 255]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """

    def __init__(self, shape: Shape, high: Positive = 1.0) -> None:
        super().__init__(shape)
        self.high = high

    def transform(self, raw: Tensor) -> Tensor:
        """Return raw / high."""
        return raw.float() / self.high

    def inverse(self, x: Tensor) -> Tensor:
        """Return x high."""
        return x * self.high

    @property
    def log_abs_det(self) -> float:
        """-dimensions log(high), nats."""
        return -math.prod(self.shape) * math.log(self.high)

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for values outside [0, high]."""
        if raw.size and (raw.min() < 0 or raw.max() > self.high):
            raise UserError(
                f"{source} should hold values from 0 to {self.high:g}; got {raw.min():g} to {raw.max():g}. Use "
                "--likelihood gaussian, or rescale the data."
            )


@final
@register("preprocessing")
class Standardise(Preprocessing):
    """x = (raw - mean) / scale, with one pair a column for tables and one pair for everything else.

    log_abs_det = -sum log scale. Until :meth:`fit`, or loading, the mean is 0 and the scale 1.

    Args:
        shape: the shape of one example; with one dimension it is taken for a row of columns.
        mean: for data whose range is known, together with
        scale: with both there is nothing to fit; 127.5 and 127.5 bring 8-bit values to [-1, 1].

    >>> standardise = Standardise((1,)).fit(np.array([[1.0], [3.0]]))
    >>> standardise(torch.tensor([[5.0]])), standardise.log_abs_det
    (tensor([[3.]]), -0.0)
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, mean: Real | None = None, scale: Positive | None = None) -> None:
        super().__init__(shape)
        if (mean is None) != (scale is None):
            raise UserError("Standardise takes mean and scale together; got one of them. Give both, or none.")
        self.fixed = mean is not None
        size = shape if len(shape) == 1 else ()
        self.register_buffer("mean", torch.full(size, 0.0 if mean is None else mean))
        self.register_buffer("scale", torch.full(size, 1.0 if scale is None else scale))

    def fit(self, raw: Array) -> Standardise:
        """Set mean and scale to the mean and standard deviation of the training examples ``raw``, (n, *shape).

        A column (or an array) that hardly varies keeps the scale 1. With a given mean and scale nothing changes.
        """
        if self.fixed:
            return self
        axes = (0,) if len(self.shape) == 1 else tuple(range(raw.ndim))
        mean = raw.mean(axes, dtype=np.float64)
        deviation = np.zeros_like(mean)
        for part in _parts(raw):
            deviation = deviation + np.square(part - mean).sum(axes)
        deviation = np.sqrt(deviation / (raw.size / max(1, mean.size)))
        scale = np.where(deviation > 1e-6 * np.maximum(1e-6, np.abs(mean)), deviation, 1.0)
        self.mean.copy_(torch.as_tensor(mean))
        self.scale.copy_(torch.as_tensor(scale))
        return self

    def transform(self, raw: Tensor) -> Tensor:
        """Return (raw - mean) / scale, computed in the type of ``raw`` where that is a wider float."""
        wide = raw if raw.dtype == torch.float64 else raw.float()
        return ((wide - self.mean) / self.scale).float()

    def inverse(self, x: Tensor) -> Tensor:
        """Return mean + scale x."""
        return x * self.scale + self.mean

    @property
    def log_abs_det(self) -> float:
        """-sum log scale over one example, in nats. Reads the buffers: not for use inside a step."""
        return -float(self.scale.double().log().sum()) * (math.prod(self.shape) / self.scale.numel())


@final
@register("preprocessing")
class Binarise(Preprocessing):
    """Grey values to 0 and 1: P(x = 1) = raw / high. Values that are 0 or ``high`` already just become 0 and 1.

    Dynamic: a new draw at every call, from torch's global random state. Reference: On the Quantitative Analysis of Deep
    Belief Networks, Salakhutdinov and Murray, 2008.

    Fixed: :meth:`prepare` draws once for every example of a data set, independently, as a function of ``seed`` and its
    row, and stores 0 and ``high`` in its place. An image that was not prepared (a new one) is compared with one mask of
    uniform thresholds that follows from ``seed``: the same image always gives the same result.

    Args:
        shape: the shape of one example.
        mode: dynamic or fixed.
        seed: of the fixed draws.
        high: the raw value that means probability 1.

    >>> Binarise((2,), "dynamic")(torch.tensor([[0, 255]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """

    thresholds: Tensor

    def __init__(
        self, shape: Shape, mode: Literal["dynamic", "fixed"], seed: Count = 0, high: Positive = 255.0
    ) -> None:
        super().__init__(shape)
        self.mode, self.seed, self.high = mode, seed, high
        if mode == "fixed":
            thresholds = torch.from_numpy(random_unit(shape, _STREAM, seed, 1))
            self.register_buffer("thresholds", thresholds, persistent=False)

    def transform(self, raw: Tensor) -> Tensor:
        """Return 0 and 1."""
        probability = raw.float() / self.high
        thresholds = self.thresholds if self.mode == "fixed" else torch.rand_like(probability)
        return (thresholds < probability).float()

    def expected(self, raw: Tensor) -> Tensor:
        """Return raw / high, the probability of a 1; in fixed mode, where nothing is drawn, the same as forward."""
        return self.shaped(raw).float() / self.high if self.mode == "dynamic" else self(raw)

    def inverse(self, x: Tensor) -> Tensor:
        """Return x high, so a probability becomes the grey value it stands for: uint8 for 255, else float32."""
        raw = x * self.high
        return raw.round().clamp(0, 255).to(torch.uint8) if self.high == 255 else raw

    def unrounded(self, x: Tensor) -> Tensor:
        """Return x high."""
        return x * self.high

    def check(self, raw: Array, source: str) -> None:
        """Raise UserError for values outside [0, high]."""
        if raw.size and (raw.min() < 0 or raw.max() > self.high):
            raise UserError(
                f"{source} should hold values from 0 to {self.high:g} to be binarised; got {raw.min():g} to "
                f"{raw.max():g}. Rescale the data, or leave out --binarise."
            )

    def prepare(self, dataset: Dataset) -> Dataset:
        """Return ``dataset`` with its fixed draws in place, 0 and ``high``; unchanged in dynamic mode."""
        if self.mode == "dynamic":
            return super().prepare(dataset)
        if dataset.streamed:
            raise UserError(
                f"--binarise fixed draws all examples before training; {dataset.name} is streamed. Use "
                "--binarise dynamic."
            )
        x = np.empty_like(dataset.x)
        for start in range(0, len(x), _ROWS):
            part = dataset.x[start : start + _ROWS]
            draw = random_unit(part.shape, _STREAM, self.seed, 0, start)
            x[start : start + _ROWS] = (draw < part.astype(np.float32) / np.float32(self.high)) * self.high
        return replace(dataset, x=x)


def _parts(raw: Array) -> Iterator[Array]:
    """Yield ``raw`` a few rows at a time, so that checks of 8-bit data in wide numbers stay small."""
    for start in range(0, len(raw), _ROWS):
        yield raw[start : start + _ROWS]
