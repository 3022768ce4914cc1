"""The contract of ``sfumato.distributions``."""

from __future__ import annotations

import copy
import math

import mpmath
import pytest
import torch
from contract import Case, Numbers, covered, documented, flat, numbers, public_classes
from densities import density_matches_samples, frequencies_agree
from distributions_of_z import OF_Z
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from sfumato import distributions
from sfumato.core.gaussians import independent_normal
from sfumato.core.numerics import fixed_noise
from sfumato.distributions import (
    CodeSequence,
    Columns,
    ContinuousBernoulli,
    Delta,
    DiscretizedLogistic,
    FeatureDistance,
    GivenTotal,
    LabelledMixture,
    Masked,
    MixtureOfLogistics,
    NegativeBinomial,
    OptimalNormal,
    Ordinal,
    Poisson,
    ZeroInflated,
)

LABELS = torch.tensor([0, 2, -1, 1])


def nothing(variance: Tensor) -> None:
    pass


def logistic(loc: float, log_scale: float, levels: int = 256, dtype: torch.dtype = torch.float64):
    return DiscretizedLogistic(torch.tensor([loc], dtype=dtype), torch.tensor([log_scale], dtype=dtype), levels)


def mixture(y: Tensor | None, dtype: torch.dtype, scale: float = 1.0, latent: int = 2) -> LabelledMixture:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=dtype).log()
    return LabelledMixture(numbers(3, latent, dtype=dtype, scale=scale), weights, y)


# What is called in place of a module is a function (dtype, scale) -> (distribution, value).
def delta(dtype: torch.dtype, scale: float):
    return Delta(numbers(4, 3, dtype=dtype, scale=scale)), None


def discretized(dtype: torch.dtype, scale: float):
    value = torch.tensor([[0, 3, 255], [1, 128, 254]], dtype=dtype) / 255
    log_scale = numbers(2, 3, dtype=dtype, seed=2) - 2
    return DiscretizedLogistic(numbers(2, 3, dtype=dtype, scale=scale), log_scale), value


def labelled(dtype: torch.dtype, scale: float):
    return mixture(LABELS, dtype, scale), numbers(5, 4, 2, dtype=dtype, scale=scale, seed=3)


def unlabelled(dtype: torch.dtype, scale: float):
    return mixture(None, dtype, scale), numbers(5, 4, 2, dtype=dtype, scale=scale, seed=3)


def optimal(dtype: torch.dtype, scale: float):
    mean = numbers(5, 4, 3, dtype=dtype, scale=scale)
    return OptimalNormal(mean, 1, nothing, 1e-6), numbers(4, 3, dtype=dtype, scale=scale, seed=3)


def masked(dtype: torch.dtype, scale: float):
    whole = independent_normal(numbers(4, 3, dtype=dtype, scale=scale), numbers(4, 3, dtype=dtype, seed=2))
    value = numbers(5, 4, 3, dtype=dtype, scale=scale, seed=3)
    return Masked(whole), torch.where(numbers(5, 4, 3, seed=4) > 1, torch.nan, value)


def counts(dtype: torch.dtype, scale: float, *lead: int) -> tuple[Tensor, Tensor]:
    """Return log-means in the bounds of the likelihoods, and counts."""
    log_mean = numbers(*lead, 4, 3, dtype=dtype, scale=scale).clamp(-16, 16)
    return log_mean, (3 * numbers(5, 4, 3, dtype=dtype, seed=3).abs()).floor()


def poisson(dtype: torch.dtype, scale: float):
    log_mean, value = counts(dtype, scale)
    return Independent(Poisson(log_mean), 1), value


def negative_binomial(dtype: torch.dtype, scale: float):
    log_mean, value = counts(dtype, scale)
    return Independent(NegativeBinomial(log_mean, numbers(3, dtype=dtype, seed=2)), 1), value


def zero_inflated(dtype: torch.dtype, scale: float):
    log_mean, value = counts(dtype, scale)
    return Independent(ZeroInflated(Poisson(log_mean), numbers(4, 3, dtype=dtype, seed=2)), 1), value


def given_total(dtype: torch.dtype, scale: float):
    logits, value = counts(dtype, scale)
    return GivenTotal(logits, Poisson, 7.0), value


def continuous(dtype: torch.dtype, scale: float):
    logits = numbers(4, 3, dtype=dtype, scale=scale).clamp(-500, 500)
    return Independent(ContinuousBernoulli(logits), 1), numbers(5, 4, 3, dtype=dtype, seed=3).sigmoid()


def ordinal(dtype: torch.dtype, scale: float):
    location = numbers(4, 3, dtype=dtype, scale=scale)
    thresholds = torch.tensor([-1.0, 0.5, 2.0], dtype=dtype)
    value = (numbers(5, 4, 3, seed=3) + 2).floor().clamp(0, 3).to(dtype)
    return Independent(Ordinal(location, thresholds), 1), value


def logistics(dtype: torch.dtype, scale: float):
    many = [numbers(4, 2, 3, 1, dtype=dtype, scale=scale, seed=seed) for seed in (1, 2, 3)]
    value = torch.tensor([0, 3, 255], dtype=dtype).expand(5, 4, 3) / 255
    logits = numbers(4, 2, 1, dtype=dtype, scale=scale)
    return MixtureOfLogistics(logits, many[0], many[1].clamp(-7, 4), many[2], (3,)), value


def feature_distance(dtype: torch.dtype, scale: float):
    location, value = numbers(4, 3, dtype=dtype, scale=scale), numbers(5, 4, 3, dtype=dtype, scale=scale, seed=3)
    return FeatureDistance(location, lambda x: (x - 0.5).tanh(), 0.7), value


def columns(dtype: torch.dtype, scale: float):
    normal = independent_normal(numbers(4, 2, dtype=dtype, scale=scale), numbers(4, 2, dtype=dtype, seed=2))
    log_mean, value = counts(dtype, 1.0)
    return Columns([normal, Independent(Poisson(log_mean[:, :1]), 1)], (2, 0, 1)), value


def call(make, dtype: torch.dtype, scale: float) -> Numbers:
    distribution, value = make(dtype, scale)
    with fixed_noise(0):  # an estimated density draws
        return [distribution.mean] if value is None else [distribution.log_prob(value)]


def case(name: str, make) -> Case:
    return Case(name, lambda: make, call)


EXAMPLES = {
    **{cls: [case(name, make) for name, make in cases.items()] for cls, cases in OF_Z.items()},
    "Columns": [case("", columns)],
    "ContinuousBernoulli": [case("", continuous)],
    "FeatureDistance": [case("", feature_distance)],
    "GivenTotal": [case("", given_total)],
    "MixtureOfLogistics": [case("", logistics)],
    "NegativeBinomial": [case("", negative_binomial)],
    "Ordinal": [case("", ordinal)],
    "Poisson": [case("", poisson)],
    "ZeroInflated": [case("", zero_inflated)],
    "Delta": [case("", delta)],
    "DiscretizedLogistic": [case("", discretized)],
    "LabelledMixture": [case("labelled", labelled), case("unlabelled", unlabelled)],
    "Masked": [case("", masked)],
    "OptimalNormal": [case("", optimal)],
}


def test_every_public_class_has_examples() -> None:
    covered(distributions, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(distributions))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:")


@flat(EXAMPLES)
class TestDistributions:
    def test_numbers_are_finite_for_extreme_inputs(self, case: Case) -> None:
        for scale in (0.0, 1.0, 1e4, 1e9):
            for out in case.call(case.build(), torch.float32, scale):
                assert torch.isfinite(out).all()

    def test_float32_agrees_with_float64(self, case: Case) -> None:
        (single,), (double,) = (case.call(case.build(), dtype, 1.0) for dtype in (torch.float32, torch.float64))
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)

    def test_shapes(self, case: Case) -> None:
        distribution, value = case.build()(torch.float32, 1.0)
        if not isinstance(distribution, OptimalNormal):
            draws = distribution.sample((6, 5))
            assert draws.shape == (6, 5, *distribution.batch_shape, *distribution.event_shape)
            assert distribution.sample().shape == (*distribution.batch_shape, *distribution.event_shape)
        if value is not None:
            lead = torch.broadcast_shapes(
                value.shape[: value.ndim - len(distribution.event_shape)], distribution.batch_shape
            )
            assert distribution.log_prob(value).shape == lead

    def test_a_deep_copy_is_equal(self, case: Case) -> None:
        distribution, value = case.build()(torch.float32, 1.0)
        twin = copy.deepcopy(distribution)
        found = []
        for each in (twin, distribution):
            with fixed_noise(0):
                found.append(None if value is None else each.log_prob(value))
        assert value is None or torch.equal(*found)

    def test_gradients_are_finite(self, case: Case) -> None:
        for scale in (1.0, 1e4):
            distribution, value = case.build()(torch.float32, scale)
            discrete = (Ordinal, CodeSequence)
            if value is not None and not isinstance(getattr(distribution, "base_dist", distribution), discrete):
                value.requires_grad_()
                distribution.log_prob(value).sum().backward()
                assert torch.isfinite(value.grad).all()


# DiscretizedLogistic


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("loc", [-50.0, -0.3, 0.0, 0.5, 0.7213, 1.0, 1e4])
@pytest.mark.parametrize("log_scale", [-7.0, -2.0, 0.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logistic_masses_add_up_to_one(levels: int, loc: float, log_scale: float, dtype: torch.dtype) -> None:
    values = (torch.arange(levels, dtype=dtype) / (levels - 1)).unsqueeze(-1)
    total = logistic(loc, log_scale, levels, dtype).log_prob(values).double().exp().sum()
    # float32 cannot tell the places of bins apart far from zero: their masses then lie elsewhere, not in their sum.
    slack = 1e-6 if dtype == torch.float64 else 1e-6 + 2e-4 * abs(loc) + 3e-7 * math.exp(-log_scale)
    assert abs(float(total) - 1) < slack


@pytest.mark.parametrize("loc", [-50.0, -0.3, 0.5, 0.7213, 1e4])
@pytest.mark.parametrize("log_scale", [-7.0, -2.0, 4.0, 12.0])
@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_logistic_mass_is_exact(loc: float, log_scale: float, level: int) -> None:
    with mpmath.workdps(60):
        scale = mpmath.exp(mpmath.mpf(log_scale))
        half = mpmath.mpf(1) / 510
        x = mpmath.mpf(level) / 255

        def below(point):
            # 1 - sigmoid is sigmoid of the opposite: the difference is taken where both are small.
            return 1 / (1 + mpmath.exp(-(point - mpmath.mpf(loc)) / scale))

        def above(point):
            return 1 / (1 + mpmath.exp((point - mpmath.mpf(loc)) / scale))

        if level == 0:
            mass = below(x + half)
        elif level == 255:
            mass = above(x - half)
        elif x > loc:
            mass = above(x - half) - above(x + half)
        else:
            mass = below(x + half) - below(x - half)
        exact = float(mpmath.log(mass))
    found = logistic(loc, log_scale).log_prob(torch.tensor([level], dtype=torch.float64) / 255)
    assert float(found) == pytest.approx(exact, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("loc", "log_scale"), [(0.4, -2.5), (-0.1, -1.0), (1.2, 0.0)])
def test_logistic_samples_match_masses(loc: float, log_scale: float) -> None:
    distribution, samples = logistic(loc, log_scale, levels=9), 40_000
    values = (torch.arange(9, dtype=torch.float64) / 8).unsqueeze(-1)
    draws = distribution.sample((samples,))
    levels = (draws * 8).round().long()
    assert torch.equal(levels / 8, draws)
    frequencies_agree(torch.bincount(levels[:, 0], minlength=9) / samples, distribution.log_prob(values).exp(), samples)


# LabelledMixture


@pytest.mark.parametrize("latent", [1, 2])
def test_mixture_integrates_to_one_and_matches_its_samples(latent: int) -> None:
    density_matches_samples(mixture(None, torch.float64, latent=latent), -8.0, 8.0)


def test_labelled_samples_match() -> None:
    labelled_mixture = mixture(LABELS, torch.float64)
    draws = labelled_mixture.sample((20_000,))
    for row, label in enumerate(LABELS.tolist()):
        mean = (
            labelled_mixture.means[label] if label >= 0 else labelled_mixture.log_weights.exp() @ labelled_mixture.means
        )
        error = draws[:, row].std(0) / math.sqrt(20_000)
        assert ((draws[:, row].mean(0) - mean).abs() < 5 * error).all()


def test_mixture_by_hand() -> None:
    distribution, z = mixture(LABELS, torch.float64), numbers(4, 2, seed=3)
    found = distribution.log_prob(z)
    for row, label in enumerate(LABELS.tolist()):
        parts = [float(Normal(mean, 1.0).log_prob(z[row]).sum()) for mean in distribution.means]
        weighted = [part + math.log(weight) for part, weight in zip(parts, (0.2, 0.5, 0.3), strict=True)]
        expected = parts[label] if label >= 0 else math.log(sum(map(math.exp, weighted)))
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)


def test_kl_to_a_mixture_is_torchs_for_known_labels_and_nan_for_unknown_ones() -> None:
    prior = mixture(LABELS, torch.float64)
    q = independent_normal(numbers(4, 2), numbers(4, 2, seed=5))
    kl = kl_divergence(q, prior)
    known = LABELS >= 0
    target = independent_normal(prior.means[LABELS[known]], torch.zeros(3, 2, dtype=torch.float64))
    part = independent_normal(q.mean[known], q.variance[known].log())
    torch.testing.assert_close(kl[known], kl_divergence(part, target))
    assert kl[~known].isnan().all()
    with pytest.raises(NotImplementedError):
        kl_divergence(q, mixture(None, torch.float64))


def test_a_class_of_frequency_zero_is_harmless() -> None:
    weights = torch.tensor([0.0, 1.0]).log()
    means = torch.tensor([[5.0], [0.0]], requires_grad=True)
    prior = LabelledMixture(means, weights)
    density = prior.log_prob(torch.ones(3, 1)).sum()
    density.backward()
    assert torch.isfinite(means.grad).all()
    assert (prior.sample((200,)).abs() < 5).all()


def test_tempering() -> None:
    cold = mixture(LABELS[:2], torch.float64).tempered(0.0)
    torch.testing.assert_close(cold.sample(), cold.means[[0, 2]])


# OptimalNormal and Delta


def test_optimal_normal_takes_the_mean_squared_error_over_everything() -> None:
    seen: list[Tensor] = []
    mean, x = numbers(5, 4, 3), numbers(4, 3, seed=3)
    found = OptimalNormal(mean, 1, seen.append, 1e-6).log_prob(x)
    variance = (x - mean).square().mean()
    assert seen[0] == variance
    torch.testing.assert_close(found, Normal(mean, variance.sqrt()).log_prob(x).sum(-1))


def test_optimal_normal_never_divides_by_zero() -> None:
    x = numbers(4, 3)
    assert torch.isfinite(OptimalNormal(x.clone(), 1, nothing, 1e-6).log_prob(x)).all()


def test_a_point_mass_has_samples_and_refuses_a_density() -> None:
    value = numbers(4, 3)
    point = Delta(value)
    assert torch.equal(point.rsample((2,)), value.expand(2, 4, 3))
    assert not point.has_density
    with pytest.raises(NotImplementedError, match="no density"):
        point.log_prob(value)
