"""The likelihoods against other libraries, enumeration and quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from contract import numbers

from sfumato import distributions
from sfumato.core.errors import UserError
from sfumato.likelihoods import Gaussian as Normal
from sfumato.likelihoods import (
    Laplace,
    Mixed,
    MixtureOfLogistics,
    NegativeBinomial,
    Ordinal,
    Perceptual,
    Poisson,
    StudentT,
    ZeroInflated,
)
from sfumato.networks import MLP, WithLabel

COUNTS = np.array([0.0, 1.0, 2.0, 7.0, 150.0, 20_000.0])


def close(found: torch.Tensor, expected, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(expected).double(), rtol=tolerance, atol=tolerance)


# Counts


@pytest.mark.parametrize("mean", [1e-3, 0.7, 40.0, 19_000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_is_scipys_and_float32_loses_nothing_that_its_arguments_did_not(mean: float, dtype) -> None:
    log_mean = torch.tensor(np.log(mean), dtype=dtype)
    found = distributions.Poisson(log_mean.expand(len(COUNTS))).log_prob(torch.tensor(COUNTS, dtype=dtype))
    assert found.dtype == dtype
    close(
        found,
        scipy.stats.poisson(float(log_mean.double().exp())).logpmf(COUNTS),
        1e-6 if dtype is torch.float32 else 1e-9,
    )


@pytest.mark.parametrize("mean", [1e-3, 0.7, 40.0, 19_000.0])
@pytest.mark.parametrize("r", [0.01, 0.9, 30.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_negative_binomial_is_scipys(mean: float, r: float, dtype) -> None:
    log_mean, log_r = (torch.tensor(np.log(value), dtype=dtype) for value in (mean, r))
    found = distributions.NegativeBinomial(log_mean.expand(len(COUNTS)), log_r).log_prob(
        torch.tensor(COUNTS, dtype=dtype)
    )
    m, size = float(log_mean.double().exp()), float(log_r.double().exp())
    expected = scipy.stats.nbinom(size, size / (size + m)).logpmf(COUNTS)
    close(found, expected, 1e-6 if dtype is torch.float32 else 1e-7)


def test_the_mean_and_the_variance_of_a_negative_binomial_are_what_they_are_called() -> None:
    likelihood = NegativeBinomial((2,), means=(3.0, 0.5)).double()
    torch.nn.init.constant_(likelihood.log_r_scaled, float(np.log(2.0)) / 10)
    observation = likelihood.requires_grad_(False)(torch.zeros(1, 2, dtype=torch.float64))
    x = torch.arange(400.0, dtype=torch.float64)
    masses = observation.log_prob(torch.cartesian_prod(x, x)).exp().reshape(400, 400)
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)
    for axis, mean in enumerate((3.0, 0.5)):
        own = masses.sum(1 - axis)
        assert float(own @ x) == pytest.approx(mean, rel=1e-6)
        assert float(own @ x.square()) - mean**2 == pytest.approx(mean + mean**2 / 2, rel=1e-5)
    close(observation.mean, [3.0, 0.5], 1e-6)


@pytest.mark.parametrize("inner", [Poisson((1,), means=(2.0,)), NegativeBinomial((1,), means=(2.0,))])
def test_zero_inflation_moves_mass_to_zero(inner) -> None:
    inner = inner.double().requires_grad_(False)
    observation = ZeroInflated(inner)(torch.tensor([[0.0], [np.log(0.25 / 0.75) + 4]], dtype=torch.float64))
    x = torch.arange(300.0, dtype=torch.float64).unsqueeze(-1)
    plain = inner(torch.zeros(1, 1, dtype=torch.float64)).log_prob(x).exp()
    found = observation.log_prob(x).exp()
    close(found[1:], 0.75 * plain[1:], 1e-9)
    close(found[0], 0.25 + 0.75 * plain[0], 1e-9)
    assert float(found.sum()) == pytest.approx(1, abs=1e-9)
    assert float(found @ x.squeeze(-1)) == pytest.approx(float(observation.mean), rel=1e-6)


@pytest.mark.parametrize(
    "build",
    [lambda **more: Poisson((3,), **more), lambda **more: NegativeBinomial((3,), **more)],
    ids=["poisson", "nb"],
)
def test_an_observed_library_scores_shares_and_sums_to_at_most_one_given_the_total(build) -> None:
    likelihood = build(library="observed", means=(1.0, 2.0, 5.0)).double().requires_grad_(False)
    numbers_of = numbers(1, 3, seed=3)
    observation = likelihood(numbers_of)
    total = 9
    rows = torch.tensor([row for row in itertools.product(range(total + 1), repeat=3) if sum(row) == total])
    rows = rows.double()
    shares = (numbers_of[0] + torch.tensor([1.0, 2.0, 5.0]).double().log()).softmax(-1)
    base = build().double().requires_grad_(False)
    by_hand = base((shares * total).log().unsqueeze(0)).log_prob(rows)
    close(observation.log_prob(rows), by_hand, 1e-6)
    assert 0 < float(observation.log_prob(rows).exp().sum()) < 1
    assert float(observation.mean.sum()) == pytest.approx(8)


def test_counts_refuse_means_of_another_size() -> None:
    with pytest.raises(UserError, match="one mean for each of 3 values; got 2"):
        Poisson((3,), means=(1.0, 2.0))
    with pytest.raises(UserError, match="ZeroInflated needs a likelihood of counts; got Laplace"):
        ZeroInflated(Laplace((3,)))


# Real values


@pytest.mark.parametrize("eta", [-300.0, -20.0, -0.11, -0.09, 0.0, 1e-3, 0.0999, 0.1001, 3.0, 40.0])
def test_the_continuous_bernoulli_is_normalised_for_every_eta(eta: float) -> None:
    whole = distributions.ContinuousBernoulli(torch.tensor(eta, dtype=torch.float64))

    def density(x: float) -> float:
        return float(whole.log_prob(torch.tensor(x, dtype=torch.float64)).exp())

    edges = [0, *([1 / abs(eta), 10 / abs(eta)] if abs(eta) > 20 else []), 1]
    edges = edges if eta < 0 else [1 - edge for edge in edges[::-1]]
    parts = [scipy.integrate.quad(density, a, b, epsabs=1e-13) for a, b in itertools.pairwise(edges)]
    assert sum(part for part, _ in parts) == pytest.approx(1, abs=1e-8)
    moments = [
        scipy.integrate.quad(lambda x: x * density(x), a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges)
    ]
    assert float(whole.mean) == pytest.approx(sum(moments), abs=1e-7)
    if abs(eta) in (3.0, 0.11):  # torch's, where its clamped probabilities are right
        x = torch.linspace(0, 1, 7, dtype=torch.float64)
        theirs = torch.distributions.ContinuousBernoulli(logits=torch.tensor(eta, dtype=torch.float64)).log_prob(x)
        close(whole.log_prob(x), theirs, 1e-7)
    draws = whole.sample((20_000,))
    assert abs(float(draws.mean() - whole.mean)) < 5 * float(draws.std()) / 20_000**0.5


def test_laplace_and_student_t_are_scipys() -> None:
    x = numbers(5, 2, seed=2)
    location = numbers(5, 1, 2)
    laplace = Laplace((2,), start=0.7).double().requires_grad_(False)
    scale = float(laplace(location).base_dist.scale[0, 0])
    assert scale == pytest.approx(0.7, rel=2e-3)  # the soft bound
    expected = scipy.stats.laplace(location[:, 0].numpy(), scale).logpdf(x.numpy()).sum(-1)
    close(laplace(location).log_prob(x), expected, 1e-9)
    student = StudentT((2,), start=0.7, degrees=3.0).double().requires_grad_(False)
    base = student(location).base_dist
    degrees, scale = float(base.df[0, 0]), float(base.scale[0, 0])
    assert degrees == pytest.approx(3.0, rel=0.01)
    expected = scipy.stats.t(degrees, location[:, 0].numpy(), scale).logpdf(x.numpy()).sum(-1)
    close(student(location).log_prob(x), expected, 1e-9)


# Levels


def test_ordinal_masses_are_differences_of_the_cumulative_ones() -> None:
    likelihood = Ordinal((1,), levels=5).double().requires_grad_(False)
    torch.nn.init.constant_(likelihood.first, -1.3)
    with torch.no_grad():
        likelihood.log_steps.copy_(torch.tensor([[-2.0, 0.3, 1.0]]))
    eta = 0.4
    observation = likelihood(torch.full((1, 1), eta, dtype=torch.float64))
    c = observation.base_dist.thresholds[0].detach().numpy()
    assert np.allclose(np.diff(c), np.exp([-2.0, 0.3, 1.0]), rtol=0.04)  # the soft bound
    below = np.concatenate([[0.0], scipy.stats.logistic(eta).cdf(c), [1.0]])
    found = observation.log_prob(torch.arange(5.0, dtype=torch.float64).unsqueeze(-1)).exp()
    close(found, np.diff(below), 1e-9)
    draws = observation.sample((20_000,))[:, 0].double()
    assert abs(float(draws.mean()) - float(observation.mean)) < 5 * float(draws.std()) / 20_000**0.5


def test_ordinal_far_away_has_finite_logarithms() -> None:
    observation = Ordinal((1,), levels=4)(torch.tensor([[[300.0]], [[-300.0]]]))
    found = observation.log_prob(torch.tensor([[0.0], [3.0]]))
    close(found, [-301.1, -301.1], 1e-2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1)])
@pytest.mark.parametrize("levels", [4, 5])
def test_a_mixture_of_logistics_sums_to_one_over_all_colours(shape, levels: int) -> None:
    likelihood = MixtureOfLogistics(shape, components=3, levels=levels)
    observation = likelihood(2 * numbers(*likelihood.parameter_shape, seed=4))
    channels = shape[0]
    grid = torch.tensor(list(itertools.product(range(levels), repeat=channels)), dtype=torch.float64) / (levels - 1)
    masses = observation.log_prob(grid.reshape(-1, *shape)).exp()
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)
    draws = (observation.sample((20_000,)).reshape(-1, channels) * (levels - 1)).round()
    index = (draws @ torch.tensor([float(levels) ** power for power in reversed(range(channels))]).double()).long()
    found = torch.bincount(index, minlength=len(grid)) / 20_000
    assert ((found - masses).abs() < 5 * (masses / 20_000).sqrt() + 2e-4).all()


def test_a_mixture_of_logistics_sums_to_one_over_256_values_and_one_component_is_the_logistic() -> None:
    x = (torch.arange(256, dtype=torch.float64) / 255).reshape(-1, 1, 1, 1)
    likelihood = MixtureOfLogistics((1, 1, 1))
    observation = likelihood(numbers(*likelihood.parameter_shape, seed=4))
    assert float(observation.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-9)
    one = MixtureOfLogistics((1, 1, 1), components=1)
    parameters = numbers(4, 1, 1, 1, seed=6)
    plain = distributions.DiscretizedLogistic(parameters[1] + 0.5, one(parameters).log_scale.reshape(1, 1, 1), 256, 3)
    close(one(parameters).log_prob(x), plain.log_prob(x), 1e-9)


def test_colours_hang_on_each_other_as_in_pixelcnn() -> None:
    parameters = torch.zeros(1, 4, 1, 3, 1, 1, dtype=torch.float64)  # one component, one place
    parameters[0, 3, 0, :, 0, 0] = torch.tensor([0.8, -0.5, 0.3])
    observation = MixtureOfLogistics((3, 1, 1), components=1)(parameters.reshape(4, 3, 1, 1))
    x = torch.tensor([1.0, 0.2, 0.4], dtype=torch.float64) * 255
    x = x.round() / 255
    a, b, c = np.tanh([0.8, -0.5, 0.3])
    r, g = float(x[0]) - 0.5, float(x[1]) - 0.5
    loc = torch.tensor([0.5, 0.5 + a * r, 0.5 + b * r + c * g], dtype=torch.float64)
    log_scale = observation.log_scale.reshape(3)
    expected = distributions.DiscretizedLogistic(loc, log_scale).log_prob(x)
    close(observation.log_prob(x.reshape(3, 1, 1)), expected, 1e-7)


# A distance, and a table


def test_a_perceptual_score_has_a_gradient_through_features_that_do_not_learn() -> None:
    features = MLP((3,), (4,), hidden=(5,), activation="tanh")
    likelihood = Perceptual(features, scale=0.5)
    assert not list(likelihood.parameters())
    assert likelihood.state_dict()
    picture = numbers(2, 1, 3, dtype=torch.float32).requires_grad_()
    x = numbers(2, 3, dtype=torch.float32, seed=7)
    score = likelihood(picture).log_prob(x)
    expected = -((features(picture[:, 0]) - features(x)) / 0.5).square().sum(-1) / 2
    close(score.detach(), expected.detach(), 1e-6)
    score.sum().backward()
    assert (picture.grad != 0).all()
    with pytest.raises(UserError, match="sees labels"):
        Perceptual(WithLabel(MLP((5,), (4,)), 2))


def test_a_table_is_the_sum_of_its_columns_and_missing_cells_do_not_count() -> None:
    real, count, level = (
        Normal((2,), "per_dimension").double(),
        NegativeBinomial((1,)).double(),
        Ordinal((1,), 3).double(),
    )
    table = Mixed((real, count, level), (3, 0, 2, 1)).double()
    parameters = numbers(5, *table.parameter_shape)
    x = torch.cat([numbers(5, 1, seed=5), numbers(5, 1, seed=6).abs().round().clamp(max=2)], -1)
    x = torch.cat([x, torch.arange(5.0).double().unsqueeze(-1), numbers(5, 1, seed=8)], -1)
    first = real(parameters[:, :2].reshape(5, 1, 2)).base_dist.log_prob(x[:, [3, 0]])
    second = count(parameters[:, 2:3].reshape(5, 1, 1)).log_prob(x[:, [2]])
    third = level(parameters[:, 3:].reshape(5, 1, 1)).log_prob(x[:, [1]])
    close(table(parameters).log_prob(x), first.sum(-1) + second + third, 1e-9)
    x[0, 0] = x[1, 2] = x[2, 1] = torch.nan
    x[3] = torch.nan
    expected = first.sum(-1) + second + third
    expected[0] -= first[0, 1]
    expected[1] -= second[1]
    expected[2] -= third[2]
    expected[3] = 0
    close(table(parameters).log_prob(x), expected.detach(), 1e-9)
    with pytest.raises(UserError, match="every column once"):
        Mixed((Normal((2,), "shared"),), (0, 0))


def test_the_centre_of_a_table_is_a_mean_for_numbers_and_the_likeliest_level_of_the_mixture() -> None:
    table = Mixed((Normal((1,), "per_dimension"), Ordinal((1,), 3)), (0, 1)).double()
    parameters = torch.tensor([[[1.0, -1.0]], [[3.0, 5.0]]]).double()  # two samples of one row
    observation = table(parameters)
    levels = observation.parts[1].whole.base_dist.probs[:, 0, 0]
    mixed = 0.6 * levels[0] + 0.4 * levels[1]
    assert levels.argmax(-1).tolist() == [0, 2]
    means = [0.6 * value[0] + 0.4 * value[1] for value in table.summaries(observation)]
    close(table.centre(observation, means), [[1.8, float(mixed.argmax())]], 1e-6)
    close(table.expectation(observation), [[[1.0, 0.0]], [[3.0, 2.0]]], 1e-9)
