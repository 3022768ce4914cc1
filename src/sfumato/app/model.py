r"""What the service does with a model: a thread-safe face over it, in raw units, numpy in and numpy out.

Scores are log p(x) by L_K (:mod:`sfumato.evaluation.bounds`), K draws in G groups: with the groups' L_g,

    L_K = log sum_g s_g exp L_g,     standard error of it = sqrt(G / (G - 1) sum_g (s_g (exp(L_g - L_K) - 1))^2),

where s_g is the group's share of the draws (delta method).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal, has_density
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.evaluation import evidence_bound
from sfumato.models import PackagedModel
from sfumato.models.model import tempered

GROUPS = 8
MOST = 1_024
NUMBERS = 16_000_000
STREAM = 0x736572766564  # "served": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class Encoded:
    """Posteriors of n examples, latent dimensions in one row.

    Args:
        mean: (n, D), units of z.
        sigma: standard deviation, (n, D); None for a posterior that is not Gaussian.
    """

    mean: NDArray[np.float32]
    sigma: NDArray[np.float32] | None


@dataclass(eq=False)
class Served:
    """A model that several threads may ask.

    Args:
        packaged: in evaluation mode, on the CPU.

    What draws random numbers holds a lock, for torch has one random state; decoding and encoding do not.
    """

    packaged: PackagedModel
    noise: threading.RLock = field(default_factory=threading.RLock)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.packaged.preprocessing.shape

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self.packaged.model.latent_dim

    @property
    def most(self) -> int:
        """How many examples may be asked for at a time: their values fit into 16 million numbers."""
        return max(1, min(MOST, NUMBERS // math.prod(self.shape)))

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each class."""
        known, count = self.packaged.class_names, self.packaged.model.num_classes
        return (*known, *map(str, range(len(known), count)))

    @cached_property
    def has_evidence(self) -> bool:
        """Whether log p(x) can be bounded: the posterior has a density."""
        with torch.no_grad():
            x = torch.zeros((1, *self.shape))
            return has_density(self.packaged.model.posterior(x, self._seen(None, 1)))

    def labels(self, given: Any, n: int) -> NDArray[np.int64] | None:
        """Return class numbers (n,) for a name, a number, or a list of them; None stays None.

        Raises:
            UserError: no such class, or another count.
        """
        if given is None:
            return None
        items = given if isinstance(given, list) else [given] * n
        if len(items) != n:
            raise UserError(f"expected one class for each of {n} examples; got {len(items)}. Send as many.")
        numbers = []
        for item in items:
            plain = int(item) if isinstance(item, float) and item.is_integer() else item
            if isinstance(plain, bool) or not isinstance(plain, int | str):
                raise UserError("expected classes as names or whole numbers; got something else. Send those.")
            number = self.packaged.label(plain)
            assert number is not None
            numbers.append(number)
        return np.array(numbers, np.int64)

    def check(self, x: NDArray[Any]) -> None:
        """Raise UserError for values that the model is not made for."""
        self.packaged.preprocessing.check(x, "x")

    def encode(self, x: NDArray[Any], y: NDArray[np.int64] | None = None) -> Encoded:
        """Return q(z | x); ``y`` for encoders that see the class."""
        with torch.no_grad():
            posterior = self.packaged.encode(torch.from_numpy(np.ascontiguousarray(x)), self._seen(y, len(x)))
            normal = as_normal(posterior)
            return Encoded(_rows(posterior.mean), None if normal is None else _rows(normal.scale))

    def decode(self, z: NDArray[np.float32], y: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the expected data at ``z`` (n, D), in raw units."""
        latent = torch.from_numpy(np.ascontiguousarray(z)).reshape(len(z), *self.packaged.model.prior.latent_shape)
        return self.packaged.decode(latent, self._seen(y, len(z))).numpy()

    def draw(
        self, n: int, label: int | None = None, temperature: float = 1.0, seed: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return z (n, D) from the prior, or from p(z | y), and the class of each, -1 without classes.

        Without a label a model with classes draws them by their frequencies.
        """
        model = self.packaged.model
        with self.noise, torch.no_grad(), fixed_noise(seed_for(STREAM, seed)):
            y = None
            if model.num_classes:
                weights = getattr(model.prior, "log_frequencies", torch.zeros(model.num_classes)).exp()
                drawn = torch.multinomial(weights, n, replacement=True)
                y = drawn if label is None else torch.full((n,), label)
            prior = tempered(model.prior(y), temperature)
            z = prior.sample(torch.Size(() if prior.batch_shape else (n,)))
        return _rows(z), np.full(n, -1) if y is None else y.numpy()

    def sample(
        self, n: int, label: int | None = None, temperature: float = 1.0, seed: int = 0, draw: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return n examples in raw units, and their classes, -1 without; ``draw`` draws x too, else its mean."""
        z, y = self.draw(n, label, temperature, seed)
        known = y if (y >= 0).all() else None
        if not draw:
            return self.decode(z, known), y
        model = self.packaged.model
        with self.noise, torch.no_grad(), fixed_noise(seed_for(STREAM, seed, 1)):
            latent = torch.from_numpy(z).reshape(n, *model.prior.latent_shape)
            x = model.decode(latent, self._seen(known, n)).sample().float()
            return self.packaged.preprocessing.inverse(x).numpy(), y

    def score(self, x: NDArray[Any], samples: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return log p(x) in nats of raw data, (n,), and its standard error over draws.

        Args:
            x: raw examples.
            samples: K, used exactly; the standard error needs at least 2, else it is NaN.
            seed: of the draws.

        Raises:
            UserError: the posterior has no density.
        """
        groups = next(count for count in (GROUPS, 4, 2, 1) if samples >= count)
        sizes = [samples // groups + (number < samples % groups) for number in range(groups)]
        raw, model = torch.from_numpy(np.ascontiguousarray(x)), self.packaged.model
        with self.noise:
            with fixed_noise(seed_for(STREAM, seed, 2)):
                data = self.packaged.preprocessing(raw)
            found = [
                evidence_bound(model, data, samples=size, seed=seed_for(STREAM, seed, 3, number))
                for number, size in enumerate(sizes)
            ]
        each = torch.stack(found)
        share = torch.tensor(sizes, dtype=torch.float64).unsqueeze(-1) / samples
        value = torch.logsumexp(each + share.log(), 0)
        error = torch.full_like(value, math.nan)
        if groups > 1:
            away = share * ((each - value).exp() - 1)
            error = (groups / (groups - 1) * away.square().sum(0)).sqrt()
        return (value + self.packaged.preprocessing.log_abs_det).numpy(), error.numpy()

    def _seen(self, y: NDArray[np.int64] | None, n: int) -> Tensor | None:
        """Return labels for networks that look at them; -1, unknown, where none are given."""
        if not self.packaged.model.labels_reach_networks:
            return None
        return torch.full((n,), -1) if y is None else torch.from_numpy(y)


def _rows(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.detach().flatten(1).float().numpy()
    return array
