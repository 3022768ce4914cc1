"""Rate, distortion, calibration and predictive checks, on models and data of which the answers are known."""

import json
import math

import numpy as np
import pytest
import torch
from exact_models import DIMS, LOADING, OFFSET, PRECISION, SCALE, data, linear_vae
from scipy import stats

from sfumato.core.errors import UserError
from sfumato.data import Dataset, Identity, InMemory
from sfumato.data.preprocessing import Binarise, Levels, Standardise
from sfumato.distributions import DiscretizedLogistic
from sfumato.evaluation import evaluate
from sfumato.evaluation.checks import calibration, predictive_checks, rate_distortion, transform
from sfumato.likelihoods import Bernoulli, Categorical, Gaussian
from sfumato.likelihoods import DiscretizedLogistic as Logistic
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import StandardNormal

IDENTITY = Identity((DIMS,))


def usual(model, x, y=None, draws=1):
    """The usual evaluation of a model on x."""
    splits = dict.fromkeys(("train", "validation"), np.arange(0)) | {"test": np.arange(len(x))}
    labels = None if y is None else y.numpy()
    dataset = Dataset("toy", x.numpy(), labels, splits, ("a", "b", "c") if y is not None else ())
    return evaluate(model, Identity(tuple(x.shape[1:])), dataset, samples=None, elbo_samples=draws)


def constant_vae(likelihood, numbers):
    """A VAE whose decoder gives ``numbers`` whatever z is."""
    shape = likelihood.shape
    decoder = MLP((1,), likelihood.parameter_shape, hidden=())
    decoder.layers[-1].weight.data.zero_()
    decoder.layers[-1].bias.data.copy_(torch.as_tensor(numbers).flatten())
    return VAE(StandardNormal(1), DiagonalGaussian(MLP(shape, (1,)), MLP(shape, (1,))), decoder, likelihood)


def of_the_model(n, seed=0):
    return InMemory(linear_vae().sample(n, draw=True, generator=seed).float())


def near(estimate, value, sigmas=4.0):
    assert abs(estimate.value - value) <= sigmas * estimate.standard_error, (estimate, value)


def test_rate_and_distortion_of_a_linear_model_in_closed_form():
    model, x = linear_vae(spread=1.4), data(40)
    with torch.no_grad():
        q = model.posterior(x)
    rate = 0.5 * (q.mean.square() + q.variance - q.variance.log() - 1).sum(1)
    error = (x - OFFSET - q.mean @ LOADING.T).square().sum(1) + q.variance @ LOADING.square().sum(0)
    distortion = 0.5 * (DIMS * math.log(2 * math.pi * SCALE**2) + error / SCALE**2)
    found = rate_distortion(usual(model.float(), x.float(), draws=5_000))
    assert found.samples == 5_000
    assert found.rate.value == pytest.approx(float(rate.mean()), abs=1e-4)
    assert found.rate.standard_error == pytest.approx(stats.sem(rate.numpy()), rel=1e-3)
    assert found.distortion.value == pytest.approx(float(distortion.mean()), abs=0.02)
    assert found.elbo.value == pytest.approx(-found.rate.value - found.distortion.value, abs=1e-5)
    assert (found.rate.unit, found.rate.n, found.given_label) == ("nats", 40, False)


def test_gaussian_calibration_of_a_model_that_is_right():
    found = calibration(linear_vae().float(), of_the_model(3_000), IDENTITY)
    assert found.kind == "residuals"
    near(found.spread, 1)
    assert found.spread.standard_error < 0.02
    for entry in found.coverage:
        near(entry.share, entry.nominal)
    assert [entry.nominal for entry in found.coverage] == [0.5, 0.8, 0.95]
    assert found.spread_by_dimension.shape == (DIMS,)
    assert float(found.spread_by_dimension.mean()) == pytest.approx(found.spread.value)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_decoder_that_is_too_sure_or_not_sure_enough(factor):
    """Its deviation is ``factor`` times the true one; the posterior is still that of the true model."""
    model = linear_vae().float()
    model.likelihood.log_variance += 2 * math.log(factor)
    found = calibration(model, of_the_model(2_000), IDENTITY)
    near(found.spread, factor**-2)
    for entry in found.coverage:
        near(entry.share, 2 * stats.norm.cdf(stats.norm.ppf(0.5 + entry.nominal / 2) * factor) - 1)


def test_one_data_value_that_is_wrong_shows_by_dimension():
    likelihood = Gaussian((3,), "per_dimension")
    likelihood.log_variance.data = torch.tensor([0.0, math.log(4.0), -math.log(4.0)])
    model = constant_vae(likelihood, torch.zeros(3))
    found = calibration(model, InMemory(torch.randn(4_000, 3)), Identity((3,)))
    assert found.spread_by_dimension.tolist() == pytest.approx([1, 0.25, 4], rel=0.1)
    content = found.to_dict()["spread_by_dimension"]
    assert content["smallest"] == pytest.approx(0.25, rel=0.1)
    assert content["largest"] == pytest.approx(4, rel=0.1)


def test_a_wider_posterior_than_the_true_one_makes_residuals_larger():
    """E r^2 = 1 + (spread^2 - 1) tr(W Sigma W^T) / (D s^2): reported residuals are those of reconstructions."""
    sigma = PRECISION.inverse().diagonal()
    expected = 1 + (2.0**2 - 1) * float((LOADING.square() @ sigma).mean()) / SCALE**2
    near(calibration(linear_vae(spread=2.0).float(), of_the_model(2_000), IDENTITY).spread, expected)


def logistic_numbers(loc, scale):
    return torch.stack([loc - 0.5, scale.log() + 2])


def test_the_transform_lies_between_the_cumulated_masses():
    levels, x = 5, torch.arange(5.0) / 4
    numbers = torch.full((1, 5), 0.4), torch.full((1, 5), math.log(0.2))
    masses = torch.stack(
        [DiscretizedLogistic(numbers[0][:, :1], numbers[1][:, :1], levels).log_prob(value.reshape(1, 1)) for value in x]
    ).exp()
    upper = masses.cumsum(0).flatten()
    many = torch.cat([transform(DiscretizedLogistic(*numbers, levels), x.unsqueeze(0)) for _ in range(500)])
    assert (many <= upper + 1e-6).all()
    assert (many >= upper - masses.flatten() - 1e-6).all()
    torch.testing.assert_close(many.mean(0), (upper - masses.flatten() / 2).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 0.6, 1.6])
def test_calibration_of_levels(factor):
    """Data are drawn with ``factor`` times the scale that the decoder claims."""
    torch.manual_seed(0)
    loc, scale = torch.linspace(0.1, 0.9, 6), torch.full((6,), 0.05)
    model = constant_vae(Logistic((6,), levels=16), logistic_numbers(loc, scale))
    x = DiscretizedLogistic(loc, (factor * scale).log(), 16).sample((3_000,))
    found = calibration(model, InMemory((15 * x).round().to(torch.uint8)), Levels((6,), 16))
    assert found.kind == "transform"
    if factor == 1.0:
        near(found.spread, 1)
        for entry in found.coverage:
            near(entry.share, entry.nominal)
    else:
        assert (found.spread.value - 1) * (factor - 1) > 0
        assert abs(found.spread.value - 1) > 10 * found.spread.standard_error


def test_frequencies_of_binary_data():
    claimed = torch.tensor([0.05, 0.32, 0.38, 0.75, 1 - 1e-9])
    true = torch.tensor([0.05, 0.32, 0.58, 0.65, 1.0])
    model = constant_vae(Bernoulli((5,)), claimed.logit(eps=1e-7))
    x = torch.bernoulli(true.expand(4_000, 5), generator=torch.Generator().manual_seed(1))
    found = calibration(model, InMemory(x), Identity((5,)), samples=2)
    assert (found.kind, found.spread, found.coverage) == ("frequencies", None, ())
    bins = {round(entry.low, 1): entry for entry in found.bins if entry.weight}
    assert set(bins) == {0.0, 0.3, 0.7, 0.9}
    assert sum(entry.weight for entry in found.bins) == pytest.approx(1)
    for low, predicted, excess in ((0.0, 0.05, 0.0), (0.3, 0.35, 0.1), (0.7, 0.75, -0.1)):
        assert bins[low].predicted == pytest.approx(predicted, abs=1e-6)
        near(bins[low].excess, excess)
    assert bins[0.9].excess.value == pytest.approx(0, abs=1e-6)
    by_hand = (x[:, 1:3].sum(1) - 0.7) / 2
    assert bins[0.3].excess.value == pytest.approx(float(by_hand.mean()), abs=1e-6)
    assert bins[0.3].excess.standard_error == pytest.approx(stats.sem(by_hand.numpy()), rel=1e-3)
    assert found.error == pytest.approx(sum(entry.weight * abs(entry.excess.value) for entry in bins.values()))
    json.dumps(found.to_dict(), allow_nan=False)


def test_frequencies_of_categories():
    claimed = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    model = constant_vae(Categorical((2,), levels=3), claimed.log().T)
    generator = torch.Generator().manual_seed(2)
    right = torch.stack([torch.multinomial(row, 4_000, True, generator=generator) for row in claimed], 1)
    found = calibration(model, InMemory(right.float()), Identity((2,)))
    assert all(abs(entry.excess.value) <= 4 * entry.excess.standard_error for entry in found.bins if entry.weight)
    assert found.error < 0.015
    wrong = calibration(model, InMemory(right.flip(1).float()), Identity((2,)))
    assert wrong.error > 0.2


def test_errors_are_over_examples_because_values_hang_together():
    """Two hundred copies of one value are no better than the one."""
    x = torch.randn(500, 1).expand(-1, 200).contiguous()
    found = calibration(constant_vae(Gaussian((200,)), torch.zeros(200)), InMemory(x), Identity((200,)))
    assert found.spread.standard_error == pytest.approx(stats.sem(x[:, 0].numpy() ** 2), rel=1e-3)
    bits = (x > 0).float()
    model = constant_vae(Bernoulli((200,)), torch.zeros(200))
    (entry,) = [bin for bin in calibration(model, InMemory(bits), Identity((200,))).bins if bin.weight]
    assert entry.excess.standard_error == pytest.approx(stats.sem(bits[:, 0].numpy()), rel=1e-3)


def test_statistics_by_hand():
    x = torch.randn(400, 3) * torch.tensor([1.0, 2.0, 0.0]) + torch.tensor([0.0, 1.0, 0.0])
    found = predictive_checks(constant_vae(Gaussian((3,)), torch.zeros(3)), InMemory(x), Identity((3,)), generated=300)
    values = x.double().numpy()
    assert found["mean"].real.value == pytest.approx(values.mean())
    assert found["mean"].real.standard_error == pytest.approx(stats.sem(values.mean(1)))
    assert found["variance"].real.value == pytest.approx(values.var(0).mean())
    assert found["zeros"].real.value == pytest.approx(1 / 3)
    assert found["near_zeros"].real.value == pytest.approx((np.abs(values) <= 0.05 * values.std()).mean(), abs=1e-3)
    assert found["mean"].generated.n == found.generated == 300
    assert found["zeros"].generated.value == 0
    assert found["zeros"].z < -100
    # The second value is 1 on average and the model says 0; the third is always 0, and the model's mean is no better.
    assert found.dimensions_off == pytest.approx(1 / 3)


def test_data_of_the_model_itself_pass():
    found = predictive_checks(linear_vae().float(), of_the_model(2_000, seed=5), IDENTITY)
    assert all(abs(check.z) < 4 for check in found.checks)
    assert found.dimensions_off == 0
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["mean"]["z"] == found["mean"].z
    assert content["dimensions_off"]["by_chance"] == pytest.approx(0.0027, abs=1e-4)
    again = predictive_checks(linear_vae().float(), of_the_model(2_000, seed=5), IDENTITY)
    assert again.to_dict() == found.to_dict()


def test_z_is_standard_normal_when_the_model_is_right():
    found = [
        predictive_checks(linear_vae().float(), of_the_model(200, seed), IDENTITY, seed=seed) for seed in range(60)
    ]
    for name in ("mean", "variance"):
        values = np.array([checks[name].z for checks in found])
        assert abs(values.mean()) < 4 / math.sqrt(60)
        assert 0.7 < values.std() < 1.35


@pytest.mark.parametrize("fault", ["mean", "variance"])
def test_a_fault_is_found_by_its_own_statistic(fault):
    model = linear_vae().float()
    if fault == "mean":
        model.decoder.layers[-1].bias.data += 0.2
    else:
        model.likelihood.log_variance -= 3.0
    found = predictive_checks(model, of_the_model(2_000), IDENTITY)
    assert abs(found[fault].z) > 5
    assert abs(found["mean" if fault == "variance" else "variance"].z) < 4


def test_sparsity_is_that_of_the_raw_data():
    """Zeros before standardisation are no zeros after it, and grey values before binarisation none before it."""
    raw = np.random.default_rng(0).gamma(2.0, size=(500, 2)) * (np.arange(1_000).reshape(500, 2) % 4 > 0)
    fitted = Standardise((2,)).fit(raw)
    model = constant_vae(Gaussian((2,)), torch.zeros(2))
    found = predictive_checks(model, InMemory(torch.from_numpy(raw)), fitted)
    assert found["zeros"].real.value == pytest.approx((raw == 0).mean())
    assert abs(found["mean"].z) < 4
    grey = torch.full((600, 2), 64, dtype=torch.uint8)
    bits = constant_vae(Bernoulli((2,)), torch.full((2,), math.log(1 / 3)))
    found = predictive_checks(bits, InMemory(grey), Binarise((2,), "dynamic"))
    assert found["zeros"].real.value == pytest.approx(0.75, abs=0.06)
    assert all(abs(check.z) < 4 for check in found.checks)


def test_what_is_refused():
    point = VAE(StandardNormal(1), Dirac(MLP((2,), (1,))), MLP((1,), (1, 2)), Gaussian((2,)))
    with pytest.raises(UserError, match="Dirac is a point mass"):
        rate_distortion(usual(point, torch.randn(5, 2)))
    assert calibration(point, InMemory(torch.randn(5, 2)), Identity((2,))).n == 5
    with pytest.raises(UserError, match="got 5 and 1"):
        predictive_checks(point, InMemory(torch.randn(5, 2)), Identity((2,)), generated=1)
    model, x, unknown = linear_vae(classes="encoder").float(), data(6).float(), torch.full((6,), -1)
    with pytest.raises(UserError, match="look at labels"):
        calibration(model, InMemory(x, unknown), IDENTITY)
    with pytest.raises(UserError, match="look at labels"):
        rate_distortion(usual(model, x, unknown))
    assert rate_distortion(usual(model, x, torch.arange(6) % 3)).given_label
