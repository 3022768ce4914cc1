r"""The symptoms of a run, measured on at most some hundred examples of a split, in nats.

* **Balance.** At a stationary point of -E_q log p(x | z) + beta KL(q || N(m, I)) the derivative with respect to every
  log sigma_i vanishes, so

      E_q[(z - mu) . grad_z(-log p(x | z))] = beta sum_i (1 - sigma_i^2),

  exactly, whatever the decoder. The quotient of the two sides, means over examples, is the beta that the posterior's
  noise has really been paid with: 1 for an ELBO, 0 where the noise costs nothing, as in an autoencoder.
* **Use of z.** E log p(x | z) - E log p(x | z') with z' from the posterior of another example: what z tells, in nats.
* **Shift.** How often a small classifier tells validation examples from training examples.
* **Prior and aggregate posterior**: see :mod:`~sfumato.evaluation.diagnosis.against_prior`.
* **Gain of the label.** ELBO(x, y) - ELBO(x, y') with another class y': what y tells, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.gaussians import as_normal, has_density
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Dataset, Examples, InMemory, Preprocessing
from sfumato.evaluation.bounds import elbo_terms
from sfumato.evaluation.diagnosis.against_prior import FEWEST, gap_to_prior, prior_against_posterior, told_apart
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.latents import Latents, find_latents
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import batches
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.likelihoods.gaussian import LOG_VARIANCE_BOUNDS
from sfumato.models import Model

MOST = 1_000
CODES = 4  # times as many training examples are only encoded
PROJECTED = 64  # dimensions in which wide examples are compared
STREAM = 0x646F63  # "doc": keeps these random numbers apart from others with the same seed

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class Settings:
    """What was decided for the run.

    Args:
        objective: the class of the objective.
        likelihood: the class of the likelihood.
        variance: how its variance comes about, for Gaussian ones.
        posterior: the class of the posterior.
        beta: the weight of the KL term; None for an objective without one.
        free_bits: nats of KL that cost nothing.
        dims: values of an example.
        latent_dim: dimensions of z.
        batch_size: examples a step.
        train: training examples.
        steps: steps planned.
        learning_rate: at its peak.
        pca_95: principal components that hold 95 % of the variance, 0 where unknown.
        crossing: examples of which equal ones lie in more than one split.
        held_out: validation and test examples.
    """

    objective: str
    likelihood: str
    variance: str | None
    posterior: str
    beta: float | None
    free_bits: float
    dims: int
    latent_dim: int
    batch_size: int
    train: int
    steps: int
    learning_rate: float
    pca_95: int = 0
    crossing: int = 0
    held_out: int = 0


@dataclass(frozen=True)
class Course:
    """How the training went.

    Args:
        state: ``running``; ``stopped`` before its end; ``finished``.
        step: steps done.
        best_step: the step whose weights are kept; None before the first evaluation.
        weight: the part of beta that the KL term had at the last step, 0 to 1.
        best_weight: the part that it had at ``best_step``.
        skipped: steps that were not taken because they went wrong.
        recoveries: returns to an earlier checkpoint.
        broken: lines of the metrics with a number that was not finite.
        elbo: (step, ELBO in nats) of each evaluation on the validation split.
        peak_kl: the largest KL of each latent dimension at any evaluation, nats.
        evidence: (value, standard error) of the bound on log p(x) on the test split, nats; None before the end.
        baselines: name -> the same for simple models.
    """

    state: State
    step: int
    best_step: int | None = None
    weight: float = 1.0
    best_weight: float = 1.0
    skipped: int = 0
    recoveries: int = 0
    broken: int = 0
    elbo: tuple[tuple[int, float], ...] = ()
    peak_kl: tuple[float, ...] = ()
    evidence: tuple[float, float] | None = None
    baselines: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of the model; see the module for what the numbers are. None is "does not apply".

    Args:
        finite: whether every weight is finite; if not, nothing else is here.
        n: validation examples.
        latents: the posteriors of the validation examples.
        elbo: on the validation examples, nats, given the label where the model sees it.
        train_elbo: on training examples.
        shift: how often training and validation examples are told apart; one half where both are of one kind.
        balance: the beta that the noise is paid with; None without noise or where it is not a posterior's.
        use_of_z: nats.
        rate: E KL(q(z | x) || p(z)) where samples begin, nats.
        prior_gap: KL(q(z) || p(z)) is at least this, nats.
        told: share of z that are told apart, with standard error.
        stray: share of samples that are farther from the data than 95 % of the reconstructions.
        label_gain: nats.
        label_moves: how far a sample moves when only its label changes, as a fraction of the distance of two samples.
        between: share of values strictly between 0 and 1 that a Bernoulli likelihood is given.
        at_floor: share of a Gaussian decoder's variances at the lowest value that it may take.
        at_ceiling: share at the highest.
        misfit: mean squared error divided by the decoder's variance, 1 where it is calibrated; Gaussian only.
    """

    finite: bool
    n: int = 0
    latents: Latents | None = None
    elbo: Estimate | None = None
    train_elbo: Estimate | None = None
    shift: Estimate | None = None
    balance: float | None = None
    use_of_z: Estimate | None = None
    rate: Estimate | None = None
    prior_gap: Estimate | None = None
    told: Estimate | None = None
    stray: Estimate | None = None
    label_gain: Estimate | None = None
    label_moves: float | None = None
    between: float | None = None
    at_floor: float = 0.0
    at_ceiling: float = 0.0
    misfit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for json."""
        result = {name: value for name, value in vars(self).items() if name != "latents"}
        result = {name: value.to_dict() if isinstance(value, Estimate) else value for name, value in result.items()}
        if self.latents is not None:
            result["active_units"] = {"value": self.latents.active_units, "of": self.latents.mean.shape[1]}
            result["per_dimension"] = self.latents.to_dict()
        return result


@dataclass(frozen=True, eq=False)
class Symptoms:
    """All that a diagnosis is made from.

    Args:
        settings: what was decided.
        course: how it went.
        measured: what the model does; None where there is no model, or no data, to look at.
    """

    settings: Settings
    course: Course
    measured: Measured | None = None


def measure(
    model: Model, preprocessing: Preprocessing, dataset: Dataset, *, seed: int = 0, most: int = MOST
) -> Measured:
    """Measure the symptoms of ``model`` on at most ``most`` training and validation examples, in float32 or better.

    Args:
        model: in any mode.
        preprocessing: raw data to the model's input.
        dataset: as it was loaded.
        seed: of all noise.
        most: examples of each split.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        return Measured(finite=False)
    prepared = preprocessing.prepare(dataset)
    train, validation = (some(prepared.split(name), most) for name in ("train", "validation"))
    found: dict[str, Any] = {}
    with measuring(model) as device:
        preprocessing.to(device)
        latents = find_latents(model, validation, preprocessing, seed=seed)
        inside, x, y = _pass(model, train, preprocessing, device, seed)
        outside, x_new, _ = _pass(model, validation, preprocessing, device, seed)
        for name, values in (("train_elbo", inside.get("elbo")), ("elbo", outside.get("elbo"))):
            found[name] = None if values is None else mean_estimate(values, "nats")
        found |= {name: outside.get(name) for name in ("use_of_z", "label_gain", "misfit")}
        found |= {name: outside.get(name, 0.0) for name in ("at_floor", "at_ceiling")}
        found["balance"] = inside.get("balance")
        if min(len(x), len(x_new)) >= FEWEST:
            found["shift"] = _shift(x, x_new, seed_for(STREAM, seed, 5))
        label = y if model.posterior.sees_label or model.decoder.sees_label else None
        found |= prior_against_posterior(model, x, label, x_new, seed_for(STREAM, seed, 2))
        learnt = find_latents(model, some(prepared.split("train"), CODES * most), preprocessing, seed=seed)
        found |= gap_to_prior(model, learnt, latents, seed_for(STREAM, seed, 4))
        if model.num_classes > 1:
            found["label_moves"] = _moves(model, seed)
        if isinstance(model.likelihood, Bernoulli):
            found["between"] = float(((x_new > 0) & (x_new < 1)).double().mean())
    return Measured(finite=True, n=len(validation), latents=latents, **found)


def some(examples: InMemory, most: int) -> InMemory:
    """Return at most ``most`` examples, spread evenly."""
    if len(examples) <= most:
        return examples
    rows = torch.linspace(0, len(examples) - 1, most).round().long()
    return InMemory(*examples.batch(rows))


def _pass(
    model: Model, examples: Examples, preprocessing: nn.Module, device: torch.device, seed: int
) -> tuple[dict[str, Any], Tensor, Tensor | None]:
    """Return what is measured example by example, and all preprocessed x and y."""
    columns: dict[str, list[Tensor]] = {}
    xs, ys = [], []
    for x, y, _, own in batches(examples, preprocessing, device, seed):
        xs.append(x)
        label = y if model.num_classes else None
        if label is not None:
            ys.append(label)
        for name, values in of_batch(model, x, label, own).items():
            columns.setdefault(name, []).append(values.double().cpu())
    found: dict[str, Any] = {name: torch.cat(parts) for name, parts in columns.items()}
    for name in ("at_floor", "at_ceiling", "misfit"):
        if name in found:
            found[name] = float(found[name].mean())
    if "cost" in found:
        free = float(found.pop("freedom").mean())
        cost = float(found.pop("cost").mean())
        found["balance"] = cost / free if free > 0.1 else None
    for name in ("use_of_z", "label_gain"):
        if name in found:
            found[name] = mean_estimate(found[name], "nats") if len(found[name]) else None
    return found, torch.cat(xs), torch.cat(ys) if ys else None


def of_batch(model: Model, x: Tensor, y: Tensor | None, seed: int) -> dict[str, Tensor]:
    """Return name -> (batch,)."""
    posterior = model.posterior(x, y)
    found: dict[str, Tensor] = {}
    with fixed_noise(seed_for(STREAM, seed), x.device):
        z = posterior.rsample((1,))
        order = torch.randperm(len(x), device=x.device)
    if has_density(posterior):
        found["elbo"] = elbo_terms(model, x, y, seed=seed)["elbo"]
        normal = as_normal(posterior)
        if normal is not None:
            found["cost"] = noise_cost(model, x, y, z, posterior.mean)
            found["freedom"] = (1 - normal.scale.square()).flatten(1).sum(1)
    right = model.decode(z, y)
    another = order.roll(1)[order.argsort()]  # a cycle through all: nobody keeps his own z
    found["use_of_z"] = (right.log_prob(x) - model.decode(z[:, another], y).log_prob(x))[0]
    if isinstance(model.likelihood, Gaussian):
        observed = as_normal(model.decode(posterior.mean[None], y))
        assert observed is not None
        scale = observed.scale[0].expand_as(x).flatten(1)
        error = (x - observed.loc[0]).flatten(1).square()
        found["misfit"] = (error / scale.square()).mean(1)
        if model.likelihood.variance != "fixed":
            log_variance = 2 * scale.log()
            low, high = LOG_VARIANCE_BOUNDS
            found["at_floor"] = (log_variance < low + 1).double().mean(1)
            found["at_ceiling"] = (log_variance > high - 1).double().mean(1)
    known = None if y is None else y >= 0
    if y is not None and known is not None and "elbo" in found:
        with fixed_noise(seed_for(STREAM, seed, 1), x.device):
            other = torch.randint(1, max(2, model.num_classes), y.shape, device=y.device)
        wrong = torch.where(known, (y + other) % model.num_classes, y)
        found["label_gain"] = (found["elbo"] - elbo_terms(model, x, wrong, seed=seed)["elbo"])[known]
    return found


def _shift(x: Tensor, x_new: Tensor, seed: int) -> Estimate:
    """Return how often as many of ``x`` and ``x_new`` are told apart, in a random projection where x is wide."""
    with fixed_noise(seed, x.device):
        count = min(len(x), len(x_new))
        rows = [part[torch.randperm(len(part), device=x.device)[:count]].flatten(1).float() for part in (x, x_new)]
        if rows[0].shape[1] > PROJECTED:
            directions = torch.randn(rows[0].shape[1], PROJECTED, device=x.device)
            rows = [part @ directions for part in rows]
        return told_apart(*rows)


def noise_cost(
    model: Model, x: Tensor, y: Tensor | None, z: Float[Tensor, "1 batch latent"], mean: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Return (z - mu) . grad_z(-log p(x | z)) of each example, nats: the left side of the balance."""
    with torch.enable_grad():
        draw = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-model.decode(draw, y).log_prob(x).sum(), draw)
    return ((z - mean).detach() * gradient)[0].flatten(1).sum(1)


def _moves(model: Model, seed: int) -> float:
    """Return how far samples move when only their label changes; 1 is as far as from one sample to another."""
    n, device = 128, next(model.parameters()).device
    y = torch.arange(n, device=device) % model.num_classes
    here = model.sample(n, y, generator=seed_for(STREAM, seed, 3)).flatten(1)
    there = model.sample(n, (y + 1) % model.num_classes, generator=seed_for(STREAM, seed, 3)).flatten(1)
    spread = (here - here.roll(model.num_classes, 0)).norm(dim=1).mean()  # the same class, other noise
    return float((here - there).norm(dim=1).mean() / spread.clamp(min=1e-12))
