"""The estimators against exact Gaussians: densities of the user's own units, Bayes' rule, conditional means, alarms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import beta, multivariate_normal, norm
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.preprocessing import StandardScaler

from sfumato.core.numerics import soft_bound
from sfumato.estimators import VAEClassifier, VAEDensity, VAEImputer, VAEOutlierDetector, base
from sfumato.evaluation.bounds import evidence_bound
from sfumato.likelihoods.gaussian import LOG_VARIANCE_BOUNDS as LIKELIHOOD_BOUNDS
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS

LOADING = np.array([1.5, -1.0, 0.5, 2.0])
NOISE = np.array([0.5, 0.7, 0.3, 0.9])
UNITS = np.array([100.0, 0.01, 1.0, 5.0])
CENTRE = np.array([1e3, 0.2, -4.0, 0.0])


def rows(n: int, seed: int = 0) -> np.ndarray:
    """One factor, in units that differ by powers of ten."""
    random = np.random.RandomState(seed)
    return CENTRE + UNITS * (random.normal(size=(n, 1)) * LOADING + NOISE * random.normal(size=(n, 4)))


def unbounded(target: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    value = target.clone()
    for _ in range(200):
        value += target - soft_bound(value, *bounds)
    return value


def made_exact(estimator: Any, missing: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Set a linear model with one component, and its exact posterior, where column ``missing`` is never seen.

    Returns the mean and covariance of the rows that it stands for, in the user's units.
    """
    model, scaling = estimator.model_.model, estimator.model_.preprocessing
    loading, offset = torch.tensor([0.8, -0.5, 0.3, 0.9]), torch.tensor([0.1, -0.2, 0.0, 0.3])
    variance = torch.tensor([0.3, 0.5, 0.2, 0.4])
    decoder = model.decoder.layers[-1]
    decoder.weight.data.copy_(loading[:, None])
    decoder.bias.data.copy_(offset)
    likelihood = getattr(model.likelihood, "likelihood", model.likelihood)
    likelihood.log_variance.data.copy_(unbounded(variance.log(), LIKELIHOOD_BOUNDS))
    seen = torch.ones(4)
    if missing is not None:
        seen[missing] = 0
    precision = 1 + (seen * loading.square() / variance).sum()
    gain = seen * loading / variance / precision
    mean, log_variance = (getattr(network, "network", network).layers[-1] for network in heads(model.posterior))
    mean.weight.data.zero_()[0, :4] = gain
    mean.bias.data.fill_(-float(gain @ offset))
    log_variance.weight.data.zero_()
    log_variance.bias.data.copy_(unbounded(-precision.log().reshape(1), LOG_VARIANCE_BOUNDS))
    centre = (scaling.mean + scaling.scale * offset).double().numpy()
    inner = torch.outer(loading, loading) + variance.diag()
    return centre, (inner * torch.outer(scaling.scale, scaling.scale)).double().numpy()


def heads(posterior: Any) -> tuple[Any, Any]:
    return posterior.mean, posterior.log_variance


LINEAR: dict[str, Any] = {"n_components": 1, "hidden_layer_sizes": (), "random_state": 0}


@pytest.mark.parametrize("draws", [1, 7, 64])
def test_scores_are_the_exact_log_density_in_the_users_units(draws: int) -> None:
    data = rows(200)
    estimator = VAEDensity(**LINEAR, max_iter=1, n_importance_samples=draws).fit(data)
    centre, covariance = made_exact(estimator)
    expected = multivariate_normal(centre, covariance).logpdf(data)
    np.testing.assert_allclose(estimator.score_samples(data), expected, atol=1e-5)
    assert estimator.score(data) == pytest.approx(expected.mean(), abs=1e-5)


def test_a_score_does_not_hang_on_the_rows_beside_it() -> None:
    data = rows(300)
    estimator = VAEDensity(2, max_iter=1, random_state=0).fit(data)
    whole = estimator.score_samples(data)
    np.testing.assert_allclose(estimator.score_samples(data[::-1])[::-1], whole, rtol=1e-12)
    np.testing.assert_allclose([estimator.score_samples(data[[row]])[0] for row in (0, 299)], whole[[0, 299]])


def test_many_draws_agree_with_the_evaluation() -> None:
    data = rows(200)
    estimator = VAEDensity(2, max_iter=2, n_importance_samples=1000, random_state=0).fit(data)
    model, scaling = estimator.model_.model, estimator.model_.preprocessing
    expected = evidence_bound(model, scaling(torch.from_numpy(data)), samples=2000).mean() + scaling.log_abs_det
    assert estimator.score(data) == pytest.approx(float(expected), abs=0.05)


@pytest.mark.parametrize("variance", ["per_dimension", "shared"])
def test_a_trained_linear_model_reaches_factor_analysis_and_ppca(variance: str) -> None:
    data = rows(1500)
    estimator = VAEDensity(
        **LINEAR, variance=variance, max_iter=40, batch_size=100, learning_rate_init=0.02, n_importance_samples=16
    ).fit(data)
    scaler = StandardScaler().fit(data)
    if variance == "per_dimension":
        best = FactorAnalysis(1, tol=1e-6, max_iter=5000).fit(scaler.transform(data))
    else:
        best = PCA(1).fit(scaler.transform(data))
    expected = best.score(scaler.transform(data)) - np.log(scaler.scale_).sum()
    assert expected - 0.02 < estimator.score(data) < expected + 0.001


def test_class_probabilities_are_bayes_rule_over_exact_gaussians() -> None:
    """Two labels in three are of one class, so p(y) counts; rows without a label have no say in it."""
    data, numbers = rows(200), np.where(np.arange(200) % 4 == 0, 5, 3)
    numbers[1::4] = -1
    estimator = VAEClassifier(**LINEAR, max_iter=1, n_importance_samples=4000).fit(data, numbers)
    centre, covariance = made_exact(estimator)
    prior = estimator.model_.model.prior
    share = prior.log_frequencies.double().exp().numpy()
    np.testing.assert_allclose(share, np.array([100, 50]) / 150, atol=0.01)  # of the rows for training
    means = np.array([-0.4, 0.6])
    prior.means.data.copy_(torch.from_numpy(means)[:, None])
    scale = estimator.model_.preprocessing.scale.double().numpy()
    loading = np.array([0.8, -0.5, 0.3, 0.9])
    logits = np.stack(
        [
            math.log(p) + multivariate_normal(centre + scale * loading * mean, covariance).logpdf(data)
            for p, mean in zip(share, means, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(estimator.predict_log_proba(data), log_softmax(logits, 1), atol=0.01)
    assert estimator.classes_.tolist() == [3, 5]
    assert (estimator.predict(data) == np.array([3, 5])[logits.argmax(1)]).mean() > 0.99


def test_samples_have_the_mean_and_covariance_of_the_density() -> None:
    estimator = VAEDensity(**LINEAR, max_iter=1).fit(rows(100))
    centre, covariance = made_exact(estimator)
    found = estimator.sample(20_000, random_state=1)
    deviation = np.sqrt(covariance.diagonal())
    np.testing.assert_allclose((found.mean(0) - centre) / deviation, 0, atol=5 / math.sqrt(20_000))
    scale = np.outer(deviation, deviation)
    np.testing.assert_allclose(np.cov(found.T) / scale, covariance / scale, atol=0.05)


def imputed(column: int, **words: Any) -> tuple[VAEImputer, np.ndarray, np.ndarray, float]:
    """Return an imputer at its exact posterior, rows without a column, and the conditional mean and variance."""
    data = rows(200)
    data[::3, column] = np.nan
    estimator = VAEImputer(**LINEAR, max_iter=1, **words).fit(data)
    centre, covariance = made_exact(estimator, missing=column)
    holes = rows(40, seed=1)
    holes[:, column] = np.nan
    there = [other for other in range(4) if other != column]
    gain = covariance[column, there] @ np.linalg.inv(covariance[np.ix_(there, there)])
    mean = centre[column] + (holes[:, there] - centre[there]) @ gain
    return estimator, holes, mean, float(covariance[column, column] - gain @ covariance[there, column])


def test_imputation_is_the_conditional_mean_of_a_gaussian() -> None:
    estimator, holes, mean, _ = imputed(2, n_importance_samples=50)
    filled = estimator.transform(holes)
    np.testing.assert_allclose(filled[:, 2], mean, atol=1e-5)
    np.testing.assert_array_equal(filled[:, [0, 1, 3]], holes[:, [0, 1, 3]])


@pytest.mark.parametrize("draws", [1, 50])
def test_multiple_imputation_draws_from_the_conditional_gaussian(draws: int) -> None:
    """Of the exact posterior one draw is enough, if each row has its own: a third of this variance is that of z."""
    estimator, holes, mean, variance = imputed(3, n_importance_samples=draws, sample_posterior=True)
    found = estimator.set_params(random_state=3).transform(np.repeat(holes[:1], 4000, 0))[:, 3]
    assert abs(found.mean() - mean[0]) < 5 * math.sqrt(variance / 4000)
    assert found.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / 4000))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 5 / math.sqrt(4000)


def test_columns_are_scaled_by_what_was_observed() -> None:
    data = rows(200)
    holes = np.where(np.random.RandomState(5).uniform(size=data.shape) < 0.5, np.nan, data)
    scaling = VAEImputer(**LINEAR, max_iter=1, validation_fraction=0.01).fit(holes).model_.preprocessing
    np.testing.assert_allclose(scaling.mean, np.nanmean(holes, 0), rtol=1e-5)
    np.testing.assert_allclose(scaling.scale, np.nanstd(holes, 0), rtol=1e-5)


def test_training_with_missing_cells_finds_the_conditional_means() -> None:
    data = rows(700)
    holes = np.where(np.random.RandomState(5).uniform(size=data.shape) < 0.2, np.nan, data)
    estimator = VAEImputer(**LINEAR, max_iter=30, batch_size=70, learning_rate_init=0.03, n_importance_samples=50).fit(
        holes
    )
    covariance = (np.outer(LOADING, LOADING) + np.diag(NOISE**2)) * np.outer(UNITS, UNITS)
    best = holes.copy()
    for row in best:
        gone = np.isnan(row)
        if gone.any():
            gain = covariance[np.ix_(gone, ~gone)] @ np.linalg.pinv(covariance[np.ix_(~gone, ~gone)])
            row[gone] = CENTRE[gone] + gain @ (row[~gone] - CENTRE[~gone])
    mask = np.isnan(holes)

    def error(filled: np.ndarray) -> float:
        return float(np.sqrt(np.square(((filled - data) / data.std(0))[mask]).mean()))

    found, oracle, mean = error(estimator.transform(holes)), error(best), error(np.where(mask, np.nanmean(holes, 0), 0))
    assert oracle - 1e-9 < found < oracle + 0.15 * (mean - oracle)


class Scored(VAEOutlierDetector):
    """All rows calibrate, and the first column is the score."""

    def _train(self, X: Any, *args: Any, **words: Any) -> np.ndarray:
        self.n_iter_ = 1
        return np.arange(len(X))

    def _log_density(self, X: Any, draws: int) -> np.ndarray:
        return np.asarray(X[:, 0])


def test_the_false_alarm_rate_follows_its_law() -> None:
    random, inside, rates = np.random.RandomState(0), [], []
    for _ in range(1500):
        detector = Scored(false_alarm_rate=0.1).fit(random.normal(size=(99, 1)))
        rate = norm.cdf(detector.offset_)
        low, high = detector.false_alarm_interval_
        inside.append(low < rate < high)
        rates.append(rate)
    law = beta(10, 90)
    assert detector.false_alarm_interval_ == pytest.approx((law.ppf(0.025), law.ppf(0.975)), rel=1e-9)
    assert detector.false_alarm_rate_ == 0.1
    assert abs(np.mean(rates) - 0.1) < 5 * law.std() / math.sqrt(1500)
    assert abs(np.mean(inside) - 0.95) < 5 * math.sqrt(0.05 * 0.95 / 1500)


def test_the_threshold_is_set_by_rows_that_took_no_part_in_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.Tensor] = []

    class Watched(base.Trainer):
        def __init__(self, model: Any, objective: Any, train: Any, validation: Any, *more: Any) -> None:
            used.extend([train.x, validation.x])
            super().__init__(model, objective, train, validation, *more)

    monkeypatch.setattr(base, "Trainer", Watched)
    data = rows(100)
    detector = VAEOutlierDetector(**LINEAR, max_iter=1, false_alarm_rate=0.2, n_importance_samples=4).fit(data)
    seen = torch.cat(used).numpy()
    kept = np.array([row for row in data if not (seen == row).all(1).any()])
    assert len(kept) == detector.n_calibration_ == 30
    scores = np.sort(detector.score_samples(kept))
    assert detector.offset_ == scores[5], "the sixth of 30: 0.2 of 31, rounded down"
    assert (detector.predict(kept) == -1).sum() == 5
    np.testing.assert_array_equal(detector.decision_function(kept), detector.score_samples(kept) - detector.offset_)


def test_a_rate_that_the_rows_cannot_hold_becomes_the_lowest() -> None:
    detector = Scored(false_alarm_rate=0.001).fit(np.arange(9.0)[:, None])
    assert (detector.offset_, detector.false_alarm_rate_) == (0.0, 0.1)
