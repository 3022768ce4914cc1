"""A prior over codes: tiny spaces are enumerated, and what has a probability has a bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from densities import frequencies_agree
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data import InMemory
from sfumato.evaluation.bounds import elbo_terms, importance_bound
from sfumato.evaluation.fitting import with_fitted_prior
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian, FiniteScalarQuantiser, LookupFreeQuantiser, VectorQuantiser
from sfumato.priors import AutoregressiveCodes, StandardNormal

DIMS = 5


def encoder(*out: int) -> MLP:
    return MLP((DIMS,), out, hidden=(6,), activation="tanh")


QUANTISERS = {
    "vq": lambda: VectorQuantiser(encoder(2, 3), codes=4),
    "residual": lambda: VectorQuantiser(encoder(2, 2), codes=3, quantisers=2),
    "finite-scalar": lambda: FiniteScalarQuantiser(encoder(2, 2), levels=(3, 4)),
    "lookup-free": lambda: LookupFreeQuantiser(encoder(2, 2)),
    "row": lambda: VectorQuantiser(encoder(2), codes=4),
}
EACH = pytest.mark.parametrize("name", QUANTISERS)


def model_of(name: str, seed: int = 0) -> VAE:
    """Return a model with a prior over its codes whose conditionals are far from uniform."""
    torch.manual_seed(seed)
    posterior = QUANTISERS[name]()
    prior = AutoregressiveCodes(posterior.latent_shape, posterior.code_sizes, width=8, heads=2, depth=1)
    with torch.no_grad():
        for output in prior.outputs:
            output.weight.mul_(4)
    decoder = MLP(posterior.latent_shape, (1, DIMS), hidden=(6,))
    return VAE(prior, posterior, decoder, Gaussian((DIMS,), "fixed", 0.3)).eval()


def every(model: VAE) -> Tensor:
    """Return all sequences of codes, (count, codes)."""
    sizes = model.posterior.code_sizes * (model.prior.codes // len(model.posterior.code_sizes))
    return torch.tensor(list(itertools.product(*map(range, sizes))))


@EACH
@torch.no_grad()
def test_probabilities_add_up_to_one_and_draws_have_them(name: str) -> None:
    model, draws = model_of(name), 5_000
    codes, p = every(model), model.prior()
    chances = p.log_prob_of(codes).double().exp()
    assert len(codes) > 3
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(chances.max() / chances.min()) > 3
    places = {row: number for number, row in enumerate(map(tuple, codes.tolist()))}
    drawn = torch.tensor([places[row] for row in map(tuple, p.sample_codes((draws,)).tolist())])
    frequencies_agree(torch.bincount(drawn, minlength=len(codes)) / draws, chances, draws)
    cold = p.tempered(0.0).sample_codes((5,))
    assert (cold == cold[0]).all()
    first = p.log_prob_of(codes).double().exp().reshape(max(model.posterior.code_sizes[:1]), -1).sum(1)
    assert int(cold[0, 0]) == int(first.argmax())


@EACH
@torch.no_grad()
def test_a_conditional_sees_what_is_before_it_alone(name: str) -> None:
    model = model_of(name)
    codes = every(model)[-1:, :-1]
    for place in range(model.prior.codes - 1):
        other = codes.clone()
        other[:, place] = 0
        same = (model.prior.logits(codes) == model.prior.logits(other)).all(-1)[0]
        assert same[: place + 1].all()
        assert not same[place + 1 :].any()


@EACH
@torch.no_grad()
def test_codes_and_z_are_the_same_thing(name: str) -> None:
    model = model_of(name)
    codes, x = every(model), 2 * torch.randn(50, DIMS)
    z = model.posterior.z_of(codes)
    assert z.shape == (len(codes), *model.posterior.latent_shape)
    assert len(z.flatten(1).unique(dim=0)) == len(codes)
    point = model.posterior(x)
    torch.testing.assert_close(model.posterior.z_of(point.codes), point.mean)
    if name == "residual":
        with pytest.raises(UserError, match="cannot be told from the sum"):
            model.prior().log_prob(z)
    else:
        assert torch.equal(model.posterior.codes_of(z), codes)
        assert torch.equal(model.prior().log_prob(z), model.prior().log_prob_of(codes))
        assert torch.equal(model.posterior.codes_of(point.mean), point.codes)
    one = model.posterior(x[0])
    assert torch.equal(one.codes, point.codes[0])


@EACH
@torch.no_grad()
def test_the_bound_is_that_of_a_discrete_latent(name: str) -> None:
    """log p(x) by enumeration; the ELBO at the point log p(x | z) + log P(c), whatever K."""
    model, x = model_of(name), torch.randn(6, DIMS)
    codes = every(model)
    z = model.posterior.z_of(codes)
    joint = model.decode(z[:, None]).log_prob(x) + model.prior().log_prob_of(codes)[:, None]
    places = {row: number for number, row in enumerate(map(tuple, codes.tolist()))}
    rows = torch.tensor([places[row] for row in map(tuple, model.posterior(x).codes.tolist())])
    expected = joint[rows, torch.arange(len(x))]
    found = elbo_terms(model, x, samples=2)
    torch.testing.assert_close(found["elbo"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["kl"], -model.prior().log_prob_of(codes[rows]))
    torch.testing.assert_close(importance_bound(model, x, samples=7).float(), expected, rtol=1e-4, atol=1e-4)
    assert (expected <= joint.logsumexp(0)).all()
    loss = ELBO()(model.terms(x), 0).losses["model"]
    torch.testing.assert_close(loss, -expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "finite-scalar"])
def test_a_prior_over_codes_is_fitted_afterwards(name: str) -> None:
    """Codes that say each other are found: the fitted probabilities come near the entropy of what is there."""
    torch.manual_seed(1)
    posterior = QUANTISERS[name]()
    prior = StandardNormal(posterior.latent_shape)
    model = VAE(prior, posterior, MLP(posterior.latent_shape, (1, DIMS)), Gaussian((DIMS,), "fixed"))
    x = 3 * torch.randn(1, DIMS) * torch.randn(400, 1) + 0.1 * torch.randn(400, DIMS)
    fitted = with_fitted_prior(model, InMemory(x), torch.nn.Identity(), "codes", steps=80)
    assert isinstance(fitted.prior, AutoregressiveCodes)
    assert isinstance(model.prior, StandardNormal)
    assert not posterior.counted
    codes = fitted.eval().posterior(x).codes
    _, counts = codes.unique(dim=0, return_counts=True)
    share = counts / len(x)
    entropy = float(-(share * share.log()).sum())
    with torch.no_grad():
        score = float(-fitted.prior().log_prob_of(codes).mean())
    assert entropy - 1e-3 < score < entropy + 0.15
    assert score < 0.8 * sum(map(math.log, fitted.prior.code_sizes)) * codes.shape[1] / len(fitted.prior.code_sizes)


def test_what_has_no_codes_is_refused() -> None:
    prior = AutoregressiveCodes((2,), (4,))
    decoder, likelihood = MLP((2,), (1, DIMS)), Gaussian((DIMS,))
    with pytest.raises(UserError, match="over the same z"):
        VAE(prior, DiagonalGaussian(encoder(2), encoder(2)), decoder, likelihood)
    with pytest.raises(UserError, match="with the posterior's code_sizes"):
        VAE(prior, VectorQuantiser(encoder(2), codes=5), decoder, likelihood)
    with pytest.raises(UserError, match="needs the other parts"):
        prior()
    gaussian = VAE(StandardNormal(2), DiagonalGaussian(encoder(2), encoder(2)), decoder, likelihood)
    with pytest.raises(UserError, match="codes of a quantiser"):
        with_fitted_prior(gaussian, InMemory(torch.randn(20, DIMS)), torch.nn.Identity(), "codes")
