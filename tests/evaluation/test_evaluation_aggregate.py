"""The decomposition of the rate, against quadrature of the mixture itself and against closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from exact_models import LATENT, MEANS, SCALE, WEIGHTS, data, linear_vae
from scipy import integrate, stats
from torch.distributions import Independent, Normal

from sfumato.core.errors import UserError
from sfumato.data import Identity, InMemory
from sfumato.distributions import LabelledMixture
from sfumato.evaluation.aggregate import aggregate_posterior, find_aggregate, log_mixture_of_others
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import Dirac
from sfumato.priors import StandardNormal


def standard(dims):
    return Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)


def some_posteriors(n, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, dims, generator=generator).double()
    return mean, -2 * torch.rand(n, dims, generator=generator).double()


def grid_entropies(mean, log_variance, half=9.0, nodes=1_200):
    """Return (H[q(z)], H[q(z_1)], H[q(z_2)]) of a mixture in the plane by the trapezoidal rule, in numpy alone."""
    axis = np.linspace(-half, half, nodes)
    mu, sigma = mean.numpy(), np.exp(0.5 * log_variance.numpy())
    columns = [stats.norm.pdf(axis[:, None], mu[:, d], sigma[:, d]) for d in range(2)]
    joint = columns[0] @ columns[1].T / len(mu)
    step = axis[1] - axis[0]
    entropy = [-(p * np.log(np.maximum(p, 1e-300))).sum() for p in (joint, *(c.mean(1) for c in columns))]
    return entropy[0] * step**2, entropy[1] * step, entropy[2] * step


def close(found, expected, sigmas=4.0):
    assert found.standard_error < 0.02
    assert abs(found.value - expected) < sigmas * found.standard_error + 1e-9, (found, expected)


def test_every_term_against_quadrature_in_the_plane():
    mean, log_variance = some_posteriors(12, 2)
    mean[:, 1] += 0.8 * mean[:, 0]  # correlated codes
    joint, first, second = grid_entropies(mean, log_variance)
    own = 0.5 * (1 + math.log(2 * math.pi) + log_variance)  # entropies of the posteriors
    cross = 0.5 * (math.log(2 * math.pi) + mean.square() + log_variance.exp()).mean(0)  # -E log p(z_d)
    found = aggregate_posterior(mean, log_variance, standard(2), samples=40_000)
    close_to = {
        "mutual_information": joint - float(own.sum(1).mean()),
        "marginal_kl": float(cross.sum()) - joint,
        "total_correlation": first + second - joint,
        "dimension_wise_kl": float(cross.sum()) - first - second,
    }
    # All 12 examples are drawn for, so the truth for these posteriors is met up to the noise of z alone.
    for name, expected in close_to.items():
        assert getattr(found, name).value == pytest.approx(expected, abs=0.006), name
    for number, entropy in enumerate((first, second)):
        kl, information = found.kl_by_dimension[number], found.information_by_dimension[number]
        assert kl.value == pytest.approx(float(cross[number]) - entropy, abs=0.006)
        assert information.value == pytest.approx(entropy - float(own[:, number].mean()), abs=0.006)
    assert found.total_correlation.value > 0.1
    exact = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()
    assert found.rate.value == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_parts_add_up_exactly(samples):
    mean, log_variance = some_posteriors(60, 3)
    found = aggregate_posterior(mean, log_variance, standard(3), points=20, samples=samples)
    assert found.mutual_information.value + found.marginal_kl.value == pytest.approx(found.rate.value, abs=1e-10)
    parts = found.total_correlation.value + found.dimension_wise_kl.value
    assert parts == pytest.approx(found.marginal_kl.value, abs=1e-10)
    assert sum(kl.value for kl in found.kl_by_dimension) == pytest.approx(found.dimension_wise_kl.value, abs=1e-10)
    assert found.rate.n == 20


def test_the_mixture_against_torch_and_in_any_block():
    mean, log_variance = some_posteriors(50, 3)
    z = torch.randn(600, 3).double()
    own = torch.arange(600) % 50
    matrix = Normal(mean, (0.5 * log_variance).exp()).log_prob(z.unsqueeze(1))
    matrix[torch.arange(600), own] = -math.inf
    for block in (None, 1, 700, 5_000):
        joint, by_dim = log_mixture_of_others(z, own, mean, log_variance, block)
        torch.testing.assert_close(joint, matrix.sum(-1).logsumexp(-1), atol=1e-10, rtol=0)
        torch.testing.assert_close(by_dim, matrix.logsumexp(1), atol=1e-10, rtol=0)


def test_narrow_posteriors_far_out_lose_no_digits():
    """sigma = 4.5e-5 at 8 is the worst that the posterior's bounds and common sense allow."""
    mean = torch.tensor([[8.0], [8.0 + 1e-4]]).double()
    log_variance = torch.full((2, 1), -20.0).double()
    z = torch.tensor([[8.0 + 3e-5]]).double()
    joint, _ = log_mixture_of_others(z, torch.tensor([0]), mean, log_variance)
    expected = stats.norm.logpdf(float(z), float(mean[1]), math.exp(-10))
    assert float(joint) == pytest.approx(expected, abs=1e-5)


def test_posteriors_that_do_not_overlap_reach_the_cap_and_equal_ones_know_nothing():
    mean = 1e3 * torch.arange(40.0).unsqueeze(-1)
    found = aggregate_posterior(mean, torch.zeros(40, 1), standard(1))
    assert found.mutual_information.value == pytest.approx(math.log(40), abs=1e-12)
    assert found.cap == math.log(40)
    assert found.near_cap
    assert found.mutual_information_above.value > 1e4
    same = aggregate_posterior(torch.ones(40, 1), torch.zeros(40, 1), standard(1), samples=2_000)
    assert same.mutual_information.value == pytest.approx(0, abs=1e-12)
    assert same.mutual_information_above.value == pytest.approx(0, abs=1e-12)
    assert same.marginal_kl.value == pytest.approx(0.5, abs=1e-12)
    assert not same.near_cap


def test_total_correlation_vanishes_for_codes_on_a_product_grid_and_not_for_codes_on_a_diagonal():
    places = torch.tensor([-2.0, 0.0, 2.0])
    grid = torch.cartesian_prod(places, places)
    independent = aggregate_posterior(grid, torch.full((9, 2), -2.0), standard(2), samples=3_000)
    assert independent.total_correlation.value == pytest.approx(0, abs=1e-12)
    diagonal = torch.stack([places, places], -1)
    tied = aggregate_posterior(diagonal, torch.full((3, 2), -6.0), standard(2), samples=3_000)
    assert tied.total_correlation.value == pytest.approx(math.log(3), abs=1e-3)  # I_1 + I_2 - I = 2 log 3 - log 3


def test_the_two_bounds_enclose_the_information_of_a_gaussian_channel():
    """z = mu + sigma e with mu ~ N(0, 1 - sigma^2): q(z) = p(z) and I = -log sigma for the population."""
    sigma, n = 0.3, 60
    generator = torch.Generator().manual_seed(1)
    lower, upper = [], []
    for seed in range(40):
        mean = math.sqrt(1 - sigma**2) * torch.randn(n, 2, generator=generator).double()
        found = aggregate_posterior(mean, torch.full_like(mean, 2 * math.log(sigma)), standard(2), seed=seed)
        lower.append(found.mutual_information.value)
        upper.append(found.mutual_information_above.value)
    truth = -2 * math.log(sigma)
    assert np.mean(lower) + 3 * stats.sem(lower) < truth < np.mean(upper) - 3 * stats.sem(upper)
    assert truth - np.mean(lower) < 0.3
    assert np.mean(upper) - truth < 1.0
    assert np.mean(lower) < math.log(n)


def test_standard_errors_are_those_of_repetition():
    """The spread over data sets of one channel, against the error that one of them reports."""
    runs = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        mean = 0.9 * torch.randn(2_000, 1, generator=generator).double()
        log_variance = torch.full_like(mean, math.log(0.19))
        runs.append(aggregate_posterior(mean, log_variance, standard(1), points=200, seed=seed))
    for name in ("rate", "mutual_information", "marginal_kl"):
        values = [getattr(run, name).value for run in runs]
        reported = np.mean([getattr(run, name).standard_error for run in runs])
        assert np.std(values, ddof=1) == pytest.approx(reported, rel=0.3), name


def test_moments_of_the_mixture():
    mean, log_variance = some_posteriors(500, 2)
    mean[:, 1] = 3 * mean[:, 1] + 1
    found = aggregate_posterior(mean, log_variance, standard(2), points=10).moments
    z = (mean + (0.5 * log_variance).exp() * torch.randn(4_000, 500, 2).double()).flatten(0, 1)
    for number, moments in enumerate(found):
        assert moments.mean.value == pytest.approx(float(z[:, number].mean()), abs=0.01)
        assert moments.variance.value == pytest.approx(float(z[:, number].var()), rel=0.01)
        assert (moments.prior_mean, moments.prior_variance) == (0, 1)
        assert moments.mean.standard_error == pytest.approx(stats.sem(mean[:, number]))


def test_against_the_mixture_prior_of_a_class_conditional_model():
    """KL(q(z) || p(z)) by quadrature, with the prior a mixture over classes."""
    means, weights = torch.tensor([[-2.0], [1.0]]).double(), torch.tensor([0.3, 0.7]).double()
    mean, log_variance = torch.tensor([[-1.5], [0.5], [2.0]]).double(), torch.tensor([[-1.0], [-2.0], [0.0]]).double()

    scales = (0.5 * log_variance).exp().flatten().numpy()

    def q(z):
        return stats.norm.pdf(z, mean.flatten().numpy(), scales).mean()

    def p(z):
        return (weights.numpy() * stats.norm.pdf(z, means.flatten().numpy())).sum()

    expected, _ = integrate.quad(lambda z: q(z) * math.log(q(z) / p(z)), -9, 9)
    prior = LabelledMixture(means, weights.log())
    found = aggregate_posterior(mean, log_variance, prior, samples=200_000)
    assert found.marginal_kl.value == pytest.approx(expected, abs=0.006)
    assert found.dimension_wise_kl is None
    assert "LabelledMixture" in found.absent["dimension_wise_kl"]
    moments = found.moments[0]
    assert moments.prior_mean == pytest.approx(0.1)
    assert moments.prior_variance == pytest.approx(1 + 0.3 * 2.1**2 + 0.7 * 0.9**2)


def test_a_model_that_is_right_has_the_prior_as_its_aggregate():
    """Data of the model itself and its exact posterior: q(z) tends to p(z), and the rate is all information."""
    model = linear_vae()
    x = model.sample(3_000, draw=True, generator=0).float()
    found = find_aggregate(model.float(), InMemory(x), Identity((4,)), points=800)
    assert found.n == 3_000
    assert abs(found.marginal_kl.value) < 0.06
    loading = np.array([[1.0, 1.0, 0.5, 0.0], [1.0, -1.0, 0.0, 0.5]])
    truth = 0.5 * np.log1p((loading**2).sum(1) / SCALE**2).sum()  # log det of the channel, diagonal here
    assert found.mutual_information.value - 4 * found.mutual_information.standard_error < truth
    assert truth < found.mutual_information_above.value + 4 * found.mutual_information_above.standard_error
    for moments in found.moments:
        assert abs(moments.mean.value) < 4 * moments.mean.standard_error
        assert abs(moments.variance.value - 1) < 4 * moments.variance.standard_error
    assert len(found.moments) == LATENT
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_shifted_encoder_shows_as_distance_from_the_prior_and_not_as_information():
    model = linear_vae()
    x = model.sample(500, draw=True, generator=0).float()
    right = find_aggregate(model.float(), InMemory(x), Identity((4,)), points=200)
    model.posterior.mean.layers[-1].bias.data += 1.0
    shifted = find_aggregate(model, InMemory(x), Identity((4,)), points=200)
    assert shifted.mutual_information.value == pytest.approx(right.mutual_information.value, abs=1e-3)
    gain = shifted.marginal_kl.value - right.marginal_kl.value
    assert gain == pytest.approx(LATENT * 0.5, abs=0.25)
    assert all(moments.mean.value > 0.8 for moments in shifted.moments)


def test_classes_use_the_mixture_and_the_seed_repeats():
    model = linear_vae(classes="prior").float()
    x, y = data(300).float(), torch.arange(300) % 3
    found = find_aggregate(model, InMemory(x, y), Identity((4,)), points=50, seed=3)
    assert found.kl_by_dimension is None
    centre = torch.tensor(WEIGHTS).double() @ MEANS
    assert [moments.prior_mean for moments in found.moments] == pytest.approx(centre.tolist(), abs=1e-6)
    again = find_aggregate(model, InMemory(x, y), Identity((4,)), points=50, seed=3, block=1_000)
    assert again.rate == found.rate
    assert again.mutual_information.value == pytest.approx(found.mutual_information.value, abs=1e-12)
    assert find_aggregate(model, InMemory(x, y), Identity((4,)), points=50, seed=4).rate != found.rate


def test_what_is_refused():
    point = VAE(StandardNormal(1), Dirac(MLP((2,), (1,))), MLP((1,), (1, 2)), Gaussian((2,)))
    with pytest.raises(UserError, match="needs Gaussian posteriors; got Dirac"):
        find_aggregate(point, InMemory(torch.randn(5, 2)), Identity((2,)))
    with pytest.raises(UserError, match="2 posteriors or more"):
        aggregate_posterior(torch.zeros(1, 1), torch.zeros(1, 1), standard(1))
