r"""The judge: a small classifier that never saw the model, to say of which class a generated example looks.

A few convolutions for images, a multi-layer perceptron for everything else; trained on the training split alone, on the
model's preprocessed inputs, for a fixed number of steps of Adam under a one-cycle rate. It is a measuring instrument:
its own accuracy on the test split is the ceiling of what it can find, and is reported beside every number it gives.

Reference of the rate: Super-Convergence, Smith and Topin, 2019, https://arxiv.org/abs/1708.07120.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Dataset, Examples
from sfumato.evaluation.classes import Accuracy, accuracy
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import EXAMPLES, Tell, batch_lengths, batches, merged
from sfumato.io.tensors import pack, unpack
from sfumato.likelihoods import Bernoulli
from sfumato.models import Model

STEPS = 1_200
EPOCHS = 30
BATCH = 250
RATE = 5e-3
SHIFT = 2
STREAM = 0x6A75646765  # "judge": keeps these random numbers apart from others with the same seed


@final
class Judge(nn.Module):
    """A classifier of preprocessed examples.

    Args:
        shape: the shape of one example; three axes with room for a picture are taken for an image.
        num_classes: the number of classes.

    Returns (call):
        logits, (batch, classes).
    """

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.shape, self.num_classes = tuple(shape), num_classes
        self.is_image = len(shape) == 3 and min(shape[1:]) >= 8
        self.layers = nn.Sequential(
            *(convolutions(shape, num_classes) if self.is_image else perceptron(shape, num_classes))
        )

        if self.is_image:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        # The layout in which the processor's convolutions are fastest: 1.5 times, forward and backward.
        x = x.contiguous(memory_format=torch.channels_last) if self.is_image else x
        logits: Tensor = self.layers(x)
        return logits

    def classify(self, x: Float[Tensor, "batch ..."]) -> Int64[Tensor, " batch"]:
        """Return the class number of each preprocessed example, (batch,)."""
        with measuring(self):
            return torch.cat([self(part).argmax(-1) for part in torch.split(x, EXAMPLES)])


def convolutions(shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    """Return the layers for images: a convolution, a halving, normalised, until 8 pixels a side are left."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    size = 16
    while max(height, width) > 8 and min(height, width) > 1:
        layers += [nn.Conv2d(channels, size, 3, padding=1, bias=False), nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.BatchNorm2d(size), nn.ReLU()]
        channels, height, width = size, math.ceil(height / 2), math.ceil(width / 2)
        size = min(2 * size, 64)
    layers += [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()]
    return [*layers, nn.Linear(64 * height * width, 128), nn.ReLU(), nn.Linear(128, num_classes)]


def perceptron(shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    """Return the layers for vectors, whose dimensions are standardised first."""
    size = math.prod(shape)
    layers = [nn.Flatten(), nn.BatchNorm1d(size, affine=False)]
    return [*layers, nn.Linear(size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, num_classes)]


def train_judge(
    dataset: Dataset,
    preprocessing: nn.Module,
    *,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str = "cpu",
    tell: Tell | None = None,
) -> Judge:
    """Train a judge on the training split.

    Args:
        dataset: with labels; examples of unknown class are left aside.
        preprocessing: raw data to the model's input, so that the judge sees what the model makes; with dynamic
            binarisation a new draw at every step.
        seed: weights, batches, shifts and noise follow from it.
        steps: of Adam, batches of 250; by default 1,200, but no more than 30 epochs.
        device: where to train.
        tell: called as tell("judge", steps done, steps in all), now and then.

    Raises:
        UserError: no labels, or fewer than two classes.
    """
    examples = dataset.split("train")
    if examples.y is None or dataset.num_classes < 2:
        raise UserError(
            f"a judge needs labels of at least two classes; {dataset.name} has {dataset.num_classes}. "
            "Give labels, or evaluate without the judge."
        )
    device = torch.device(device)
    known = (examples.y >= 0).nonzero().squeeze(-1)
    if steps is None:
        steps = min(STEPS, EPOCHS * math.ceil(len(known) / BATCH))
    with fixed_noise(seed_for(STREAM, seed), device), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        judge = Judge(dataset.shape, dataset.num_classes).to(device)
        optimizer = torch.optim.Adam(judge.parameters(), lr=RATE)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2), pct_start=0.2)
        order = known.new_empty(0)
        for step in range(steps):
            while len(order) < min(BATCH, len(known)):
                order = torch.cat([order, known[torch.randperm(len(known))]])
            rows, order = order[:BATCH], order[BATCH:]
            raw, y = examples.batch(rows)
            assert y is not None
            x = preprocessing(raw.to(device))
            loss = F.cross_entropy(judge(shifted(x) if judge.is_image else x), y.to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
            if tell is not None and (step + 1 == steps or step % 20 == 19):
                tell("judge", step + 1, steps)
    return judge.eval()


def shared_judge(
    dataset: Dataset, preprocessing: nn.Module, *, device: torch.device, processes: Processes, **how: Any
) -> Judge:
    """Return the judge that the first of ``processes`` trains; arguments as :func:`train_judge`."""
    trained: list[Judge] = []

    def train() -> None:
        trained.append(train_judge(dataset, preprocessing, device=device, **how))

    processes.ask(train)
    weights = processes.share(pack(trained[0].state_dict()) if trained else None) if processes.several else b""
    if trained:
        return trained[0]
    judge = Judge(dataset.shape, dataset.num_classes)
    judge.load_state_dict(unpack(weights, "the judge"))
    return judge.to(device).eval()


def shifted(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Move each image by up to 2 pixels along each axis, the border repeated."""
    batch, channels, height, width = x.shape
    wide = F.pad(x, (SHIFT,) * 4, mode="replicate")
    by = torch.randint(0, 2 * SHIFT + 1, (2, batch, 1), device=x.device)
    rows = (torch.arange(height, device=x.device) + by[0])[:, None, :, None]
    columns = (torch.arange(width, device=x.device) + by[1])[:, None, None, :]
    which = torch.arange(batch, device=x.device)[:, None, None, None]
    return wide[which, torch.arange(channels, device=x.device)[None, :, None, None], rows, columns]


def judge_accuracy(
    judge: Judge, examples: Examples, preprocessing: nn.Module, *, seed: int = 0, processes: Processes = ALONE
) -> Accuracy:
    """Return how often the judge is right about real examples.

    Args:
        judge: the judge.
        examples: a split with labels, not the one it was trained on.
        preprocessing: as in its training.
        seed: of the preprocessing's noise.
        processes: that share the work.
    """
    pairs: list[Tensor] = []
    with measuring(judge) as device:
        for x, y, _, _ in batches(examples, preprocessing, device, seed, processes=processes):
            predicted = judge.classify(x)
            pairs.append(torch.stack([torch.full_like(predicted, -1) if y is None else y, predicted], 1))
    return _accuracy(pairs, batch_lengths(examples), judge, processes)


def generation_accuracy(
    model: Model,
    judge: Judge,
    *,
    per_class: int = 1_000,
    seed: int = 0,
    draw: bool | None = None,
    processes: Processes = ALONE,
) -> Accuracy:
    """Return how often the judge gives the class that the model was asked for.

    Args:
        model: a model with classes, in any mode, on the device of the judge.
        judge: trained with the model's preprocessing.
        per_class: examples to generate of each class.
        seed: of the noise.
        draw: judge draws from p(x | z) instead of its expected data; by default for binary data only, where the draws
            are like the data (0 and 1) and the expected data are not.
        processes: that share the work.

    Raises:
        UserError: the model has no classes, or not those of the judge.
    """
    if not model.num_classes or model.num_classes != judge.num_classes:
        raise UserError(
            f"generation by class needs a model with the judge's {judge.num_classes} classes; this one has "
            f"{model.num_classes}. Train with --conditional on the same data."
        )
    if draw is None:
        draw = isinstance(model.likelihood, Bernoulli)
    parts = [(number, start) for number in range(model.num_classes) for start in range(0, per_class, EXAMPLES)]
    lengths = [min(EXAMPLES, per_class - start) for _, start in parts]
    pairs: list[Tensor] = []
    with measuring(model):
        for (number, start), n in list(zip(parts, lengths, strict=True))[processes.rank :: processes.count]:
            own = seed_for(STREAM, seed, number, start // EXAMPLES)
            given = judge.classify(model.sample(n, number, draw=draw, generator=own))
            pairs.append(torch.stack([torch.full_like(given, number), given], 1))
    return _accuracy(pairs, lengths, judge, processes)


def _accuracy(pairs: list[Tensor], lengths: list[int], judge: Judge, processes: Processes) -> Accuracy:
    """Return the accuracy from pieces of (truth, predicted), each (batch, 2)."""
    found = merged({"pairs": pairs} if pairs else {}, lengths, processes)["pairs"]
    return accuracy(found[:, 0], found[:, 1], judge.num_classes)
