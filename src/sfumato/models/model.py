r"""What every model is: a prior, a posterior, a decoder and a likelihood, over a latent variable of one or more levels.

    p(x, z | y) = p(x | z) p(z | y),   q(z | x),   z = (z_1, ..., z_L)

Seen from outside z is one tensor, the levels side by side: ``prior``, ``posterior`` and ``decoder`` speak of that one,
so that bounds, annealing and pictures need not know how many levels there are. Inside, :meth:`Model.infer` goes through
the levels, and :class:`~sfumato.core.terms.Terms` keeps them apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.interfaces import Likelihood, Network, Posterior, Prior
from sfumato.core.numerics import fixed_noise
from sfumato.core.terms import Level, Terms

Noise = int | torch.Generator | None
Temperature = float | Sequence[float]


class Inference(ABC):
    """The posterior of a batch, ready to be drawn from; the encoder has run, once."""

    @abstractmethod
    def draw(self, samples: int) -> Float[Tensor, "samples batch ..."]:
        """Return everything random about ``samples`` draws of z: z itself, or noise that z follows from."""

    @abstractmethod
    def levels(self, drawn: Float[Tensor, "samples batch ..."]) -> tuple[Level, ...]:
        """Return the levels, top first, that follow from some of what :meth:`draw` returned."""

    @abstractmethod
    def terms(self, drawn: Float[Tensor, "samples batch ..."]) -> Terms:
        """Return the same with p(x | z)."""


class Model(nn.Module, ABC):
    """p(x, z | y) with the posterior q(z | x): what objectives, evaluation and verbs work on.

    A model has four parts. All labels are class numbers 0 ... num_classes - 1, -1 where unknown. Methods that draw take
    ``generator``, a seed or a ``torch.Generator``, and then leave torch's own random state as it was.

    ``prior``: p(z | y) of all levels together, z in one row. ``posterior``: q(z | x), the same. ``decoder``: z to the
    numbers that the likelihood needs. ``likelihood``: p(x | z).
    """

    spec_kind: ClassVar[str] = "model"
    prior: Prior
    posterior: Posterior
    decoder: Network
    likelihood: Likelihood

    @property
    def num_classes(self) -> int:
        """The number of classes of a conditional model, else 0."""
        return self.prior.num_classes or getattr(self.decoder, "num_classes", 0)

    @property
    def labels_reach_networks(self) -> bool:
        """Whether encoder or decoder see the label; otherwise only the prior does."""
        return self.posterior.sees_label or self.decoder.sees_label

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions, of all levels together."""
        return int(torch.Size(self.prior.latent_shape).numel())

    @property
    def level_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of z at each level, top first."""
        return (tuple(self.prior.latent_shape),)

    @property
    def halves(self) -> Mapping[str, Sequence[nn.Parameter]] | None:
        """The parameters of the ``encoder`` and of all the rest, the ``decoder``; None where the two share some."""
        return None

    def split(self, z: Float[Tensor, "... latent"]) -> tuple[Tensor, ...]:
        """Return the levels of a z that holds all of them in one row, top first, each (..., *shape)."""
        return (z,)

    def whitened(self, z: Float[Tensor, "... latent"]) -> Float[Tensor, "... latent"]:
        """Return z in coordinates in which every prior below the top is N(0, 1) given the levels above; here z."""
        return z

    def coloured(self, noise: Float[Tensor, "... latent"]) -> Float[Tensor, "... latent"]:
        """Return the z of such coordinates."""
        return noise

    @abstractmethod
    def infer(self, x: Tensor, y: Int[Tensor, " batch"] | None = None) -> Inference:
        """Run the encoder.

        Args:
            x: (batch, *data), preprocessed.
            y: class numbers, (batch,), -1 where unknown.
        """

    def terms(self, x: Tensor, y: Int[Tensor, " batch"] | None = None, samples: int = 1) -> Terms:
        """Return what the model says about ``x``, from ``samples`` draws of z for each example.

        Args:
            x: (batch, *data), preprocessed.
            y: class numbers, (batch,), -1 where unknown.
            samples: S.
        """
        inference = self.infer(x, y)

        def given(labels: Tensor) -> Terms:
            return self.terms(x, labels, samples)

        def draw_prior() -> Tensor:
            prior = self.prior(y)
            shape = torch.Size(() if prior.batch_shape else x.shape[:1])
            z: Tensor = prior.rsample(shape) if prior.has_rsample else prior.sample(shape)
            return z

        def observe(z: Tensor) -> Distribution:
            return self.decode(z, y)

        drawn = inference.terms(inference.draw(samples))
        return replace(drawn, given=given, draw_prior=draw_prior, observe=observe)

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1) -> Terms:
        """Return :meth:`terms`."""
        return self.terms(x, y, samples)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z | x), of batch shape (batch,)."""
        posterior: Distribution = self.posterior(x, y)
        return posterior

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """Return p(x | z) for z of (..., batch, latent)."""
        observation: Distribution = self.likelihood(self.decoder(z, y))
        return observation

    def expectation(self, observation: Distribution) -> Tensor:
        """Return the expected data of p(x | z): the picture to show."""
        own = getattr(self.likelihood, "expectation", None)
        return own(observation) if own else observation.mean

    @torch.no_grad()
    def sample(
        self,
        n: int,
        label: int | Tensor | None = None,
        temperature: Temperature = 1.0,
        *,
        draw: bool = False,
        generator: Noise = None,
    ) -> Tensor:
        """Generate: z from the prior, x from the decoder.

        Args:
            n: how many.
            label: one class number, or one for each sample, (n,); None draws classes by their frequencies.
            temperature: multiplies the standard deviation of the prior around its mean; 0 gives the mean. One number,
                or one for each level, top first.
            draw: draw x from p(x | z) instead of taking its mean.
            generator: a seed or generator.

        Returns:
            (n, *data), in the units of the model's input.
        """
        device = next(self.parameters()).device
        with fixed_noise(generator, device):
            y = self._labels(n, label, device)
            prior = self.prior(y)
            z = tempered(prior, temperature).sample((n,) if not prior.batch_shape else ())
            observation = self.decode(z, y)
            return observation.sample().to(z.dtype) if draw else self.expectation(observation)

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, y: Tensor | None = None, *, generator: Noise = None, noise: bool = False
    ) -> Tensor:
        """Return the expected data, (batch, *data), at the posterior's mean or, with ``noise``, at a draw from it."""
        posterior = self.encode(x, y)
        with fixed_noise(generator, x.device):
            z = posterior.sample() if noise else posterior.mean
        return self.expectation(self.decode(z, y))

    @torch.no_grad()
    def interpolate(
        self,
        start: Tensor,
        end: Tensor,
        steps: int = 8,
        y: Tensor | None = None,
        path: Literal["spherical", "linear"] = "spherical",
    ) -> Tensor:
        """Decode points on the path between the posterior means of two batches.

        Args:
            start: (batch, *data).
            end: (batch, *data).
            steps: points on the path, both ends included.
            y: class numbers for the networks that see them.
            path: spherical (White, 2016, https://arxiv.org/abs/1609.04468), which keeps to the radius where the prior
                has its mass, or linear.

        Returns:
            (steps, batch, *data).
        """
        z0, z1 = self.encode(start, y).mean, self.encode(end, y).mean
        weights = torch.linspace(0, 1, steps, device=z0.device, dtype=z0.dtype)
        return self.expectation(self.decode(self.between(z0, z1, weights, path), y))

    def between(
        self, z0: Tensor, z1: Tensor, weights: Float[Tensor, " steps"], path: Literal["spherical", "linear"]
    ) -> Float[Tensor, "steps batch ..."]:
        """Return the points at ``weights`` in [0, 1] on the path from z0 to z1, each (batch, latent)."""
        mix = spherical if path == "spherical" else torch.lerp
        ends = self.whitened(z0), self.whitened(z1)
        return self.coloured(torch.stack([mix(*ends, weight) for weight in weights]))

    def accept_step(self) -> None:
        """Let the parts take over what a step of training that was not skipped leaves."""
        self.likelihood.accept_step()
        for part in self.modules():
            if isinstance(part, Prior):
                part.accept_step()

    def _labels(self, n: int, label: int | Tensor | None, device: torch.device) -> Tensor | None:
        """Return class numbers (n,) or None; refuse labels that there are not."""
        if label is None:
            if not self.decoder.sees_label:
                return None
            weights = getattr(self.prior, "log_frequencies", torch.zeros(self.num_classes, device=device)).exp()
            return torch.multinomial(weights, n, replacement=True)
        if not self.num_classes:
            raise UserError("This model has no classes, so it cannot sample by label. Train with --conditional.")
        y = torch.as_tensor(label, device=device)
        if y.is_floating_point() or y.shape not in ((), (1,), (n,)):
            raise UserError(f"The label must be one class number, or one for each of {n} samples; got {_short(y)}.")
        y = y.expand(n)
        if int(y.min()) < 0 or int(y.max()) >= self.num_classes:
            raise UserError(f"The label must be a class number from 0 to {self.num_classes - 1}; got {_short(y)}.")
        return y


def refuse_other_width(likelihood: Likelihood, decoder: Network) -> None:
    """Raise UserError where a decoder does not give what its likelihood needs."""
    if decoder.out_shape != likelihood.parameter_shape:
        raise UserError(
            f"{type(likelihood).__name__} needs {likelihood.numbers_per_value} numbers for each data value: a "
            f"decoder with out_shape={likelihood.parameter_shape}; got {decoder.out_shape}. Build it like that."
        )


def _short(y: Tensor) -> str:
    """Return a label, or a few of many, for an error."""
    return str(sorted(set(y.flatten().tolist())) if y.numel() < 20 else list(y.shape))


def tempered(distribution: Distribution, temperature: Temperature) -> Distribution:
    """Return ``distribution`` with its standard deviation multiplied by ``temperature``, one number or one a level."""
    levels = getattr(distribution, "levels", 1)
    each = (float(temperature),) * levels if isinstance(temperature, int | float) else tuple(map(float, temperature))
    if len(each) != levels:
        raise UserError(
            f"The model has {levels} level{'s' * (levels > 1)} of z; got {len(each)} temperatures. "
            "Give one for all, or one for each level, top first."
        )
    if all(value == 1.0 for value in each):
        return distribution
    for value in each:
        if not value >= 0:
            raise UserError(f"The temperature must be 0 or more; got {value}.")
    normal = as_normal(distribution)
    if normal is not None:
        cold = Normal(normal.loc, normal.scale * each[0], validate_args=False)
        return Independent(cold, len(distribution.event_shape), validate_args=False)
    if hasattr(distribution, "tempered"):
        cooled: Distribution = distribution.tempered(each if levels > 1 else each[0])
        return cooled
    raise UserError(f"{type(distribution).__name__} has no temperature. Sample with temperature 1.")


def spherical(z0: Tensor, z1: Tensor, weight: Tensor) -> Tensor:
    """Return the point at ``weight`` in [0, 1] on the great arc from z0 to z1, (batch, latent); linear if parallel."""
    cosine = nn.functional.cosine_similarity(z0, z1, dim=-1).clamp(-1, 1).unsqueeze(-1)
    angle = cosine.acos()
    sine = angle.sin()
    arc = ((1 - weight) * angle).sin() / sine * z0 + (weight * angle).sin() / sine * z1
    return torch.where(sine.abs() < 1e-4, torch.lerp(z0, z1, weight), arc)
