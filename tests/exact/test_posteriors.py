"""Posteriors against Jacobians, quadrature, enumeration, closed forms and the library's own distributions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from densities import cell_masses
from exact_models import data as linear_data
from exact_models import linear_vae, log_evidence
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.distributions import PowerSpherical as Power
from sfumato.distributions import UniformSphere as Uniform
from sfumato.distributions import VonMisesFisher as Fisher
from sfumato.evaluation.bounds import elbo_terms, importance_bound
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import (
    DiagonalGaussian,
    FiniteScalarQuantiser,
    FlowPosterior,
    FullGaussian,
    GumbelSoftmax,
    Hamiltonian,
    LookupFreeQuantiser,
    LowRankGaussian,
    SemiAmortised,
    VectorQuantiser,
)
from sfumato.priors import Categorical, StandardNormal, VampPrior

DIMS = 5
SPHERES = pytest.mark.parametrize("cls", [Fisher, Power])


def network(*out: int) -> MLP:
    return MLP((DIMS,), out, hidden=(6,), activation="tanh")


def data(n: int = 4) -> Tensor:
    return torch.randn(n, DIMS).double()


# normals


@pytest.mark.parametrize("build", [lambda: FullGaussian(network(4, 3)), lambda: LowRankGaussian(network(4, 3))])
def test_the_kl_of_correlated_normals_is_that_of_torch(build) -> None:
    q = build().double()(data())
    prior = independent_normal(torch.randn(3).double(), torch.randn(3).double())
    scale = torch.diag_embed(prior.base_dist.scale)
    expected = kl_divergence(
        MultivariateNormal(q.mean, q.covariance_matrix), MultivariateNormal(prior.base_dist.loc, scale_tril=scale)
    )
    torch.testing.assert_close(kl_divergence(q, prior), expected.double())
    assert (q.covariance_matrix[:, 0, 1].abs() > 1e-4).all()


# flows


def flow(kind: str, context: bool, dims: int = 2, transforms: int = 3) -> FlowPosterior:
    base = DiagonalGaussian(network(dims), network(dims))
    posterior = FlowPosterior(base, kind, transforms, network(3) if context else None, hidden=(8,)).double()
    if kind != "iaf":
        with torch.no_grad():
            posterior.numbers.normal_()
    return posterior


KINDS = pytest.mark.parametrize(
    ("kind", "context"), list(itertools.product(["planar", "radial", "householder", "iaf"], [False, True]))
)


@KINDS
def test_a_flow_changes_volumes_by_its_jacobian_and_comes_back(kind: str, context: bool) -> None:
    q = flow(kind, context, dims=3)(data(1)[0])
    noise = q.noise(()).detach()
    z, known = q.carried(noise)
    jacobian = torch.autograd.functional.jacobian(lambda u: q.there(u)[0], noise)
    expected = q.base.log_prob(noise) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(known.log_prob(z), expected)
    torch.testing.assert_close(q.log_prob(z.clone()), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(q.back(z)[0], noise, rtol=1e-8, atol=1e-8)
    assert (jacobian - torch.eye(3)).abs().max() > 1e-3


@KINDS
def test_the_way_back_has_the_gradient_of_the_density(kind: str, context: bool) -> None:
    q = flow(kind, context)(data(1)[0])
    assert torch.autograd.gradcheck(q.log_prob, (torch.randn(2).double().requires_grad_(),))


@KINDS
def test_a_flowed_posterior_is_a_density(kind: str, context: bool) -> None:
    q = flow(kind, context, transforms=2)(data(1)[0])
    low, high = -12.0, 12.0
    drawn = q.rsample((2000,)).detach()
    assert drawn.abs().max() < high
    masses = cell_masses(q.log_prob, 2, low, high, 400)
    assert abs(float(masses.sum()) - 1) < 2e-3  # planar and radial flows have creases, seen by the midpoint rule


def test_a_flow_of_samples_has_one_map_for_each_example() -> None:
    posterior, x = flow("iaf", True), data()
    q = posterior(x)
    noise = q.noise((7,))
    z = q.carried(noise)[0]
    for row in range(4):
        torch.testing.assert_close(posterior(x[row]).carried(noise[:, row])[0], z[:, row])


def test_the_bound_of_a_flow_agrees_with_its_inverse() -> None:
    """What is known of draws, split and put together as the bound does it, is what the inverse finds."""
    likelihood = Gaussian((DIMS,), "fixed")
    model = VAE(StandardNormal(2), flow("planar", True), MLP((2,), (1, DIMS), hidden=()), likelihood).double()
    x = data()
    found = importance_bound(model, x, samples=6, block=8)
    with torch.no_grad():
        torch.testing.assert_close(found, importance_bound(model, x, samples=6, block=1000))
        terms = model.terms(x, samples=5)
        z, q = terms.levels[0].z, model.posterior(x)
        torch.testing.assert_close(terms.log_posterior, q.log_prob(z))
        torch.testing.assert_close(terms.log_likelihood, model.decode(z).log_prob(x))


# directions


def circle(cells: int = 20_000) -> tuple[Tensor, float]:
    angle = 2 * math.pi / cells * (torch.arange(cells).double() + 0.5)
    return torch.stack([angle.cos(), angle.sin()], -1), 2 * math.pi / cells


def ball(cells: int = 800) -> tuple[Tensor, float]:
    """Points of equal area on the sphere in three dimensions (Archimedes): cosine and longitude uniform."""
    height = 2 / cells * (torch.arange(cells).double() + 0.5) - 1
    around = 2 * math.pi / cells * (torch.arange(cells).double() + 0.5)
    h, a = torch.meshgrid(height, around, indexing="ij")
    r = (1 - h.square()).sqrt()
    return torch.stack([r * a.cos(), r * a.sin(), h], -1).reshape(-1, 3), 4 * math.pi / cells**2


@SPHERES
@pytest.mark.parametrize(("points", "kappa"), [(circle, 0.3), (circle, 30.0), (ball, 0.5), (ball, 40.0)])
def test_a_direction_has_a_density_that_matches_its_draws(cls: type, points, kappa: float) -> None:
    where, area = points()
    mu = torch.nn.functional.normalize(torch.ones(where.shape[-1]).double(), dim=-1)
    q = cls(mu, torch.tensor(kappa).double())
    masses = q.log_prob(where).exp() * area
    assert abs(float(masses.sum()) - 1) < 1e-4
    drawn = q.rsample((40_000,))
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(40_000).double())
    for power in (1, 2):
        expected = float((masses * (where @ mu) ** power).sum())
        found = (drawn @ mu) ** power
        assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / 200 + 1e-4
    kl = float((masses * (q.log_prob(where) - Uniform(mu).log_prob(where))).sum())
    assert abs(float(kl_divergence(q, Uniform(mu))) - kl) < 1e-3 * max(1.0, kl)


@SPHERES
@pytest.mark.parametrize(("dims", "kappa"), [(2, 0.2), (3, 1.0), (10, 5.0), (10, 500.0), (50, 20.0), (200, 1e4)])
def test_the_kl_to_the_uniform_sphere_is_the_mean_of_its_draws(cls: type, dims: int, kappa: float) -> None:
    mu = torch.nn.functional.normalize(torch.randn(dims).double(), dim=-1)
    q, p = cls(mu, torch.tensor(kappa).double()), Uniform(mu)
    drawn = q.rsample((20_000,))
    gap = q.log_prob(drawn) - p.log_prob(drawn)
    assert abs(float(gap.mean() - kl_divergence(q, p))) < 5 * float(gap.std()) / 20_000**0.5


@pytest.mark.parametrize("kappa", [0.05, 1.0, 20.0, 3000.0])
def test_von_mises_and_fisher_in_three_dimensions_are_in_closed_form(kappa: float) -> None:
    concentration = torch.tensor(kappa, dtype=torch.float64)
    q = Fisher(torch.tensor([0.0, 0.0, 1.0]).double(), concentration)
    at_pole = math.log(kappa / (2 * math.pi)) - math.log1p(-math.exp(-2 * kappa))
    assert float(q.log_prob(torch.tensor([0.0, 0.0, 1.0]).double()).detach()) == pytest.approx(at_pole, abs=1e-10)
    mean = 1 / math.tanh(kappa) - 1 / kappa if kappa < 300 else 1 - 1 / kappa
    assert q.mean_cosine.item() == pytest.approx(mean, rel=1e-9)


@SPHERES
@pytest.mark.parametrize(("dims", "kappa"), [(2, 2.0), (3, 1.5), (6, 30.0)])
def test_gradients_through_draws_are_those_of_the_expectation(cls: type, dims: int, kappa: float) -> None:
    """d/dkappa E[f(z)] against the score function's estimate from the same density, and a difference quotient."""
    mu = torch.nn.functional.normalize(torch.randn(dims).double(), dim=-1)
    along = mu + 0.5 * torch.randn(dims).double()

    def values(at: Tensor) -> Tensor:
        z = cls(mu, at).rsample((20_000,))
        return (z @ along).exp()

    at = torch.full((20_000,), kappa).double().requires_grad_()
    z = cls(mu.expand(20_000, dims), at).rsample()
    (slopes,) = torch.autograd.grad((z @ along).exp().sum(), at)
    step = 0.2 * kappa
    with torch.no_grad():
        up, down = values(torch.tensor(kappa + step).double()), values(torch.tensor(kappa - step).double())
    quotient = float(up.mean() - down.mean()) / (2 * step)
    error = math.hypot(float(slopes.std()), math.hypot(float(up.std()), float(down.std())) / (2 * step)) / 20_000**0.5
    assert abs(float(slopes.mean()) - quotient) < 5 * error + 0.04 * abs(quotient)  # the quotient's own curvature
    assert abs(quotient) > 5 * error


@pytest.mark.parametrize("kappa", [0.5, 4.0, 100.0])
def test_the_gradient_of_the_mean_direction_is_in_closed_form(kappa: float) -> None:
    """d/dkappa E[mu.z] = 1/kappa^2 - 1/sinh(kappa)^2 in three dimensions."""
    at = torch.full((40_000,), kappa).double().requires_grad_()
    north = torch.tensor([0.0, 0.0, 1.0]).double()
    drawn = Fisher(north.expand(40_000, 3), at).rsample()
    (slopes,) = torch.autograd.grad(drawn[:, 2].sum(), at)
    exact = 1 / kappa**2 - 1 / math.sinh(kappa) ** 2
    assert abs(float(slopes.mean()) - exact) < 5 * float(slopes.std()) / 200


# categories


def discrete() -> VAE:
    decoder = MLP((2, 3), (1, DIMS), hidden=())
    model = VAE(Categorical(2, 3, learn=True), GumbelSoftmax(network(2, 3)), decoder, Bernoulli((DIMS,)))
    with torch.no_grad():
        model.prior.logits.normal_()
    return model.double()


def every_z() -> Tensor:
    eye = torch.eye(3).double()
    return torch.stack([torch.stack([eye[i], eye[j]]) for i, j in itertools.product(range(3), repeat=2)])


def test_a_discrete_model_is_enumerated() -> None:
    """KL, ELBO and evidence of nine values of z, each by the sum over all of them."""
    model, x = discrete().eval(), (torch.rand(4, DIMS) > 0.5).double()
    z = every_z().unsqueeze(1).expand(9, 4, 2, 3)
    with torch.no_grad():
        log_q, log_p = model.posterior(x).log_prob(z), model.prior().log_prob(z)
        log_x = model.decode(z).log_prob(x)
        torch.testing.assert_close(log_q.exp().sum(0), torch.ones(4).double())
        torch.testing.assert_close(log_p.exp().sum(0), torch.ones(4).double())
        kl = (log_q.exp() * (log_q - log_p)).sum(0)
        torch.testing.assert_close(model.terms(x).kl[0], kl)
        evidence = torch.logsumexp(log_x + log_p, 0)
        bound = importance_bound(model, x, samples=40_000)
        ratio = log_x + log_p - log_q - evidence
        error = ((log_q.exp() * (ratio.exp() - 1).square()).sum(0) / 40_000).sqrt()
        assert ((bound - evidence).abs() < 5 * error + 1e-9).all()
        draws = model.terms(x, samples=20_000)
        shares = torch.stack([(draws.z[0] == each).flatten(-2).all(-1).double().mean(0) for each in every_z()])
        torch.testing.assert_close(shares, log_q.exp(), rtol=0, atol=0.02)


def test_training_draws_are_relaxed_and_their_kl_is_exact() -> None:
    model, x = discrete(), (torch.rand(4, DIMS) > 0.5).double()
    terms = model.terms(x, samples=3)
    z = terms.z[0]
    torch.testing.assert_close(z.sum(-1), torch.ones(3, 4, 2).double())
    assert ((z > 0.01) & (z < 0.99)).any()
    torch.testing.assert_close(terms.kl, model.eval().terms(x).kl)
    ELBO()(terms, 0).losses["model"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


# quantisers


def autoencoder(posterior, latent: tuple[int, ...] = (2, 3)) -> VAE:
    prior = StandardNormal(posterior.latent_shape)
    return VAE(prior, posterior, MLP(latent, (1, DIMS), hidden=()), Gaussian((DIMS,)))


@pytest.mark.parametrize("quantisers", [1, 2])
def test_a_code_is_the_nearest_entry_and_its_price_what_is_left(quantisers: int) -> None:
    posterior, x = VectorQuantiser(network(2, 3), codes=4, quantisers=quantisers, commitment=0.3), data().float()
    before = [layer._codebook.embed[0].clone() for layer in posterior.lists.layers]
    z = posterior.encoder(x)
    z.retain_grad()
    left, total, price = z.detach().mT, torch.zeros(4, 3, 2), torch.zeros(4)
    for entries in before:
        nearest = torch.cdist(left, entries).argmin(-1)
        total, left = total + entries[nearest], left - entries[nearest]
        price += 0.3 * left.square().sum((1, 2))
    q = posterior(x)
    torch.testing.assert_close(q.mean, total.mT)
    torch.testing.assert_close(q.penalties["commitment"], price)
    terms = autoencoder(posterior).terms(x)
    torch.testing.assert_close(
        ELBO(beta=0)(terms, 0).losses["model"], -terms.log_likelihood[0] + terms.penalties["commitment"]
    )


def test_the_entries_are_running_means_and_stay_outside_training() -> None:
    posterior, x = VectorQuantiser(network(2, 3), codes=4, decay=0.9), data().float()
    book = posterior.lists.layers[0]._codebook
    before, sizes, sums = book.embed[0].clone(), book.cluster_size[0].clone(), book.embed_avg[0].clone()
    posterior.eval()(x)
    assert torch.equal(book.embed[0], before)
    rows = posterior.encoder(x).detach().mT.reshape(-1, 2)
    owner = torch.nn.functional.one_hot(torch.cdist(rows, before).argmin(-1), 4).float()
    posterior.train()(x)
    torch.testing.assert_close(book.cluster_size[0], 0.9 * sizes + 0.1 * owner.sum(0))
    torch.testing.assert_close(book.embed_avg[0], 0.9 * sums + 0.1 * owner.T @ rows)


@pytest.mark.parametrize(
    "build",
    [
        lambda: VectorQuantiser(network(2, 3), codes=4),
        lambda: FiniteScalarQuantiser(network(2, 3), (3, 5)),
        lambda: LookupFreeQuantiser(network(2, 3)),
    ],
)
def test_quantisers_pass_gradients_and_refuse_bounds(build) -> None:
    model, x = autoencoder(build()), data().float()
    ELBO(beta=0)(model.terms(x), 0).losses["model"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.posterior.parameters())
    with pytest.raises(UserError, match="density"):
        ELBO()(model.terms(x), 0)
    with pytest.raises(UserError, match="density"):
        importance_bound(model, x, samples=2)


def test_rounded_and_signed_codes_lie_on_their_grid() -> None:
    x = 3 * data(50).float()
    z = FiniteScalarQuantiser(network(2, 3), (3, 5)).eval()(x).mean
    assert set(z[:, 0].unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert set(z[:, 1].unique().tolist()) <= {-1.0, -0.5, 0.0, 0.5, 1.0}
    assert set(LookupFreeQuantiser(network(2, 3)).eval()(x).mean.unique().tolist()) == {-1.0, 1.0}
    with pytest.raises(UserError, match="each of 2 channels"):
        FiniteScalarQuantiser(network(2, 3), (3,))


def test_the_signs_pay_for_doubt_and_for_codes_that_are_not_used() -> None:
    """By enumeration of the four codes of two channels, whose probabilities are softmax(2 * 100 z.code)."""
    posterior, x = LookupFreeQuantiser(network(2, 3), entropy=0.5, diversity=2.0), data().float()
    posterior.encoder.layers[-1].weight.data.mul_(0.01)
    posterior.encoder.layers[-1].bias.data.mul_(0.01)
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)))
    chance = (200 * posterior.encoder(x).mT.reshape(-1, 2) @ codes.T).softmax(-1)
    mean = chance.mean(0)
    doubt, use = -(chance * chance.log()).sum(-1).mean(), -(mean * mean.log()).sum()
    expected = 0.5 * (doubt - 2.0 * use)
    torch.testing.assert_close(posterior(x).penalties["entropy"], expected.expand(4), rtol=1e-3, atol=1e-4)


# posteriors that follow the joint


def followed(wrap, spread: float = 2.0) -> VAE:
    """The linear model with a posterior that is too wide, wrapped."""
    model = linear_vae(spread)
    return VAE(model.prior, wrap(model.posterior).double(), model.decoder, model.likelihood)


def test_hamiltonian_dynamics_keep_volumes_but_for_their_cooling() -> None:
    """The momentum starts hotter by 1 / sqrt(beta_0) in every dimension, and has cooled by as much at the end."""
    model, x = followed(lambda base: Hamiltonian(base, steps=3, step_size=0.2)), linear_data(1)[0]
    q = model.posterior(x)

    def flat(start: Tensor) -> Tensor:
        return torch.cat(q.dynamics(start[:2], start[2:])[:2])

    jacobian = torch.autograd.functional.jacobian(flat, torch.randn(4).double())
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(0.0, abs=1e-9)
    assert (jacobian - torch.eye(4)).abs().max() > 0.1


def test_weights_of_hamiltonian_draws_are_unbiased_for_the_evidence() -> None:
    """E[w] = p(x): with the factors of beta_0 or of the momentum wrong it is not."""
    x = linear_data(4)
    with torch.no_grad():
        for steps, size in ((1, 0.3), (4, 0.15)):
            model = followed(lambda base, k=steps, e=size: Hamiltonian(base, steps=k, step_size=e))
            ratio = (model.terms(x, samples=20_000).log_weights - log_evidence(x)).exp()
            assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 20_000**0.5).all()


def test_hamiltonian_steps_raise_the_elbo_and_learn() -> None:
    x = linear_data(200)
    plain, moved = linear_vae(2.0), followed(lambda base: Hamiltonian(base, steps=4, step_size=0.1))
    gain = elbo_terms(moved, x, samples=40)["elbo"] - elbo_terms(plain, x, samples=40)["elbo"]
    assert float(gain.mean()) > 5 * float(gain.std()) / 200**0.5
    ELBO()(moved.terms(x), 0).losses["model"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in moved.posterior.parameters())
    assert importance_bound(moved, x[:3], samples=4, block=6).isfinite().all()
    with pytest.raises(UserError, match="at its own draws alone"):
        moved.posterior(x).log_prob(torch.zeros(200, 2).double())


def test_a_refined_posterior_reaches_the_exact_one() -> None:
    """The exact posterior of this model has independent dimensions: at it the ELBO is the evidence."""
    model, x = followed(lambda base: SemiAmortised(base, steps=60, rate=0.3), spread=3.0), linear_data(5) + 1.0
    with torch.no_grad():
        found = elbo_terms(model, x, samples=4)
        torch.testing.assert_close(model.encode(x).mean, linear_vae().encode(x).mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.encode(x).stddev, linear_vae().encode(x).stddev, rtol=1e-5, atol=1e-5)
        weights = model.terms(x, samples=3).log_weights
    torch.testing.assert_close(weights, log_evidence(x).expand(3, 5), rtol=1e-5, atol=1e-4)
    assert found["elbo"].isfinite().all()
    assert torch.equal(model.encode(x).mean, model.encode(x).mean)


def test_the_encoder_learns_from_where_the_steps_end() -> None:
    model, x = followed(lambda base: SemiAmortised(base, steps=2)), linear_data(5)
    q = model.posterior(x)
    (slope,) = torch.autograd.grad(q.mean.sum(), model.posterior.base.mean.layers[-1].bias)
    torch.testing.assert_close(slope, torch.full((2,), 5.0).double())
    assert (q.mean - model.posterior.base(x).mean).abs().max() + (
        q.stddev - model.posterior.base(x).stddev
    ).abs().max() > 0.1
    with pytest.raises(UserError, match="refines a normal"):
        followed(lambda base: SemiAmortised(FlowPosterior(base, "planar"))).encode(x)


def test_a_prior_of_posteriors_and_a_posterior_that_follows_the_prior_cannot_begin() -> None:
    posterior = SemiAmortised(DiagonalGaussian(network(2), network(2)))
    with pytest.raises(UserError, match="neither can begin"):
        VAE(VampPrior(2, (DIMS,), 3), posterior, MLP((2,), (1, DIMS)), Gaussian((DIMS,)))
