"""T18: twelve laws that hold whatever the model, over random compositions of its parts."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proofs.proof import Budget, Mutants, Result
from sfumato.core import numerics
from sfumato.core.numerics import fixed_noise
from sfumato.core.processes import Processes
from sfumato.core.spec import from_spec, to_spec
from sfumato.data import Standardise
from sfumato.evaluation.estimate import mean_estimate
from sfumato.evaluation.units import bits_per_dim
from sfumato.io.tensors import pack, unpack
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import ClassConditional, StandardNormal

AIM, SHORT = 6_000, 96
CLOSE = 1e-9
BATCH = 7


@dataclass(frozen=True)
class Composition:
    """A random model in float64, data for it, labels where it has classes, and draws."""

    model: Any
    x: Tensor
    y: Tensor | None
    dice: random.Random

    def log_weights(self, samples: int, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) + log p(z|y) - log q(z|x) for draws of z, (samples, batch)."""
        y = self.y if y is None else y
        with fixed_noise(self.dice.randrange(2**30)):
            q = self.model.encode(self.x, y)
            z = q.rsample((samples,))
        found: Tensor = self.log_likelihood(z, y) + self.model.prior(self._prior(y)).log_prob(z) - q.log_prob(z)
        return found

    def log_likelihood(self, z: Tensor, y: Tensor | None, x: Tensor | None = None) -> Tensor:
        """Return log p(x | z), of all leading shapes of ``z``."""
        found: Tensor = self.model.likelihood(self.model.decoder(z, y)).log_prob(self.x if x is None else x)
        return found

    def _prior(self, y: Tensor | None) -> Tensor | None:
        return y if self.model.num_classes else None

    def terms(self, seed: int = 0, samples: int = 1) -> Any:
        """Return the model's terms with noise of ``seed``."""
        with fixed_noise(seed):
            return self.model(self.x, self.y, samples)


def compose(dice: random.Random) -> Composition:
    """Return a random composition."""
    shape = dice.choice(((3,), (6,), (1, 3, 4), (2, 2, 2)))
    latent, classes = dice.randint(1, 5), dice.choice((0, 0, 2, 4))
    hidden = tuple(dice.randint(2, 9) for _ in range(dice.randint(0, 2)))
    likelihood = dice.choice(
        (
            lambda: Bernoulli(shape),
            lambda: Gaussian(shape, dice.choice(("fixed", "shared", "per_dimension", "predicted"))),
            lambda: DiscretizedLogistic(shape, dice.choice((2, 16, 256))),
            lambda: Categorical(shape, dice.choice((2, 5))),
        )
    )()
    seen = bool(classes) and dice.random() < 0.5
    gated = dice.random() < 0.3
    with fixed_noise(dice.randrange(2**30)):
        prior = ClassConditional(classes, latent) if classes else StandardNormal(latent)
        if dice.random() < 0.5:
            trunk = MLP(shape, (4,), hidden, gated, activate_output=True)
            posterior = DiagonalGaussian(MLP((4,), (latent,), ()), MLP((4,), (latent,), ()), trunk)
        else:
            posterior = DiagonalGaussian(MLP(shape, (latent,), hidden, gated), MLP(shape, (latent,), hidden, gated))
        decoder: Any = MLP((latent + classes * seen,), likelihood.parameter_shape, hidden, gated)
        model = VAE(prior, posterior, WithLabel(decoder, classes) if seen else decoder, likelihood).double().eval()
        whole = torch.rand(BATCH, *shape, dtype=torch.float64)
        y = torch.randint(classes, (BATCH,)) if classes else None
    if not isinstance(likelihood, Gaussian):
        levels = getattr(likelihood, "levels", 2)
        whole = (whole * levels).floor().clamp(max=levels - 1)
        whole = whole / (levels - 1) if isinstance(likelihood, DiscretizedLogistic) else whole
    return Composition(model, whole, y, dice)


def same(one: Tensor, other: Tensor, what: str) -> None:
    """Assert that two tensors agree."""
    torch.testing.assert_close(one, other, rtol=CLOSE, atol=CLOSE, msg=lambda text: f"{what}: {text.splitlines()[-2:]}")


def permuting_the_batch_permutes_the_values(c: Composition) -> None:
    """No example knows its neighbours."""
    order = torch.tensor(c.dice.sample(range(BATCH), BATCH))
    z = c.model.encode(c.x, c.y).mean
    y = None if c.y is None else c.y[order]
    same(c.model.encode(c.x[order], y).mean, z[order], "encode")
    same(c.log_likelihood(z[order], y, c.x[order]), c.log_likelihood(z, c.y)[order], "likelihood")


def bounds_rise_with_their_samples(c: Composition) -> None:
    """ELBO <= IWAE_K <= IWAE_(K+1): for given weights every bound is at least the mean of those that leave one out."""
    k = c.dice.randint(2, 6)
    w = c.log_weights(k)
    left_out = torch.stack([numerics.logmeanexp(torch.cat([w[:i], w[i + 1 :]])) for i in range(k)]).mean(0)
    assert bool((left_out <= numerics.logmeanexp(w) + 1e-9).all()), "IWAE_K is above IWAE_(K+1)"
    assert bool((w.mean(0) <= left_out + 1e-9).all()), "the ELBO is above IWAE_K"


def the_kl_is_positive_and_zero_at_the_prior(c: Composition) -> None:
    """KL >= 0; with the posterior at N(0, I) that of a standard normal prior is 0."""
    values = ELBO()(c.terms(), 0).values
    assert bool((values["kl"] >= -1e-9).all()), "a negative KL"
    assert bool((values["kl"] > 1e-9).any()), "a KL that is nowhere"
    if not c.model.num_classes:
        model = copy.deepcopy(c.model)
        for head in (model.posterior.mean, model.posterior.log_variance):
            for parameter in head.layers[-1].parameters():
                torch.nn.init.zeros_(parameter)
        # The bound on log-variances is the identity but for 5e-5, of which the KL has the square.
        assert bool((ELBO()(model(c.x, c.y), 0).values["kl"].abs() < 1e-8).all()), "a KL at the prior"


def bits_do_not_depend_on_how_a_batch_is_cut(c: Composition) -> None:
    """Means over examples, whatever the batches they came in."""
    z, cut = c.model.encode(c.x, c.y).mean, c.dice.randint(1, BATCH - 1)
    whole = c.log_likelihood(z, c.y)
    parts = []
    for rows in (slice(0, cut), slice(cut, None)):
        parts.append(c.log_likelihood(z[rows], None if c.y is None else c.y[rows], c.x[rows]))
    bits = [bits_per_dim(mean_estimate(each, "nats"), 5, discrete=True) for each in (whole, torch.cat(parts))]
    assert bits[0] is not None
    assert bits[1] is not None
    assert math.isclose(bits[0].value, bits[1].value, rel_tol=1e-9)
    assert math.isclose(bits[0].value, -float(whole.mean()) / 5 / math.log(2), rel_tol=1e-6), "another unit"


def scaling_shifts_the_density_by_d_log_a(c: Composition) -> None:
    """Data a times as large have a density that is D log a lower, when the scale is fitted to them."""
    dims, a = c.x[0].numel(), 2.0 ** c.dice.randint(-6, 6)
    raw = np.random.default_rng(c.dice.randrange(2**30)).normal(3, 2, (20, dims)).astype(np.float32)
    one, other = Standardise((dims,)).fit(raw), Standardise((dims,)).fit(raw * np.float32(a))
    # log p(raw) = log p(x) + log_abs_det, and x is the same
    assert math.isclose(one.log_abs_det - other.log_abs_det, dims * math.log(a), rel_tol=1e-5, abs_tol=1e-5)
    torch.testing.assert_close(one(torch.from_numpy(raw)), other(torch.from_numpy(raw * np.float32(a))))


def copies_keep_the_mean(c: Composition) -> None:
    """Every example twice: the same mean."""
    values = c.log_likelihood(c.model.encode(c.x, c.y).mean, c.y)
    twice = c.log_likelihood(
        c.model.encode(torch.cat([c.x, c.x]), None if c.y is None else torch.cat([c.y, c.y])).mean,
        None if c.y is None else torch.cat([c.y, c.y]),
        torch.cat([c.x, c.x]),
    )
    same(twice.mean(), values.mean(), "the mean")


def relabelling_relabels(c: Composition) -> None:
    """Classes under other numbers: the same prior for the same class."""
    if not c.model.num_classes:
        return
    order = torch.tensor(c.dice.sample(range(c.model.num_classes), c.model.num_classes))
    z = c.model.encode(c.x, c.y).mean
    again = copy.deepcopy(c.model.prior)
    again.means.data = c.model.prior.means.data[order]
    number = order.argsort()[c.y]
    same(again(number).log_prob(z), c.model.prior(c.y).log_prob(z), "the prior")


def beta_zero_ignores_the_prior(c: Composition) -> None:
    """With beta = 0 the loss is the reconstruction."""
    terms = c.terms()
    same(ELBO(beta=0.0)(terms, 0).losses["model"], -terms.log_likelihood.mean(0), "beta = 0")
    full = ELBO()(terms, 0)
    same(full.losses["model"], -full.values["elbo"], "beta = 1")


def what_is_saved_is_loaded(c: Composition) -> None:
    """Specification and tensors there and back: the same bits."""
    again = from_spec(to_spec(c.model), "model").double().eval()
    again.load_state_dict(unpack(pack(c.model.state_dict()), "the law"))
    other = Composition(again, c.x, c.y, c.dice)
    assert torch.equal(other.terms().log_likelihood, c.terms().log_likelihood)


def precisions_agree(c: Composition) -> None:
    """float32 says what float64 says."""
    z = c.model.encode(c.x, c.y).mean
    exact = c.log_likelihood(z, c.y)
    single = Composition(copy.deepcopy(c.model).float(), c.x.float(), c.y, c.dice).log_likelihood(z.float(), c.y)
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)


def parts_of_processes_make_the_whole(c: Composition) -> None:
    """The losses of N processes add up to those of one."""
    count = c.dice.randint(2, 9)
    z = c.model.encode(c.x, c.y).mean
    values = c.log_likelihood(z, c.y)
    total = torch.zeros((), dtype=torch.float64)
    for rank in range(count):
        own, counts = Processes(rank, count).part(torch.arange(BATCH))
        y = None if c.y is None else c.y[own]
        total = total + counts * c.log_likelihood(z[own], y, c.x[own]).sum()
    same(total, values.sum(), f"{count} processes")


def a_missing_label_is_a_sum_over_classes(c: Composition) -> None:
    """p(z) = sum_y p(y) p(z | y)."""
    classes = c.model.num_classes
    if not classes:
        return
    z = c.model.encode(c.x, c.y).mean
    each = torch.stack([c.model.prior(torch.full((BATCH,), number)).log_prob(z) for number in range(classes)])
    missing = c.model.prior(torch.full((BATCH,), -1)).log_prob(z)
    frequencies = c.model.prior.log_frequencies  # of float32, in whatever precision the model is
    same(missing, (each + frequencies[:, None]).logsumexp(0), "the mixture")


LAWS: tuple[Callable[[Composition], None], ...] = (
    permuting_the_batch_permutes_the_values,
    bounds_rise_with_their_samples,
    the_kl_is_positive_and_zero_at_the_prior,
    bits_do_not_depend_on_how_a_batch_is_cut,
    scaling_shifts_the_density_by_d_log_a,
    copies_keep_the_mean,
    relabelling_relabels,
    beta_zero_ignores_the_prior,
    what_is_saved_is_loaded,
    precisions_agree,
    parts_of_processes_make_the_whole,
    a_missing_label_is_a_sum_over_classes,
)


def run(budget: Budget, seed: int) -> Result:
    """Compose a model and hold it to every law."""
    result, number = Result(), seed * 1_000_003
    while budget.open(result.cases):
        number += 1
        for law in LAWS:
            with result.case(f"{law.__name__}, composition {number}"), torch.no_grad():
                law(compose(random.Random(number)))
                result.fired += 1
    result.note = f"{result.cases // len(LAWS)} models; compiled steps are T13's, real processes T15's"
    return result


def averaged(patch: pytest.MonkeyPatch) -> None:
    """Average the log-weights in place of the weights."""
    patch.setattr(numerics, "logmeanexp", lambda values, dim=0: values.mean(dim) - 0.01)


def neighbours(patch: pytest.MonkeyPatch) -> None:
    """Let an example know its neighbours."""
    right = MLP.forward

    def forward(self: MLP, x: Tensor, y: Tensor | None = None) -> Tensor:
        found = right(self, x, y)
        return found + 1e-3 * found.flatten(1)[:1].sum() if found.ndim > 1 else found

    patch.setattr(MLP, "forward", forward)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a mean of logarithms": averaged, "examples that know their neighbours": neighbours}
