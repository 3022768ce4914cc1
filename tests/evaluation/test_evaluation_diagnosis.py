"""Each disease is found in a model that truly has it, and not in one that has not; symptoms against exact answers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from diseased import CLASSES, DIMS, STEPS, Patient, dataset, train, vae
from exact_models import LOADING, MEANS, PRECISION, SCALE, data, linear_vae, log_evidence
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import Constant, WarmUp, WarmUpCosine
from sfumato.data import Dataset, Identity, InMemory, Levels
from sfumato.evaluation.diagnosis import Course, Settings, Symptoms, diagnose, measure
from sfumato.evaluation.diagnosis.rules import reduction_factor
from sfumato.evaluation.diagnosis.symptoms import energy_distances, noise_cost, of_batch, some, told_apart
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.objectives import ELBO
from sfumato.verbs.doctor import course_of_lines

SETTINGS = Settings("ELBO", "Bernoulli", None, "DiagonalGaussian", 1.0, 0.0, 784, 20, 128, 60_000, 10_000, 1e-3)
COURSE = Course("finished", 10_000, best_step=9_000)


def names(settings: Settings = SETTINGS, course: Course = COURSE) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnose(Symptoms(settings, course))}


@pytest.fixture(scope="session")
def healthy() -> Patient:
    schedule = WarmUpCosine(300, warmup=20)
    return train(steps=300, learning_rate=1e-2, schedule=schedule, ema_decay=0.98, evaluate_every=12, warm=30)


@pytest.fixture(scope="session")
def conditional() -> Patient:
    return train(dataset("classes"), partial(vae, classes=True))


@pytest.fixture(scope="session")
def cheap() -> Patient:
    return train(beta=0.1)


def altered(patient: Patient, data: Dataset | None = None) -> Patient:
    """Return a copy whose model may be damaged."""
    return replace(patient, model=copy.deepcopy(patient.model), data=data or patient.data)


def linears(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


# -- the symptoms, against exact answers


@pytest.mark.parametrize("spread", [0.3, 1.0, 1.7])
def test_the_balance_is_exact_for_a_linear_model(spread: float) -> None:
    """E[(z - mu) . grad] = sum sigma_i^2 H_ii with H = W'W / s^2, and sigma_i^2 = spread^2 (H + I)^-1_ii."""
    model, x = linear_vae(spread), data(40)
    hessian = LOADING.T @ LOADING / SCALE**2
    variances = spread**2 * PRECISION.inverse().diagonal()
    posterior = model.posterior(x)
    with fixed_noise(0):
        draws = [noise_cost(model, x, None, posterior.rsample((1,)), posterior.mean) for _ in range(400)]
    cost = torch.cat(draws)
    exact = float((variances * hessian.diagonal()).sum())
    assert abs(float(cost.mean()) - exact) < 4 * float(cost.std()) / math.sqrt(len(cost))
    balance = exact / float((1 - variances).sum())
    assert (abs(balance - 1) < 1e-12) == (spread == 1.0)  # at the exact posterior the noise is paid with beta 1


def test_a_training_is_measured_with_its_beta(healthy: Patient, cheap: Patient) -> None:
    for patient, beta in ((healthy, 1.0), (cheap, 0.1)):
        measured = patient.symptoms().measured
        assert measured is not None
        assert measured.balance == pytest.approx(beta, rel=0.25)


def test_a_classifier_tells_apart_what_differs_and_nothing_else() -> None:
    with fixed_noise(3):
        a, b = torch.randn(800, 4), torch.randn(800, 4)
        same = told_apart(a, b)
        moved = told_apart(a, b + 2.0)  # the best possible: Phi(1 sqrt 4) = 0.977
        wider = told_apart(a, b * 3)
    assert abs(same.value - 0.5) < 4 * same.standard_error
    assert abs(moved.value - 0.977) < 0.02
    assert wider.value > 0.8


def test_the_energy_distance_is_exact_and_fair() -> None:
    """Of N(m, 1) and N(0, 1): 2 E|a - b| - 2 E|b - b'|, with E|N(m, 2)| in closed form."""
    with fixed_noise(4):
        a, b, shift = torch.randn(5_000, 1), torch.randn(5_000, 1), 1.5
        far, near = energy_distances(a + shift, b), energy_distances(a, b)
    root = math.sqrt(2)
    absolute = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    spread = root * math.sqrt(2 / math.pi)
    exact = (2 * absolute - 2 * spread) / spread
    assert abs(float(far.mean()) - exact) < 4 * float(far.std()) / math.sqrt(5)
    assert abs(float(near.mean())) < 4 * float(near.std()) / math.sqrt(5)


def test_what_y_tells_is_the_difference_of_the_bounds_of_a_linear_model() -> None:
    """With an exact encoder that sees y the ELBO is log p(x | y), so the gain is a log-ratio of Gaussians."""
    model, x = linear_vae(classes="encoder"), data(60)
    table = torch.stack([log_evidence(x, centre) for centre in MEANS], -1)
    y = table.argmax(-1)
    gain = torch.stack([of_batch(model, x, y, seed)["label_gain"] for seed in range(40)])
    right = table.gather(1, y[:, None])[:, 0]
    others = torch.stack([right - table[torch.arange(60), (y + step) % 3] for step in (1, 2)])
    means = gain.mean(1)
    assert abs(float(means.mean()) - float(others.mean())) < 4 * float(means.std()) / math.sqrt(40)
    assert float(others.mean()) > 1


def test_some_examples_are_spread_evenly() -> None:
    few = some(InMemory(torch.arange(1001.0)[:, None]), 5)
    assert few.x[:, 0].tolist() == [0, 250, 500, 750, 1000]
    assert len(some(few, 10)) == 5


def test_measuring_changes_nothing_and_repeats(conditional: Patient) -> None:
    before = {name: value.clone() for name, value in conditional.model.state_dict().items()}
    noise = torch.get_rng_state()
    first, second = (measure(conditional.model, conditional.preprocessing, conditional.data) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in conditional.model.state_dict().items())
    assert not any(
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in conditional.model.parameters()
    )


# -- a healthy run, and one for each disease


def test_healthy_runs_have_no_finding_but_notes(healthy: Patient, conditional: Patient) -> None:
    assert healthy.findings() == {}
    assert all(finding.severity == "note" for finding in conditional.findings().values())
    assert "ignored labels" not in conditional.findings()


def test_a_high_beta_collapses_the_posterior() -> None:
    found = train(beta=50.0, steps=100).findings()
    assert found["posterior collapse"].severity == "problem"
    assert "0 of 3 latent dimensions are active" in found["posterior collapse"].symptom
    assert found["posterior collapse"].options == ("--beta", "1")
    assert "unusual KL weight" in found


def test_dimensions_that_were_in_use_and_died_are_named(healthy: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():  # the last latent dimension goes back to the prior
        for head, target in ((patient.model.posterior.mean, 0.0), (patient.model.posterior.log_variance, 0.0)):
            linears(head)[-1].weight[2] = 0
            linears(head)[-1].bias[2] = target
    finding = patient.findings()["collapsed dimensions"]
    assert "1 of 3" in finding.symptom
    assert finding.symptom.endswith(": 2.")
    never = replace(patient, course=replace(patient.course, peak_kl=(1.0, 1.0, 0.01)))
    assert "collapsed dimensions" not in never.findings()


@pytest.mark.parametrize("kind", ["beta 0", "dirac"])
def test_without_a_price_the_noise_dies(kind: str) -> None:
    if kind == "dirac":
        patient = train(build=partial(vae, dirac=True), objective=ELBO(beta=0.0), steps=40)
    else:
        patient = train(beta=0.0)
        measured = patient.symptoms().measured
        assert measured is not None
        assert measured.balance is not None
        assert measured.balance < 0.05
    finding = patient.findings()["noise-free limit"]
    assert finding.severity == "problem"
    assert finding.options == ("--beta", "1")
    assert "sigma" in finding.symptom


def test_a_variance_below_its_price_is_dying_and_far_below_it_is_dead(healthy: Patient) -> None:
    patient = altered(healthy)
    head = linears(patient.model.posterior.log_variance)[-1]
    for factor, name in ((3.8, "dying variance"), (8.0, "noise-free limit"), (1.0, None)):
        with torch.no_grad():
            head.bias -= 2 * math.log(factor)
        found = patient.findings()
        assert {"dying variance", "noise-free limit"} & set(found) == ({name} if name else set())
        assert name is None or found[name].options == ("--steps", "600"), "beta is 1 already"
        with torch.no_grad():
            head.bias += 2 * math.log(factor)


def test_free_bits_that_are_not_used_up_are_no_disease(healthy: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.posterior.log_variance)[-1].bias -= 2 * math.log(6.0)
    patient.settings = replace(patient.settings, free_bits=100.0)
    assert not {"dying variance", "noise-free limit"} & set(patient.findings())


def test_a_posterior_wider_than_its_prior_is_exploding(healthy: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.posterior.log_variance)[-1].bias[1] += 2 * math.log(20.0)
    finding = patient.findings()["exploding variance"]
    assert "in dimensions 1" in finding.symptom


@pytest.mark.parametrize(
    ("beta", "words"),
    [
        (1 / 784, "one over the values"),
        (20 / 784, "latent dimensions over values"),
        (128 / 60_000, "batch over training"),
        (1 / 20, "one over the latent"),
        (1 / 128, "one over the batch"),
        (784.0, "the values of an example"),
        (784 / 20, "values over latent"),
    ],
)
def test_a_mean_taken_for_a_sum_is_named_by_its_factor(beta: float, words: str) -> None:
    settings = replace(SETTINGS, beta=beta)
    assert words in reduction_factor(beta, settings)
    assert names(settings)["mean and sum mixed up"] == "problem"
    assert "mean and sum mixed up" not in names(replace(SETTINGS, beta=1.07 * beta))


@given(st.floats(0.34, 2.9))
def test_ordinary_weights_are_no_finding(beta: float) -> None:
    assert names(replace(SETTINGS, beta=beta)) == {}


def test_a_training_with_the_weight_of_a_mean_shows_it(healthy: Patient) -> None:
    finding = train(beta=1 / DIMS, steps=40).findings()["mean and sum mixed up"]
    assert f"1 / {DIMS}" in finding.symptom
    assert "mean and sum mixed up" not in healthy.findings()


@pytest.mark.parametrize(("factor", "words"), [(0.1, "smaller"), (10.0, "as large as"), (1.0, None)])
def test_a_fixed_decoder_variance_that_is_far_off(factor: float, words: str | None, healthy: Patient) -> None:
    """The learned deviation is right; ten times more or less is a KL weight of 100 or 1/100."""
    patient = altered(healthy)
    right = math.exp(0.5 * float(healthy.model.likelihood.log_variance.detach()))
    patient.model.likelihood = Gaussian((DIMS,), "fixed", factor * right)
    patient.settings = replace(patient.settings, variance="fixed")
    found = patient.findings()
    assert ("decoder variance off" in found) == (words is not None)
    assert words is None or words in found["decoder variance off"].symptom


def test_the_weight_of_the_kl_must_reach_beta() -> None:
    lines = [{"step": step, "split": "validation", "elbo": -1.0, "kl_per_dimension": [1.0]} for step in (0, 50, 100)]
    short = course_of_lines(lines, WarmUp(400), 100, 50)
    assert short.weight == 0.25
    assert names(course=replace(short, state="stopped"))["KL weight below beta"] == "problem"
    assert names(course=replace(short, state="running")) == {}
    early = course_of_lines(lines, WarmUp(80), 100, 50)
    assert names(course=replace(early, state="finished"))["KL weight below beta"] == "warning"
    for right in (course_of_lines(lines, WarmUp(50), 100, 50), course_of_lines(lines, Constant(), 100, 0)):
        assert names(course=replace(right, state="finished")) == {}


def test_a_bernoulli_likelihood_of_grey_values() -> None:
    build = partial(vae, Bernoulli((DIMS,)))
    patient = train(dataset("grey"), build, preprocessing=Levels((DIMS,)), steps=40)
    finding = patient.findings()["Bernoulli on grey values"]
    assert finding.severity == "problem"
    assert "--binarise dynamic" in finding.do
    x = (patient.data.x > 127).astype("float32")
    binary = replace(patient, data=replace(patient.data, x=x), preprocessing=Identity((DIMS,)))
    assert "Bernoulli on grey values" not in binary.findings()


def test_a_decoder_variance_at_its_floor(healthy: Patient) -> None:
    """Three columns are constant, and their own variances have followed them down."""
    patient = altered(healthy, dataset("constant"))
    patient.model.likelihood = Gaussian((DIMS,), "per_dimension", scale=0.3)
    with torch.no_grad():
        patient.model.likelihood.log_variance[:3] = -20.0
    finding = patient.findings()["saturated decoder variance"]
    assert finding.severity == "problem"
    assert f"{3 / DIMS:.1%}" in finding.symptom
    with torch.no_grad():
        patient.model.likelihood.log_variance.fill_(20.0)
    assert "highest" in patient.findings()["saturated decoder variance"].symptom
    assert "saturated decoder variance" not in healthy.findings()


def test_an_aggregate_posterior_that_is_not_the_prior(healthy: Patient) -> None:
    """The codes are moved away, and the decoder follows: the same reconstructions, other samples."""
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.posterior.mean)[-1].bias += 3
        first = linears(patient.model.decoder)[0]
        first.bias -= first.weight.sum(1) * 3
    before, after = healthy.symptoms().measured, patient.symptoms().measured
    assert before is not None
    assert after is not None
    assert before.reconstructions is not None
    assert after.reconstructions == pytest.approx(before.reconstructions, abs=0.02)
    assert after.told is not None
    assert after.told.value > 0.95
    finding = patient.findings()["prior mismatch"]
    assert finding.severity == "problem"
    assert "prior mismatch" not in healthy.findings()


def test_learning_by_heart() -> None:
    few = train(dataset(n=150, train=0.2, noise=1.0), partial(vae, width=64, latent=6), warm=1, steps=300)
    finding = few.findings()["overfitting"]
    assert "30 training examples" in finding.why


def test_a_model_that_a_simple_one_beats() -> None:
    bad = replace(COURSE, evidence=(-120.0, 1.0), baselines={"independent": (-100.0, 1.0), "ppca": (-90.0, 1.0)})
    assert names(course=bad)["underfitting"] == "problem"
    (finding,) = diagnose(Symptoms(SETTINGS, bad))
    assert "probabilistic PCA" in finding.symptom
    assert names(course=replace(bad, evidence=(-89.0, 1.0)))["underfitting"] == "warning"
    assert names(course=replace(bad, evidence=(-80.0, 1.0))) == {}


def test_a_training_that_ended_too_soon() -> None:
    patient = train(steps=50, schedule=Constant(), learning_rate=2e-3, evaluate_every=2, warm=5)
    finding = patient.findings()["trained too short"]
    assert finding.options == ("--steps", "100")
    level = replace(COURSE, elbo=tuple((10 * step, -100 - 50 * 0.5**step) for step in range(20)))
    assert names(course=level) == {}


def test_steps_and_weights_that_are_not_finite(healthy: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.decoder)[0].bias[0] = math.nan
    finding = patient.findings()["non-finite weights"]
    assert finding.options == ("--lr", "0.001")
    assert names(course=replace(COURSE, skipped=3))["skipped steps"] == "note"
    assert names(course=replace(COURSE, skipped=300))["skipped steps"] == "warning"
    assert names(course=replace(COURSE, recoveries=1))["non-finite steps"] == "warning"
    lines = [{"step": 1, "split": "validation", "elbo": None, "kl": 1.0, "skipped": 4}]
    course = course_of_lines(lines, None, 10, None)
    assert (course.broken, course.skipped, course.elbo) == (1, 4, ())
    assert names(course=course)["non-finite steps"] == "problem"


def test_labels_that_say_nothing_are_ignored(conditional: Patient) -> None:
    finding = train(dataset("coin"), partial(vae, classes=True)).findings()["ignored labels"]
    assert finding.options == ("--condition", "decoder")
    measured = conditional.symptoms().measured
    assert measured is not None
    assert measured.label_gain is not None
    assert measured.label_moves is not None
    assert measured.label_gain.value > 1
    assert measured.label_moves > 0.5
    patient = altered(conditional)
    with torch.no_grad():  # all classes get one mean: now y changes nothing at all
        patient.model.prior.means.copy_(patient.model.prior.means.mean(0).expand(CLASSES, -1))
    said = patient.findings()["ignored labels"]
    assert "moves by 0.0%" in said.symptom
    assert said.severity == "problem"


def test_too_many_and_too_few_latents(healthy: Patient, cheap: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():
        for number in (0, 1):
            for head in (patient.model.posterior.mean, patient.model.posterior.log_variance):
                linears(head)[-1].weight[number] = 0
                linears(head)[-1].bias[number] = 0
    patient.course = replace(patient.course, peak_kl=(0.01, 0.01, 2.0))
    finding = patient.findings()["too many latents"]
    assert finding.severity == "note"
    assert finding.options == ("--latent-dim", "2")
    assert "too many latents" not in healthy.findings()
    full = replace(cheap, settings=replace(cheap.settings, pca_95=9))
    assert full.findings()["too few latents"].options == ("--latent-dim", "6")
    assert "too few latents" not in cheap.findings()


# -- the findings themselves


def test_a_model_that_has_hardly_begun_is_not_judged(healthy: Patient) -> None:
    fresh = replace(healthy, model=vae())
    fresh.course = replace(fresh.course, step=2, state="running")
    assert fresh.findings() == {}
    fresh.course = replace(fresh.course, step=STEPS, state="running")
    assert fresh.findings() != {}


def test_every_finding_is_whole_sentences_with_numbers_and_an_option() -> None:
    course = replace(
        COURSE, skipped=500, best_step=3, best_weight=0.1, evidence=(-9.0, 0.1), baselines={"ppca": (-2.0, 0.1)}
    )
    found = diagnose(Symptoms(replace(SETTINGS, beta=1 / 784), course))
    assert len(found) >= 4
    order = [finding.severity for finding in found]
    assert order == sorted(order, key=("problem", "warning", "note").index)
    for finding in found:
        assert any(character.isdigit() for character in finding.symptom)
        for text in (finding.symptom, finding.why, finding.do):
            assert text.endswith(".")
        if finding.options:
            assert finding.options[0] in finding.do
        assert set(finding.to_dict()) == {"name", "severity", "symptom", "why", "do", "options"}
