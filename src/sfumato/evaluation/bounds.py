r"""Bounds on the evidence, one number for each example, in nats.

    ELBO  = E_q[log p(x | z)] - KL(q(z | x) || p(z))                      <= log p(x)
    L_K   = log 1/K sum_k w_k,   w_k = p(x | z_k) p(z_k) / q(z_k | x),    z_k from q(z | x)

E[L_K] rises with K to log p(x); L_K uses exactly K draws of z for each example. With a label y, the same with p(z | y)
and networks that may see y: bounds on log p(x | y). The evidence of x without its label is log sum_y p(y) p(x | y).

Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519.

Noise follows from the seed, the number of examples in the batch and the order of draws; how many rows are decoded
together (``block``) changes no draw, and results only by the rounding of the sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.terms import Level, Terms
from sfumato.evaluation.measuring import measuring
from sfumato.models import Inference, Model
from sfumato.objectives.values import kl_of, reported

DRAWN_ROWS = 4_000
BLOCK_NUMBERS = 4_000_000
MANY_OPERATIONS = 2e13  # more than a minute of two cores
STREAM = 0x626F756E64  # "bound": keeps these random numbers apart from others with the same seed


def elbo_terms(
    model: Model, x: Tensor, y: Int[Tensor, " batch"] | None = None, *, samples: int = 1, seed: int = 0
) -> dict[str, Float[Tensor, " batch"]]:
    """Return what every objective reports, for each example: see :func:`~sfumato.objectives.values.reported`.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        y: class numbers, (batch,), -1 where unknown.
        samples: draws of z for each example; the KL is the closed form where there is one.
        seed: of the noise.
    """
    with measuring(model) as device, fixed_noise(seed_for(STREAM, seed), device):
        terms = model.terms(x, y, samples)
        return reported(terms, kl_of(terms))


def importance_bound(
    model: Model,
    x: Tensor,
    y: Int[Tensor, " batch"] | None = None,
    *,
    samples: int,
    seed: int = 0,
    block: int | None = None,
    compiled: bool = False,
) -> Float64[Tensor, " batch"]:
    """Return L_K of each example, nats: a lower bound on log p(x), or on log p(x | y) for the labels that are given.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        y: class numbers, (batch,), -1 where unknown.
        samples: K, used exactly.
        seed: of the noise.
        block: rows (samples times examples) that are decoded together; by default what fits the cache.
        compiled: score whole blocks with a compiled program, where there is a compiler: the same numbers but for
            rounding, sooner from about a minute of scoring on (:func:`pays_to_compile`).

    Raises:
        UserError: the posterior has no density, or K is less than 1.
    """
    total, whole = None, torch.Size()
    with measuring(model):
        for inference, part in _blocks(model, x, y, samples, seed, block):
            if total is None:
                whole = part.shape  # scored as written: it warms up what a compiled program takes as it finds it
            elif compiled and part.shape == whole:
                try:
                    total = add_log(total, _compiled_log_weights()(inference, part))
                    continue
                except Exception:  # no compiler, or a model that it cannot read: as written it says what is wrong
                    compiled = False
            total = add_log(total, log_weights(inference, part))
    assert total is not None
    return total - math.log(samples)


def log_weights(inference: Inference, drawn: Float[Tensor, "samples batch ..."]) -> Float[Tensor, "samples batch"]:
    """Return log w = log p(x | z) + log p(z) - log q(z | x) of draws from a posterior that has a density, nats."""
    weights = inference.terms(drawn).log_weights
    assert weights is not None
    return weights


def pays_to_compile(model: Model, rows: int) -> bool:
    """Whether scoring ``rows`` draws (samples times examples) takes so long that compiling is soon made up for."""
    return 2 * rows * sum(parameter.numel() for parameter in model.decoder.parameters()) > MANY_OPERATIONS


@functools.cache
def _compiled_log_weights() -> Callable[[Inference, Tensor], Tensor]:
    return torch.compile(log_weights, fullgraph=True, dynamic=False)


def evidence_bound(
    model: Model, x: Tensor, *, samples: int, seed: int = 0, block: int | None = None
) -> Float64[Tensor, " batch"]:
    """Return the bound on log p(x) of unlabelled ``x``, nats, (batch,).

    Without classes this is L_K; with classes log sum_y p(y) p_K(x | y), every class tried. Where labels reach no
    network the two are the same number, because p(z) is the mixture of the p(z | y) and the K draws are shared.

    Args:
        model: in any mode.
        x: (batch, *data), preprocessed.
        samples: K.
        seed: of the noise.
        block: as in :func:`importance_bound`.
    """
    if not model.num_classes:
        return importance_bound(model, x, samples=samples, seed=seed, block=block)
    bounds = class_bounds(model, x, samples=samples, seed=seed, block=block)
    return torch.logsumexp(bounds + log_class_weights(model).double(), -1)


def class_bounds(
    model: Model, x: Tensor, *, samples: int, seed: int = 0, block: int | None = None
) -> Float64[Tensor, "batch classes"]:
    """Return the bound on log p(x | y) for every class y, nats.

    Where labels reach no network, draws and decoder outputs are shared: only the prior's term differs between classes.
    Where they do, each class has its own pass under the same noise.

    Args:
        model: a model with classes, in any mode.
        x: (batch, *data), preprocessed.
        samples: K, for each class.
        seed: of the noise.
        block: as in :func:`importance_bound`.

    Raises:
        UserError: the model has no classes, the posterior no density, or K is less than 1.
    """
    if not model.num_classes:
        raise UserError("this model has no classes, so there is no p(x | y). Train with --conditional.")
    if model.labels_reach_networks:
        found = [importance_bound(model, x, y, samples=samples, seed=seed, block=block) for y in every_class(model, x)]
        return torch.stack(found, -1)
    total: Tensor | None = None
    with measuring(model):
        for terms in weighted_draws(model, x, None, samples=samples, seed=seed, block=block):
            assert terms.log_posterior is not None
            shared = (terms.log_likelihood - terms.log_posterior).unsqueeze(-1)
            total = add_log(total, shared + sum(_log_prior_of_classes(level) for level in terms.levels))
    assert total is not None
    return total - math.log(samples)


def weighted_draws(
    model: Model, x: Tensor, y: Tensor | None, *, samples: int, seed: int, block: int | None = None
) -> Iterator[Terms]:
    """Yield terms whose samples add up to exactly ``samples``; the encoder runs once.

    Args:
        model: in the state of :func:`~sfumato.evaluation.measuring.measuring`, which the caller keeps up meanwhile.
        x: (batch, *data).
        y: class numbers, (batch,), or None.
        samples: K.
        seed: of the noise.
        block: rows that are decoded together.

    Raises:
        UserError: the posterior has no density, or K is less than 1.
    """
    for inference, part in _blocks(model, x, y, samples, seed, block):
        yield inference.terms(part)


def _blocks(
    model: Model, x: Tensor, y: Tensor | None, samples: int, seed: int, block: int | None
) -> Iterator[tuple[Inference, Tensor]]:
    """Yield the posterior of ``x`` with some draws at a time, K in all."""
    if samples < 1:
        raise UserError(f"the number of samples K must be 1 or more; got {samples}.")
    inference = model.infer(x, y)
    batch = max(1, x.shape[0])
    rows = block or BLOCK_NUMBERS // math.prod(model.decoder.out_shape)
    together, drawn = max(1, rows // batch), max(1, DRAWN_ROWS // batch)
    for number, start in enumerate(range(0, samples, drawn)):
        with fixed_noise(seed_for(STREAM, seed, number), x.device):
            draws = inference.draw(min(drawn, samples - start))
        if not model.likelihood.has_density:
            raise UserError(
                f"{type(model.likelihood).__name__} is a score in the place of a density p(x | z): there is no "
                "evidence to bound. Train with Gaussian or DiscretizedLogistic to have one."
            )
        if not number and not all(has_density(level.posterior) for level in inference.levels(draws[:1])):
            raise UserError(
                f"{type(model.posterior).__name__} is a point mass: without a density q(z | x) there is no bound "
                "on the evidence. Train with DiagonalGaussian to have one."
            )
        for part in torch.split(draws, together):
            yield inference, part


def _log_prior_of_classes(level: Level) -> Float[Tensor, "samples batch classes"]:
    """Return log p(z_l | ..., y) for every class y; a level whose prior knows no classes says the same for all."""
    of_classes = getattr(level.prior, "log_components", None)
    if of_classes is not None:
        found: Tensor = of_classes(level.z)
        return found
    return level.prior.log_prob(level.z).unsqueeze(-1)


def add_log(total: Tensor | None, values: Float[Tensor, "samples ..."]) -> Tensor:
    """Return log(exp(total) + sum_s exp(values_s)), in float64; ``total`` None is nothing yet."""
    block = torch.logsumexp(values.double(), 0)
    return block if total is None else torch.logaddexp(total, block)


def every_class(model: Model, x: Tensor) -> list[Int[Tensor, " batch"]]:
    """Return the labels that give every class in turn to a whole batch: all 0, all 1, ...; empty without classes.

    Args:
        model: its classes.
        x: (batch, *data).
    """
    return [torch.full((len(x),), number, device=x.device) for number in range(model.num_classes)]


def log_class_weights(model: Model) -> Float[Tensor, " classes"]:
    """Return log p(y), nats: the frequencies of the prior, or equal ones where the prior has none."""
    weights = getattr(model.prior, "log_frequencies", None)
    if isinstance(weights, Tensor):
        return weights
    device = next(model.parameters()).device
    return torch.full((model.num_classes,), -math.log(model.num_classes), device=device)
