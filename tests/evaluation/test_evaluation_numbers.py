import json
import math

import numpy as np
import pytest
import torch
from exact_models import data, linear_vae
from scipy import stats

from sfumato.data import Identity, InMemory
from sfumato.evaluation import (
    Estimate,
    accuracy,
    bayes_accuracy,
    bits_per_dim,
    find_latents,
    mean_estimate,
    quick_look,
    raw_log_density,
    score_baselines,
)
from sfumato.evaluation.passes import EXAMPLES, batches
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal


def test_standard_error_against_numpy():
    values = np.random.default_rng(0).normal(3, 2, 57).astype(np.float32)
    found = mean_estimate(torch.from_numpy(values), "nats")
    wide = values.astype(np.float64)
    assert found.value == pytest.approx(wide.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(wide), rel=1e-12)
    assert (found.n, found.unit) == (57, "nats")


def test_defect_6_a_non_finite_example_makes_the_mean_non_finite():
    found = mean_estimate(torch.tensor([1.0, math.nan, 2.0]), "nats")
    assert math.isnan(found.value)
    assert found.n == 3
    assert found.to_dict()["value"] is None
    assert mean_estimate(torch.tensor([1.0, -math.inf]), "nats").value == -math.inf


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (84.207, 0.349, "84.21 ± 0.35 nats"),
        (1.23456, 0.00123, "1.2346 ± 0.0012 nats"),
        (1532.0, 12.0, "1532 ± 12 nats"),
    ],
)
def test_text_shows_two_digits_of_the_error(value, error, text):
    assert str(Estimate(value, error, 10, "nats")) == text
    assert str(-Estimate(value, error, 10, "nats")) == f"-{text}"


def test_bits_per_dim_by_hand_and_only_for_masses():
    nats = Estimate(-84.2, 0.35, 10_000, "nats")
    found = bits_per_dim(nats, 784, discrete=True)
    assert found.value == pytest.approx(84.2 / 784 / 0.6931471805599453)
    assert found.standard_error == pytest.approx(0.35 / 784 / 0.6931471805599453)
    assert found.unit == "bits/dim"
    assert bits_per_dim(nats, 784, discrete=False) is None


def test_density_of_raw_data():
    """x = raw / 2 in three dimensions: densities of raw are smaller by 2^3."""
    raw = np.array([[1.0, -2.0, 0.5]])
    x = torch.from_numpy(stats.norm.logpdf(raw / 2).sum(-1))
    found = raw_log_density(x, torch.full((1,), -3 * math.log(2)))
    assert float(found) == pytest.approx(stats.norm.logpdf(raw, scale=2).sum())


def test_defect_5_every_example_comes_once_and_the_last_small_batch_counts_what_it_should():
    n = EXAMPLES + 3
    x = torch.zeros(n, 4)
    x[-3:] = 100.0
    sizes = [len(batch.x) for batch in batches(InMemory(x), Identity((4,)), torch.device("cpu"), 0)]
    assert sizes == [EXAMPLES, 3]
    found = find_latents(linear_vae().float(), InMemory(x), Identity((4,)))
    q = linear_vae().float().posterior(x)
    expected = 0.5 * (q.mean.square() + q.variance - q.variance.log() - 1).detach().mean(0)
    torch.testing.assert_close(found.kl.float(), expected)
    assert found.mean.shape == (n, 2)


def test_active_units_on_a_constructed_model():
    """Dimension 0 has Var(mean) = 0.0144, dimension 1 has 0.0064: one is over 0.01."""
    mean, log_variance = (MLP((2,), (2,), hidden=()) for _ in range(2))
    mean.layers[-1].weight.data.copy_(torch.tensor([[0.12, 0.0], [0.0, 0.08]]))
    log_variance.layers[-1].weight.data.zero_()
    log_variance.layers[-1].bias.data.copy_(torch.tensor([-2.0, 0.0]))
    model = VAE(StandardNormal(2), DiagonalGaussian(mean, log_variance), MLP((2,), (1, 2)), Gaussian((2,)))
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = find_latents(model, InMemory(corners), Identity((2,)))
    torch.testing.assert_close(found.variance_of_mean, torch.tensor([0.0144, 0.0064]).double())
    assert found.active.tolist() == [True, False]
    assert found.active_units == 1
    torch.testing.assert_close(found.sigma, torch.tensor([math.exp(-1), 1.0]).double(), atol=1e-4, rtol=0)
    look = quick_look(model, InMemory(corners), Identity((2,)))
    assert look["active_units"] == 1
    assert look["mean_sigma"] == pytest.approx((1 + math.exp(-1)) / 2, abs=1e-4)
    assert look["kl_per_dimension"] == pytest.approx(found.kl.tolist())
    json.dumps(look, allow_nan=False)


def test_latents_of_a_point_mass_and_of_missing_labels():
    point = VAE(StandardNormal(1), Dirac(MLP((2,), (1,))), MLP((1,), (1, 2)), Gaussian((2,)))
    found = find_latents(point, InMemory(torch.randn(5, 2)), Identity((2,)))
    assert found.kl is None
    assert found.mean_sigma is None
    assert found.variance_of_mean.shape == (1,)
    model = linear_vae(classes="prior").float()
    x = data(4).float()
    assert find_latents(model, InMemory(x, torch.tensor([0, 1, 2, 0])), Identity((4,))).kl.isfinite().all()
    assert find_latents(model, InMemory(x, torch.tensor([0, 1, -1, 0])), Identity((4,))).kl is None


def test_accuracy_and_confusion_by_hand():
    truth, predicted = torch.tensor([0, 0, 1, 1, 1, -1]), torch.tensor([0, 1, 1, 1, 0, 1])
    found = accuracy(truth, predicted, 3)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.overall.value == pytest.approx(0.6)
    assert found.overall.standard_error == pytest.approx(stats.sem([1, 0, 1, 1, 0]))
    assert [estimate.n for estimate in found.per_class] == [2, 3, 0]
    assert found.to_dict()["per_class"][2]["value"] is None


def test_bayes_accuracy_is_that_of_the_exact_rule():
    """Data from the model itself: the share that the exact posterior gets right."""
    from exact_models import log_joint

    model = linear_vae(classes="prior")
    y = torch.arange(300) % 3
    x = model.sample(300, y, draw=True, generator=0)
    expected = float((log_joint(x.double()).argmax(-1) == y).double().mean())
    found = bayes_accuracy(model.float(), InMemory(x, y), Identity((4,)), samples=300)
    assert found.overall.value == pytest.approx(expected, abs=0.02)
    assert 0.6 < expected < 1
    assert isinstance(model.prior, ClassConditional)


def test_baseline_of_binary_data_by_hand():
    train, test = torch.tensor([[0, 1], [0, 1], [1, 1]]), torch.tensor([[0, 1], [1, 0]])
    found = score_baselines(Bernoulli((2,)), 1, InMemory(train), InMemory(test), Identity((2,)))
    expected = np.array([math.log(3 / 5) + math.log(4 / 5), math.log(2 / 5) + math.log(1 / 5)])
    assert found["independent"].value == pytest.approx(expected.mean())
    assert found["independent"].standard_error == pytest.approx(stats.sem(expected))
    assert "ppca" not in found


@pytest.mark.parametrize(
    ("likelihood", "scale"), [(Categorical((3,), levels=4), 1.0), (DiscretizedLogistic((3,), levels=4), 1 / 3)]
)
def test_baseline_of_levels_adds_up_to_one(likelihood, scale):
    train = torch.randint(0, 2, (20, 3)) * scale
    every = torch.cartesian_prod(*[torch.arange(4.0)] * 3) * scale
    masses = [
        math.exp(
            score_baselines(likelihood, 1, InMemory(train), InMemory(x[None]), Identity((3,)))["independent"].value
        )
        for x in every
    ]
    assert sum(masses) == pytest.approx(1)
    assert masses[-1] == pytest.approx((1 / 24) ** 3)


def test_baselines_of_real_data_against_scipy():
    train, test = data(300, seed=1).float(), data(20, seed=2).float()
    train[:, 1] += train[:, 0]
    spaces = (InMemory(train), InMemory(test), Identity((4,)))
    wide = train.double().numpy()
    covariance = np.cov(wide.T, bias=True)
    found = score_baselines(Gaussian((4,)), 3, *spaces)
    alone = stats.norm.logpdf(test.double().numpy(), wide.mean(0), wide.std(0)).sum(1).mean()
    full = stats.multivariate_normal(wide.mean(0), covariance).logpdf(test.double().numpy()).mean()
    assert found["independent"].value == pytest.approx(alone)
    # With D - 1 latent dimensions probabilistic PCA is the full Gaussian.
    assert found["ppca"].value == pytest.approx(full)
    one = score_baselines(Gaussian((4,)), 1, *spaces)["ppca"].value
    values, vectors = np.linalg.eigh(covariance)
    first, rest = vectors[:, -1:], values[:-1].mean()
    model = first @ first.T * (values[-1] - rest) + rest * np.eye(4)
    assert one == pytest.approx(stats.multivariate_normal(wide.mean(0), model).logpdf(test.double().numpy()).mean())
