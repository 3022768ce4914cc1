"""The contract of ``sfumato.likelihoods``."""

from __future__ import annotations

import math

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes
from densities import density_matches_samples, frequencies_agree
from torch.distributions import Normal

from sfumato import likelihoods
from sfumato.core.errors import UserError
from sfumato.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Masked,
    Mixed,
    MixtureOfLogistics,
    NegativeBinomial,
    Ordinal,
    Perceptual,
    Poisson,
    StudentT,
    ZeroInflated,
)
from sfumato.networks import MLP

VARIANCES = ("fixed", "shared", "per_dimension", "predicted", "optimal")
SCALES = ("shared", "per_dimension", "predicted")
REAL = (Gaussian, Laplace, StudentT, Perceptual)
COUNTS = (Poisson, NegativeBinomial, ZeroInflated)


def data(likelihood, dtype: torch.dtype) -> torch.Tensor:
    """Return legal data, (4, *shape)."""
    values = numbers(4, *likelihood.shape, dtype=dtype, seed=5)
    if isinstance(likelihood, Masked):
        return torch.where(values > 0.7, torch.nan, data(likelihood.likelihood, dtype))
    if isinstance(likelihood, Mixed):
        columns = torch.cat([data(part, dtype) for part in likelihood.parts], -1)
        return columns[:, sorted(range(len(likelihood.places)), key=likelihood.places.__getitem__)]
    if isinstance(likelihood, REAL):
        return values
    if isinstance(likelihood, ContinuousBernoulli):
        return values.sigmoid()
    if isinstance(likelihood, COUNTS):
        return (3 * values.abs()).floor() * (values < 1)
    levels = getattr(likelihood, "levels", 2)
    whole = ((values + 2) / 4 * levels).floor().clamp(0, levels - 1)
    return whole / (levels - 1) if isinstance(likelihood, DiscretizedLogistic | MixtureOfLogistics) else whole


def expectation(likelihood, distribution) -> torch.Tensor:
    own = getattr(likelihood, "expectation", None)
    return own(distribution) if own else distribution.mean


def call(likelihood, dtype: torch.dtype, scale: float) -> Numbers:
    likelihood.eval()
    parameters = numbers(3, 4, *likelihood.parameter_shape, dtype=dtype, scale=scale)
    observation = likelihood(parameters)
    return [
        observation.log_prob(data(likelihood, dtype)),
        *([] if scale > 1 else [expectation(likelihood, observation)]),
    ]


def case(name: str, build) -> Case:
    return Case(name, build, call)


def table() -> Mixed:
    """Two real columns, a count, a binary, a categorical and an ordinal one."""
    real, count = Gaussian((2,), "per_dimension"), NegativeBinomial((1,))
    return Mixed((real, count, Bernoulli((1,)), Categorical((1,), 3), Ordinal((1,), 4)), (0, 4, 1, 2, 5, 3))


EXAMPLES = {
    "Bernoulli": [case("vector", lambda: Bernoulli((3,))), case("image", lambda: Bernoulli((1, 2, 3)))],
    "Categorical": [case("vector", lambda: Categorical((3,), 4)), case("image", lambda: Categorical((2, 2, 3), 3))],
    "DiscretizedLogistic": [
        case("vector", lambda: DiscretizedLogistic((3,))),
        case("image", lambda: DiscretizedLogistic((2, 2, 3), levels=16)),
    ],
    "Masked": [
        case("vector", lambda: Masked(Gaussian((3,), "per_dimension"))),
        case("image", lambda: Masked(Gaussian((2, 2, 3), "predicted"))),
        case("bernoulli", lambda: Masked(Bernoulli((3,)))),
        case("categorical", lambda: Masked(Categorical((2, 3), 4))),
    ],
    "Poisson": [
        case("vector", lambda: Poisson((3,), means=(0.5, 1.0, 20.0))),
        case("observed", lambda: Poisson((1, 2, 3), library="observed")),
    ],
    "NegativeBinomial": [
        case("vector", lambda: NegativeBinomial((3,))),
        case("predicted", lambda: NegativeBinomial((2, 3), "predicted", means=(1.0, 2.0, 3.0, 0.1, 1.0, 9.0))),
        case("observed", lambda: NegativeBinomial((3,), library="observed", means=(1.0, 2.0, 3.0))),
    ],
    "ZeroInflated": [
        case("poisson", lambda: ZeroInflated(Poisson((3,)))),
        case("predicted", lambda: ZeroInflated(NegativeBinomial((2, 3), "predicted"))),
        case("observed", lambda: ZeroInflated(NegativeBinomial((3,), library="observed"))),
    ],
    "ContinuousBernoulli": [
        case("vector", lambda: ContinuousBernoulli((3,))),
        case("image", lambda: ContinuousBernoulli((1, 2, 3))),
    ],
    "Laplace": [case(name, lambda name=name: Laplace((2, 3), name, 0.7)) for name in SCALES],
    "StudentT": [case(name, lambda name=name: StudentT((2, 3), name, 0.7)) for name in SCALES],
    "Ordinal": [case("vector", lambda: Ordinal((3,), 4)), case("image", lambda: Ordinal((2, 3), 3))],
    "MixtureOfLogistics": [
        case("vector", lambda: MixtureOfLogistics((3,), components=2)),
        case("colour", lambda: MixtureOfLogistics((3, 2, 2), components=3, levels=16)),
        case("grey", lambda: MixtureOfLogistics((1, 2, 2), components=3)),
    ],
    "Perceptual": [case("", lambda: Perceptual(MLP((3,), (4,), hidden=(5,), activation="tanh"), 0.7))],
    "Mixed": [case("", table)],
    "Gaussian": [
        *[case(name, lambda name=name: Gaussian((3,), variance=name, scale=0.7)) for name in VARIANCES],
        *[case(f"{name}-image", lambda name=name: Gaussian((2, 2, 3), variance=name)) for name in VARIANCES],
    ],
}


def test_every_public_class_has_examples() -> None:
    covered(likelihoods, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(likelihoods))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestLikelihoods(ModuleContract):
    def test_shapes(self, case: Case) -> None:
        likelihood = case.build().eval()
        x = data(likelihood, torch.float32)
        if not isinstance(likelihood, Mixed):
            assert likelihood.parameter_shape == (likelihood.numbers_per_value, *likelihood.shape)
        for lead in ((), (4,), (3, 4)):
            observation = likelihood(torch.zeros(*lead, *likelihood.parameter_shape))
            assert observation.batch_shape == lead
            assert observation.event_shape == likelihood.shape
            assert observation.log_prob(x if lead else x[0]).shape == lead
            assert observation.sample((2,)).shape == (2, *lead, *likelihood.shape)
            assert expectation(likelihood, observation).shape == (*lead, *likelihood.shape)

    def test_a_wrong_width_is_refused_with_the_cure(self, case: Case) -> None:
        likelihood = case.build()
        first, *rest = likelihood.parameter_shape
        wider = (first + 1, *rest)
        with pytest.raises(UserError, match=r"needs .* numbers for each data value.*Build the decoder with out_shape="):
            likelihood(torch.zeros(4, *wider))
        with pytest.raises(UserError, match="Build the decoder with out_shape="):
            likelihood(torch.zeros(likelihood.parameter_shape[1:]))

    def test_finite_for_1e9(self, case: Case) -> None:
        likelihood = case.build().eval()
        parameters = (1e9 * numbers(3, 4, *likelihood.parameter_shape, dtype=torch.float32)).requires_grad_()
        density = likelihood(parameters).log_prob(data(likelihood, torch.float32))
        density.sum().backward()
        assert torch.isfinite(density).all()
        assert torch.isfinite(parameters.grad).all()

    def test_examples_do_not_touch_each_other(self, case: Case) -> None:
        likelihood = case.build().eval()
        parameters = numbers(4, *likelihood.parameter_shape, dtype=torch.float32).requires_grad_()
        likelihood(parameters).log_prob(data(likelihood, torch.float32))[1].backward()
        assert parameters.grad[[0, 2, 3]].abs().sum() == 0

    def test_draws_are_legal_data(self, case: Case) -> None:
        likelihood = case.build().eval()
        observation = likelihood(numbers(4, *likelihood.parameter_shape, dtype=torch.float32))
        draws = observation.sample((5,))
        assert torch.isfinite(observation.log_prob(draws)).all()
        if likelihood.discrete:
            assert (observation.log_prob(draws) <= 0).all()


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli((2,)), Categorical((2,), 5), DiscretizedLogistic((2,), levels=5), DiscretizedLogistic((2,))],
    ids=["bernoulli", "categorical", "logistic", "logistic-256"],
)
def test_masses_sum_to_one_and_match_samples(likelihood) -> None:
    levels, samples = getattr(likelihood, "levels", 2), 20_000
    observation = likelihood(numbers(*likelihood.parameter_shape))
    values = torch.arange(levels, dtype=torch.float64)
    scale = levels - 1 if isinstance(likelihood, DiscretizedLogistic) else 1
    grid = torch.cartesian_prod(values, values) / scale
    masses = observation.log_prob(grid).exp()
    assert float(masses.sum()) == pytest.approx(1, abs=1e-6)
    draws = (observation.sample((samples,)).double() * scale).round().long()
    index = draws[:, 0] * levels + draws[:, 1]
    if levels <= 5:
        frequencies_agree(torch.bincount(index, minlength=levels**2) / samples, masses, samples)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("dims", [1, 2])
def test_gaussian_integrates_to_one_and_matches_its_samples(variance: str, dims: int) -> None:
    likelihood = Gaussian((dims,), variance=variance, scale=0.8).double().eval()
    density_matches_samples(likelihood(0.5 * numbers(*likelihood.parameter_shape)), -8.0, 8.0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_by_hand(variance: str) -> None:
    likelihood = Gaussian((3,), variance=variance, scale=0.5).double().eval()
    parameters, x = numbers(4, *likelihood.parameter_shape), numbers(4, 3, seed=5)
    scale = 0.5 * (0.5 * parameters[:, 1]).exp() if variance == "predicted" else torch.tensor(0.5).double()
    expected = Normal(parameters[:, 0], scale).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood(parameters).log_prob(x), expected, rtol=0, atol=1e-3)  # the soft bound


@pytest.mark.parametrize("variance", ["shared", "per_dimension"])
@pytest.mark.parametrize("extreme", [-1e9, -1e4, 1e4, 1e9])
def test_no_learned_variance_makes_inf_or_nan(variance: str, extreme: float) -> None:
    likelihood = Gaussian((3,), variance=variance)
    torch.nn.init.constant_(likelihood.log_variance, extreme)
    density = likelihood(torch.zeros(4, 1, 3)).log_prob(numbers(4, 3, dtype=torch.float32))
    density.sum().backward()
    assert torch.isfinite(density).all()
    assert torch.isfinite(likelihood.log_variance.grad).all()


def test_categorical_expectation() -> None:
    likelihood = Categorical((2,), 3)
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]]).log().clamp(min=-1e4).T
    torch.testing.assert_close(likelihood.expectation(likelihood(logits)), torch.tensor([1.1, 2.0]))


def test_discretized_logistic_starts_at_mid_grey() -> None:
    observation = DiscretizedLogistic((3,))(torch.zeros(2, 3))
    assert (observation.mean == 0.5).all()
    assert observation.log_scale[0] == pytest.approx(-2, abs=0.01)


def test_bernoulli_is_in_nats_and_summed() -> None:
    assert float(Bernoulli((784,))(torch.zeros(1, 784)).log_prob(torch.ones(784))) == pytest.approx(-784 * math.log(2))


def test_missing_values_count_neither_in_the_value_nor_in_the_gradient() -> None:
    whole = Gaussian((3,), variance="predicted")
    parameters = numbers(4, 2, 3).requires_grad_()
    x = numbers(4, 3, seed=5)
    x[1, 2] = x[3, 0] = torch.nan
    found = Masked(whole)(parameters).log_prob(x)
    each = whole(parameters).base_dist.log_prob(x)
    torch.testing.assert_close(found, each.nansum(-1))
    found.sum().backward()
    assert (parameters.grad[[1, 3], :, [2, 0]] == 0).all()
    assert (parameters.grad[0] != 0).all()
    assert torch.isfinite(parameters.grad).all()


def test_masked_refuses_what_looks_at_the_batch() -> None:
    with pytest.raises(UserError, match="variance='per_dimension'"):
        Masked(Gaussian((3,), variance="optimal"))
    with pytest.raises(UserError, match="scores each value on its own; got"):
        Masked(DiscretizedLogistic((3,)))(torch.zeros(2, *DiscretizedLogistic((3,)).parameter_shape))
