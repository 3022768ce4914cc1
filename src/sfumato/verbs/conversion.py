r"""From the loss of a paper or repository to ours, and back.

Theirs, averaged over the batch:   a c_r E(x, x^) + w c_k KL,
    E = |x - x^|^2 (mse), |x - x^|_1 (l1), or -log p(x | z) in nats (bce, nll), summed over the D values of an example;
    c_r = 1 for a sum over the values, 1 / D for a mean (torch's default), B for a sum over the batch as well;
    c_k = 1 for a sum over the latents, 1 / latents for a mean, B for a sum over the batch as well.
Ours:                              E / u + beta KL + constant, nats an example,
    u = 2 sigma^2 (mse, a normal), sigma / sqrt 2 (l1, a Laplace of deviation sigma), 1 (bce, nll).

The gradients with respect to the networks are proportional exactly when

    u beta = w c_k / (a c_r):

one number, so a squared error fixes only the product of decoder variance and beta. At beta = 1 it is an ELBO, and
sigma^2 = w c_k / (2 a c_r); with their squared error taken as it is (sigma^2 = 1/2), beta = w c_k / (a c_r).

Reference: Simple and Effective VAE Training with Calibrated Decoders, Rybkin et al., 2021,
https://arxiv.org/abs/2006.13202.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.core.errors import UserError, did_you_mean

LOSSES = {"mse": "squared error", "l1": "absolute error", "bce": "binary cross-entropy", "nll": "-log p(x | z)"}
REDUCTIONS = {"mean": "mean over values and batch", "sum": "sum over values, mean over batch", "total": "sum over all"}
RECONSTRUCTIONS = tuple(f"{loss}-{reduction}" for loss in LOSSES for reduction in REDUCTIONS)
KLS = {"sum-mean": "sum over latents, mean over batch", "mean": "mean over latents and batch", "total": "sum over all"}


@dataclass(frozen=True)
class Loss:
    """A loss as somebody else writes it.

    Args:
        reconstruction: the error and how it is reduced: one of ``RECONSTRUCTIONS``.
        kl: how the KL term is reduced: one of ``KLS``.
        reconstruction_weight: a, the factor on the reconstruction.
        dims: D, the values of an example.
        latent_dim: the dimensions of z.
        batch: B, the examples of a batch.
    """

    reconstruction: str
    kl: str = "sum-mean"
    reconstruction_weight: float = 1.0
    dims: int | None = None
    latent_dim: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("reconstruction", self.reconstruction, RECONSTRUCTIONS), ("kl", self.kl, KLS)):
            if value not in known:
                raise UserError(f"--{name} does not know '{value}'.  {did_you_mean(value, known)} ({', '.join(known)})")

    @property
    def error(self) -> str:
        """The name of the error: mse, l1, bce or nll."""
        return self.reconstruction.partition("-")[0]

    @property
    def reduction(self) -> str:
        """How the error is reduced: mean, sum or total."""
        return self.reconstruction.partition("-")[2]

    @property
    def ratio(self) -> float:
        """c_k / (a c_r): what a KL weight of 1 amounts to beside an error that is summed over the values."""
        alike = self.reduction == self.kl == "total"  # both sums go over the batch: it cancels
        error = self._factor(self.reduction, "dims", alike)
        return self._factor(self.kl, "latent_dim", alike) / (self.reconstruction_weight * error)

    def per_example(self, loss: float) -> float:
        """Return E + ratio w KL of an example, from a value of the whole loss."""
        return loss / (self.reconstruction_weight * self._factor(self.reduction, "dims", False))

    @property
    def values(self) -> int:
        """D.

        Raises:
            UserError: it was not given.
        """
        return self._need("dims")

    def in_words(self, weight: float | str) -> str:
        """Return the loss in words."""
        factor = "" if self.reconstruction_weight == 1 else f"{self.reconstruction_weight:g} x "
        shown = weight if isinstance(weight, str) else f"{weight:g}"
        return f"{factor}{LOSSES[self.error]} ({REDUCTIONS[self.reduction]}) + {shown} x KL ({KLS[self.kl]})"

    def _factor(self, reduction: str, size: str, batch_cancels: bool) -> float:
        """Return c: the factor that a reduction puts on what is summed over one example and averaged over the batch."""
        if reduction == "mean":
            return 1 / self._need(size)
        return float(self._need("batch")) if reduction == "total" and not batch_cancels else 1.0

    def _need(self, name: str) -> int:
        value: int | None = getattr(self, name)
        if value is None:
            option, what = {
                "dims": ("--dims", "the number of values of an example, for instance 784"),
                "latent_dim": ("--latent-dim", "the number of latent dimensions"),
                "batch": ("--batch", "the number of examples of a batch"),
            }[name]
            raise UserError(f"--reconstruction {self.reconstruction} with --kl {self.kl} needs {what}. Add {option} N.")
        return value


@dataclass(frozen=True)
class Reading:
    """One of our losses with the gradients of theirs.

    Args:
        beta: the weight of the KL term.
        sigma: the decoder's standard deviation, in the units of their x; None where the error has no such number.
        what: what this reading is.
    """

    beta: float
    sigma: float | None
    what: str

    @property
    def variance(self) -> float | None:
        """sigma^2, in the units of their x squared."""
        return None if self.sigma is None else self.sigma**2


@dataclass(frozen=True)
class Converted:
    """A loss in both worlds.

    Args:
        theirs: the loss.
        weight: w, their factor on the KL term.
        product: w c_k / (a c_r) = u beta.
        readings: losses of ours with the same gradients, the ELBO first.
        notes: what else there is to know, whole sentences.
        negative_elbo: what their value of the loss is in ours at beta = 1, nats an example; None where not asked for.
    """

    theirs: Loss
    weight: float
    product: float
    readings: tuple[Reading, ...]
    notes: tuple[str, ...] = ()
    negative_elbo: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for json."""
        return {
            "theirs": {**asdict(self.theirs), "weight": self.weight},
            "product": self.product,
            "ours": [{**asdict(reading), "variance": reading.variance} for reading in self.readings],
            "negative_elbo": self.negative_elbo,
            "notes": list(self.notes),
        }


def from_theirs(
    theirs: Loss,
    weight: float,
    *,
    rmse: float | None = None,
    deviation: float | None = None,
    loss: float | None = None,
    note: str = "",
) -> Converted:
    """Return what ``theirs`` with the KL weight ``weight`` is in our units.

    Args:
        theirs: the loss.
        weight: w.
        rmse: root of their mean squared error a value, in the units of their x, where it is known.
        deviation: standard deviation of their x, in its own units: ours has 1 after ``Standardise``.
        loss: a value of their whole loss, to be read as an ELBO.
        note: one more sentence.

    Raises:
        UserError: a size that the conversion needs is missing, or an option that does not fit the error.

    >>> from_theirs(Loss("mse-mean", dims=12288), 0.00025).readings[0].variance
    1.536
    """
    product = weight * theirs.ratio
    noisy = theirs.error in ("mse", "l1")
    for option, value in (("--rmse", rmse), ("--deviation", deviation)):
        if value is not None and not noisy:
            raise UserError(
                f"{option} is about a decoder's deviation, which {theirs.error} does not have. Leave it out."
            )
    notes = [note] if note else []
    if theirs.reconstruction.endswith("-mean") and theirs.dims:
        notes.append(
            f"A mean over {theirs.dims:,} values hides a factor of {theirs.dims:,}: the KL weight {weight:g} beside it "
            f"is {product:.4g} beside a sum."
        )
    negative = None
    if not noisy:
        readings = [Reading(product, None, "the same in nats" if product != 1 else "the ELBO itself")]
        if product != 1:
            notes.append(
                f"beta {product:.4g} gives {'less' if product < 1 else 'more'} weight to the KL than the ELBO does; "
                "there is no decoder variance that it could stand for."
            )
    elif weight:
        elbo = Reading(1.0, deviation_of(theirs.error, product), "the ELBO of a decoder with this noise")
        plain = math.sqrt(0.5) if theirs.error == "mse" else math.sqrt(2)
        words = "their error, summed, as it is" if theirs.error == "mse" else "their error, summed, as it is (Laplace)"
        readings = [elbo, Reading(product, plain, words)]
        if theirs.error == "mse":
            readings.append(Reading(product / 2, 1.0, "a decoder of variance 1"))
        if rmse is not None:
            beta = product / unit_of(theirs.error, rmse)
            readings.append(Reading(beta, rmse, "beside a decoder as noisy as its error"))
        if deviation is not None and elbo.sigma is not None:
            notes.append(
                f"After standardising the data (their deviation {deviation:g} becomes 1) the ELBO's sigma is "
                f"{elbo.sigma / deviation:.4g}: Gaussian(variance=fixed, scale={elbo.sigma / deviation:.4g})."
            )
    else:
        readings = [Reading(0.0, None, "no KL term: an autoencoder")]
    if weight == 0:
        notes.append("Without a KL weight nothing keeps the noise of the posterior: it dies, and samples are poor.")
    if loss is not None:
        negative = _negative_elbo(theirs, product, readings[0], loss)
    return Converted(theirs, weight, product, tuple(readings), tuple(notes), negative)


def to_theirs(theirs: Loss, beta: float, sigma: float | None = None) -> Converted:
    """Return the KL weight that makes ``theirs`` what ours is at ``beta`` and the decoder's deviation ``sigma``.

    Args:
        theirs: the loss, without its weight.
        beta: the weight of our KL term.
        sigma: the decoder's standard deviation in the units of their x; for mse and l1.

    Raises:
        UserError: a size that the conversion needs is missing; a deviation is missing, or does not fit the error.

    >>> f"{to_theirs(Loss('mse-mean', dims=12288), beta=1.0, sigma=0.1).weight:.3g}"
    '1.63e-06'
    """
    noisy = theirs.error in ("mse", "l1")
    if noisy and sigma is None:
        raise UserError(
            f"{theirs.error} needs the decoder's standard deviation. Add --sigma X, in the units of the data."
        )
    if not noisy and sigma is not None:
        raise UserError(f"--sigma is the deviation of a decoder, which {theirs.error} does not have. Leave it out.")
    product = beta * unit_of(theirs.error, sigma)
    weight = product / theirs.ratio
    return Converted(theirs, weight, product, (Reading(beta, sigma, "as asked for"),))


def unit_of(error: str, sigma: float | None) -> float:
    """Return u, what an error is divided by to be nats.

    >>> unit_of("mse", 0.5)
    0.5
    """
    if error == "mse" and sigma is not None:
        return 2 * sigma**2
    return sigma / math.sqrt(2) if error == "l1" and sigma is not None else 1.0


def deviation_of(error: str, unit: float) -> float:
    """Return the sigma whose u is ``unit``: the inverse of :func:`unit_of`."""
    return math.sqrt(unit / 2) if error == "mse" else unit * math.sqrt(2)


def _negative_elbo(theirs: Loss, product: float, first: Reading, loss: float) -> float:
    """Return E / u + KL + the constant of the density, nats an example."""
    if not product:
        raise UserError("--loss cannot be read as an ELBO: its KL weight is 0. Leave it out.")
    value = theirs.per_example(loss)
    if first.sigma is None:
        if product != 1:
            raise UserError(f"--loss cannot be read as an ELBO: its beta is {product:g}, not 1. Leave it out.")
        return value
    dims = theirs.values
    constant = 0.5 * math.log(2 * math.pi * first.sigma**2) if theirs.error == "mse" else math.log(2 * product)
    return value / product + dims * constant
