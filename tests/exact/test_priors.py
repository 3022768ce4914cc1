"""Priors against enumeration, quadrature, the library's own mixtures and the geometry of the sphere."""

from __future__ import annotations

import copy
import json
import math
import sys

import numpy as np
import pytest
import torch
from densities import cell_masses
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from sfumato.core.errors import UserError
from sfumato.core.spec import from_spec, to_spec
from sfumato.data import Binarise, Dataset
from sfumato.evaluation.bounds import class_bounds, importance_bound
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.models.model import tempered
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import (
    ClassConditionalMixture,
    Exemplar,
    Flow,
    GaussianMixture,
    StandardNormal,
    UniformSphere,
    VampPrior,
)
from sfumato.priors.exemplar import TURNS, least
from sfumato.recipes.starting import start_parts

DIMS, LATENT = 5, 2


def encoder() -> DiagonalGaussian:
    return DiagonalGaussian(*(MLP((DIMS,), (LATENT,), hidden=(6,), activation="tanh") for _ in range(2)))


def vae(prior) -> VAE:
    return VAE(prior, encoder(), MLP((LATENT,), (1, DIMS), hidden=()), Gaussian((DIMS,))).double()


def stirred(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


# GaussianMixture


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_mixture_is_that_of_torch(covariance: str) -> None:
    prior = stirred(GaussianMixture(3, 4, covariance)).double()
    scale = (0.5 * prior.log_variances).exp()
    lower = torch.diag_embed(scale) + (prior.lower.tril(-1) if covariance == "full" else 0)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), MultivariateNormal(prior.means, scale_tril=lower))
    z = 2 * torch.randn(6, 5, 3).double()
    # the bounds on the variances are smooth: near the middle they are the identity to 1e-5
    torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior().mean, expected.mean)
    torch.testing.assert_close(prior().variance, expected.variance, rtol=1e-4, atol=1e-4)
    drawn = prior().sample((40_000,))
    deviations = (drawn.mean(0) - expected.mean) / (expected.variance / 40_000).sqrt()
    assert (deviations.abs() < 5).all()
    centred = drawn - drawn.mean(0)
    second = centred.T @ centred / 40_000
    means = prior.means - expected.mean
    weights = prior.logits.softmax(-1)
    exact = torch.einsum("k,kij->ij", weights, lower @ lower.mT + means.unsqueeze(-1) * means.unsqueeze(-2))
    assert ((second - exact).abs() < 0.05 * exact.diagonal().max()).all()


def test_narrow_components_lose_nothing_in_float32() -> None:
    prior = GaussianMixture(8, 3)
    with torch.no_grad():
        prior.log_variances.fill_(-9.0)
        prior.means.mul_(3.0)
    z = prior.means.detach()[:1] + 0.01 * torch.randn(50, 8)
    exact = copy.deepcopy(prior).double()().log_prob(z.double())
    assert (prior().log_prob(z).double() - exact).abs().max() < 2e-5 * exact.abs().max()


def test_temperature_narrows_every_component_and_leaves_its_place() -> None:
    prior = GaussianMixture(2, 1)
    drawn = tempered(prior(), 0.25).sample((20_000,))
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.25), rtol=0.03, atol=0)
    assert torch.equal(tempered(prior(), 0.0).sample((3,)), prior.means.detach().expand(3, 2))


# ClassConditionalMixture


def by_enumeration(prior: ClassConditionalMixture, z: Tensor, label: int) -> float:
    """log p(z | y), or with label -1 log p(z), in plain numbers."""
    shares = prior.log_frequencies.exp().tolist()
    total = 0.0
    for number, share in enumerate(shares):
        if label in (number, -1):
            weights = prior.logits[number].softmax(-1).tolist()
            for k, weight in enumerate(weights):
                variance = prior.log_variances[number, k].exp()
                normal = Independent(Normal(prior.means[number, k], variance.sqrt()), 1)
                total += (share if label < 0 else 1.0) * weight * normal.log_prob(z).exp().item()
    return math.log(total)


def test_a_class_is_its_own_mixture_and_a_missing_label_the_mixture_of_all() -> None:
    prior = stirred(ClassConditionalMixture(3, LATENT, 2, (0.2, 0.5, 0.3))).double()
    labels, z = torch.tensor([0, 2, -1, 1]), torch.randn(3, 4, LATENT).double()
    found = prior(labels).log_prob(z).detach()
    for sample in range(3):
        for row, label in enumerate(labels.tolist()):
            exact = by_enumeration(prior, z[sample, row], label)
            assert float(found[sample, row]) == pytest.approx(exact, abs=2e-4)  # the smooth bounds on variances
    drawn = prior(torch.full((20_000,), 2)).sample()
    weights = prior.logits[2].softmax(-1)
    torch.testing.assert_close(drawn.mean(0), weights @ prior.means[2].detach(), rtol=0.05, atol=0.05)


def test_the_bound_of_a_class_is_that_of_its_label() -> None:
    """All classes share draws; the mixture must say the same of each as when asked for it alone."""
    prior = ClassConditionalMixture(3, LATENT, 2, (0.2, 0.5, 0.3))
    model, x = stirred(vae(prior)), torch.randn(4, DIMS).double()
    together = class_bounds(model, x, samples=7)
    alone = [importance_bound(model, x, torch.full((4,), label), samples=7) for label in range(3)]
    torch.testing.assert_close(together, torch.stack(alone, -1))
    assert (together.std(-1) > 0).all()


# VampPrior


def test_the_vamp_prior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs() -> None:
    model, z = vae(VampPrior(LATENT, (DIMS,), 3)), torch.randn(6, 4, LATENT).double()
    parts = [model.posterior(pseudo).log_prob(z).exp() for pseudo in model.prior.pseudo_inputs]
    torch.testing.assert_close(model.prior().log_prob(z), (sum(parts) / 3).log())
    drawn = model.prior().sample((40_000,))
    centres = torch.stack([model.posterior(pseudo).mean for pseudo in model.prior.pseudo_inputs])
    error = drawn.std(0) / 40_000**0.5
    assert ((drawn.mean(0) - centres.mean(0)).abs() < 5 * error).all()


def test_the_vamp_prior_shares_the_posterior_and_does_not_own_it() -> None:
    model = vae(VampPrior(LATENT, (DIMS,), 3))
    assert [name for name in model.state_dict() if name.startswith("prior")] == ["prior.pseudo_inputs"]
    assert len(list(model.prior.parameters())) == 1
    model.prior().log_prob(torch.randn(4, LATENT).double()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.posterior.parameters())
    twin = copy.deepcopy(model)
    stirred(twin)
    z = torch.randn(4, LATENT).double()
    before = twin.prior().log_prob(z)
    stirred(model)
    assert torch.equal(twin.prior().log_prob(z), before)
    again = from_spec(json.loads(json.dumps(to_spec(model))), "model").double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.prior().log_prob(z), model.prior().log_prob(z))


def test_a_model_that_borrows_the_prior_does_not_change_it() -> None:
    model, z = vae(VampPrior(LATENT, (DIMS,), 3)), torch.randn(4, LATENT).double()
    before = model.prior().log_prob(z)
    other = VAE(model.prior, stirred(encoder().double()), model.decoder, model.likelihood)
    assert torch.equal(other.prior().log_prob(z), before)


def test_pseudo_inputs_start_from_examples() -> None:
    prior = VampPrior(LATENT, (DIMS,), 3)
    prior.start_from(rows := torch.randn(7, DIMS))
    assert torch.equal(prior.pseudo_inputs, rows[:3])


# Exemplar


def exemplars(count: int = 6, **more) -> tuple[VAE, Tensor]:
    model, rows = vae(Exemplar(LATENT, (DIMS,), count, **more)), torch.randn(count, DIMS)
    model.prior.start_from(rows)
    return model, rows.double()


def around(model: VAE, z: Tensor, rows: Tensor) -> Tensor:
    """log 1/n sum_n N(z; mu(x_n), s^2 I), by the formula."""
    scale = (0.5 * model.prior.log_variance).exp()
    parts = [Independent(Normal(model.posterior(row).mean, scale), 1).log_prob(z).exp() for row in rows]
    return (sum(parts) / len(rows)).log()


def test_the_exemplar_prior_is_the_mixture_around_the_posterior_means() -> None:
    model, rows = exemplars()
    model.eval().prior.log_variance.data.fill_(-0.7)
    z = torch.randn(3, 4, LATENT).double()
    torch.testing.assert_close(model.prior().log_prob(z), around(model, z, rows), rtol=1e-4, atol=1e-4)


def test_in_training_an_example_is_left_out_of_its_own_prior() -> None:
    model, rows = exemplars(subset=6)
    z = torch.randn(3, 4, LATENT).double()
    x = torch.cat([rows[[2, 0, 5]], torch.randn(1, DIMS).double()])
    level = model.infer(x).levels(z)[0]
    found = level.prior.log_prob(level.z)
    for row, own in enumerate((2, 0, 5)):
        others = rows[[number for number in range(6) if number != own]]
        torch.testing.assert_close(found[:, row], around(model, z[:, row], others), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 3], around(model, z[:, 3], rows), rtol=1e-4, atol=1e-4)
    measured = model.eval().infer(x).levels(z)[0]
    torch.testing.assert_close(measured.prior.log_prob(z)[:, 0], around(model, z[:, 0], rows), rtol=1e-4, atol=1e-4)


def test_what_lies_within_the_radius_counts_as_itself() -> None:
    model, rows = exemplars(radius=0.5)
    x = rows[[1]] + 0.1
    kept = model.prior.without(x, model.posterior(x)).log_weights[0]
    assert kept.isinf().sum() == 1
    far = rows[[1]] + 5.0
    assert model.prior.without(far, model.posterior(far)).log_weights.isfinite().all()


def test_a_training_step_sees_a_random_subset_without_bias() -> None:
    """The mean of p(z) over subsets is p(z)."""
    model, rows = exemplars(6, subset=2)
    z = torch.randn(LATENT).double()
    found = torch.stack([model.prior().log_prob(z).exp() for _ in range(700)]).detach()
    exact = around(model, z, rows).exp().item()
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / 700**0.5 + 1e-4 * exact
    assert found.std() > 0


@pytest.mark.parametrize(("size", "count"), [(7, 2), (100, 1), (101, 5), (950, 7), (3, 3)])
def test_the_least_of_many_are_found_in_blocks(size: int, count: int) -> None:
    values = torch.randn(20, size)
    found, expected = least(values, count), values.topk(count, largest=False).indices
    assert torch.equal(found.sort().values, expected.sort().values)


def remembering(count: int, **more) -> tuple[VAE, Tensor]:
    model, rows = exemplars(count, **more)
    for _ in range(TURNS):
        model.accept_step()
    return model, rows


def test_in_training_a_batch_sees_the_exemplars_nearest_to_its_codes_with_the_weights_of_all() -> None:
    model, rows = remembering(9, nearest=2)
    x = torch.cat([rows[[4]], torch.randn(2, DIMS).double()])
    codes, own = model.posterior(rows).mean, model.posterior(x).mean
    chosen = set(torch.cdist(own, codes).argsort(-1)[:, :2].flatten().tolist())
    assert 4 in chosen
    assert len(chosen) < 6  # one is chosen twice
    z = torch.randn(3, 3, LATENT).double()
    level = model.infer(x).levels(z)[0]
    found = level.prior.log_prob(z)
    for row in range(3):
        seen = sorted(chosen - {4}) if row == 0 else sorted(chosen)
        weight = math.log(len(seen) / 9)
        torch.testing.assert_close(
            found[:, row], weight + around(model, z[:, row], rows[seen]), rtol=1e-4, atol=1e-4, msg=str(row)
        )
    assert (found[:, 1:] < model.eval().prior().log_prob(z)[:, 1:]).all()


def test_nearest_exemplars_teach_the_encoder() -> None:
    """A term that is chosen carries the gradient of its own mean."""
    model, rows = remembering(6, nearest=6)
    z = torch.randn(1, 1, LATENT).double()
    x = torch.randn(1, DIMS).double()
    first = next(model.posterior.parameters())
    (found,) = torch.autograd.grad(model.prior.without(x, model.posterior(x)).log_prob(z).sum(), first)
    (expected,) = torch.autograd.grad(around(model, z[:, 0], rows).sum(), first)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_code_is_computed_anew_within_a_hundred_steps() -> None:
    model, rows = exemplars(250, nearest=2)
    codes = model.posterior(rows).mean.detach()
    model.accept_step()
    right = torch.isclose(model.prior.codes, codes).all(-1)
    assert torch.equal(right, torch.arange(250) < 3)
    for _ in range(TURNS - 1):
        model.accept_step()
    torch.testing.assert_close(model.prior.codes, codes)


def test_what_an_example_may_have_been_drawn_from_is_left_out() -> None:
    probabilities = torch.tensor([[0.0, 1.0, 0.5, 0.5, 0.0], [0.0, 1.0, 0.0, 0.5, 0.0], [0.3, 0.3, 0.3, 0.3, 0.3]])
    model = vae(Exemplar(LATENT, (DIMS,), 3, nearest=3, drawn=True))
    model.prior.start_from(probabilities)
    x = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).double()
    found = model.prior.without(x, model.posterior(x)).log_weights.isinf()[:, ::3]  # each example chose all three
    assert found.tolist() == [[True, False, True], [False, False, True], [False, False, True]]


def test_exemplars_of_drawn_data_are_probabilities() -> None:
    images = np.full((30, 1, 2, 2), 51, np.uint8)
    dataset = Dataset("grey", images, None, {"train": np.arange(30), "validation": np.arange(0), "test": np.arange(0)})
    preprocessing = Binarise((1, 2, 2), "dynamic")
    for drawn, values in ((True, {0.2}), (False, {0.0, 1.0})):
        prior = Exemplar(LATENT, (1, 2, 2), 20, drawn=drawn)
        start_parts(prior, preprocessing, dataset, seed=0)
        assert {round(value, 6) for value in prior.rows.flatten().tolist()} == values


def test_a_stored_model_contains_its_exemplars() -> None:
    model, _ = exemplars()
    again = from_spec(to_spec(model), "model").double()
    again.load_state_dict(model.state_dict())
    z = torch.randn(4, LATENT).double()
    assert torch.equal(again.eval().prior().log_prob(z), model.eval().prior().log_prob(z))


# Flow


def gentle(flow: Flow) -> Flow:
    """With tails that end inside of what is integrated over."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0.5)
    return flow.double()


@pytest.mark.parametrize("kind", ["coupling", "autoregressive", "spline"])
def test_a_flow_is_a_density_that_matches_its_draws(kind: str) -> None:
    flow = gentle(Flow(2, kind, 2, (8,)))()
    end, cells = (8.0 if kind == "spline" else 16.0), 400  # a spline is the identity beyond 5
    masses = cell_masses(flow.log_prob, 2, -end, end, cells)
    # at the knots of a spline lies a kink, where the midpoint rule is of second order
    assert abs(float(masses.sum()) - 1) < (1e-4 if kind == "spline" else 1e-6)
    drawn = flow.sample((40_000,)).detach()
    centres = -end + 2 * end / cells * (torch.arange(cells).double() + 0.5)
    for axis in range(2):
        marginal = masses.sum(1 - axis)
        for power in (1, 2):
            expected = float(marginal @ centres**power)
            found = drawn[:, axis] ** power
            assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / 200 + 1e-3


@pytest.mark.parametrize("kind", ["coupling", "autoregressive", "spline"])
def test_a_flow_changes_volumes_by_its_jacobian(kind: str) -> None:
    flow = Flow(3, kind, 3, (8,)).double()()
    noise = torch.randn(3).double()
    z, known = flow.carried(noise)
    jacobian = torch.autograd.functional.jacobian(lambda u: flow.there(u)[0], noise)
    expected = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian)[1]
    for found in (known.log_prob(z), flow.log_prob(z.clone())):
        torch.testing.assert_close(found, expected.expand_as(found))


def test_a_cold_flow_draws_near_its_centre() -> None:
    flow = Flow(2, "coupling", 2, (8,))()
    assert torch.equal(tempered(flow, 0.0).sample(), flow.mean.detach())


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.delitem(sys.modules, "zuko.flows", raising=False)
    with pytest.raises(UserError, match=r"needs zuko.*pip install 'sfumato\[flows\]'"):
        Flow(2)


# UniformSphere


@pytest.mark.parametrize("dims", [2, 3, 4])
def test_the_density_of_the_sphere_is_one_over_its_area(dims: int) -> None:
    area = {2: 2 * math.pi, 3: 4 * math.pi, 4: 2 * math.pi**2}[dims]
    sphere = UniformSphere(dims).double()()
    drawn = sphere.sample((40_000,))
    torch.testing.assert_close(sphere.log_prob(drawn).exp(), torch.full((40_000,), 1 / area).double())
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(40_000).double())
    second = drawn.T @ drawn / 40_000
    assert ((second - torch.eye(dims) / dims).abs() < 5 / 200 / dims).all()


def test_a_sphere_and_a_plane_do_not_go_together() -> None:
    with pytest.raises(UserError, match="over the same z"):
        vae(UniformSphere(LATENT))


# all that are learned


@pytest.mark.parametrize(
    "build",
    [
        lambda: GaussianMixture(LATENT, 3),
        lambda: GaussianMixture(LATENT, 3, "full"),
        lambda: Flow(LATENT, "spline", 2, (8,)),
        lambda: VampPrior(LATENT, (DIMS,), 3),
        lambda: StandardNormal(LATENT),
    ],
)
def test_the_sampled_kl_agrees_with_quadrature(build) -> None:
    """KL(q || p) by the midpoint rule over z, against what the ELBO's samples give."""
    model, x = vae(build()), torch.randn(1, DIMS).double()
    q, p = model.posterior(x[0]), model.prior()
    masses = cell_masses(q.log_prob, 2, -20.0, 20.0, 400).flatten()
    centres = -20.0 + 0.1 * (torch.arange(400).double() + 0.5)
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)
    expected = (masses * (q.log_prob(grid) - p.log_prob(grid))).sum().item()
    with torch.no_grad():
        terms = model.terms(x, samples=20_000)
        found = terms.log_posterior - terms.log_prior
        kl = float(ELBO(kl="sampled")(terms, 0).values["kl"])
    assert abs(kl - expected) < 5 * float(found.std()) / 20_000**0.5 + 1e-5
