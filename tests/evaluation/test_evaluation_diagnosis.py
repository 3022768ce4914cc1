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
from sfumato.evaluation import Estimate
from sfumato.evaluation.diagnosis import Course, Finding, Settings, Symptoms, diagnose, measure
from sfumato.evaluation.diagnosis.rules import reduction_factor
from sfumato.evaluation.diagnosis.symptoms import noise_cost, of_batch, some
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.objectives import ELBO
from sfumato.verbs.doctor import course_of_lines

SETTINGS = Settings("ELBO", "Bernoulli", None, "DiagonalGaussian", 1.0, 0.0, 784, 20, 128, 60_000, 10_000, 1e-3)
COURSE = Course("finished", 10_000, best_step=9_000)


def names(settings: Settings = SETTINGS, course: Course = COURSE) -> dict[str, str]:
    return {finding.name: finding.severity for finding in diagnose(Symptoms(settings, course))}


def spread(scale: float) -> Gaussian:
    """A learned variance that begins where it will end, as one does whose training was long enough."""
    return Gaussian((DIMS,), "shared", scale)


@pytest.fixture(scope="session")
def healthy() -> Patient:
    schedule = WarmUpCosine(300, warmup=20)
    return train(build=partial(vae, spread(0.3)), steps=300, schedule=schedule, ema_decay=0.98, evaluate_every=12)


@pytest.fixture(scope="session")
def in_health(healthy: Patient) -> Symptoms:
    return healthy.symptoms()


@pytest.fixture(scope="session")
def well(in_health: Symptoms) -> set[str]:
    """What is found in a healthy run."""
    return {finding.name for finding in diagnose(in_health)}


@pytest.fixture(scope="session")
def conditional() -> Patient:
    schedule = WarmUpCosine(300, warmup=10)
    return train(dataset("classes"), partial(vae, spread(0.2), 2, classes=True), steps=300, schedule=schedule)


@pytest.fixture(scope="session")
def with_classes(conditional: Patient) -> Symptoms:
    return conditional.symptoms()


@pytest.fixture(scope="session")
def cheap() -> Symptoms:
    return train(beta=0.1).symptoms()


def found_in(symptoms: Symptoms) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(symptoms)}


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


def test_a_training_is_measured_with_its_beta(in_health: Symptoms, cheap: Symptoms) -> None:
    for symptoms, beta in ((in_health, 1.0), (cheap, 0.1)):
        measured = symptoms.measured
        assert measured is not None
        assert measured.balance == pytest.approx(beta, rel=0.25)


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


def test_measuring_changes_nothing_and_repeats(conditional: Patient, with_classes: Symptoms) -> None:
    before = {name: value.clone() for name, value in conditional.model.state_dict().items()}
    noise = torch.get_rng_state()
    again = measure(conditional.model, conditional.preprocessing, conditional.data)
    assert with_classes.measured is not None
    assert again.to_dict() == with_classes.measured.to_dict()
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in conditional.model.state_dict().items())
    assert not any(
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in conditional.model.parameters()
    )


# -- a healthy run, and one for each disease


def test_healthy_runs_have_no_finding_but_notes(well: set[str], with_classes: Symptoms) -> None:
    assert well == set()
    found = found_in(with_classes)
    assert all(finding.severity == "note" for finding in found.values())
    assert "ignored labels" not in found


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
    symptoms = patient.symptoms()
    finding = found_in(symptoms)["collapsed dimensions"]
    assert "1 of 3" in finding.symptom
    assert finding.symptom.endswith(": 2.")
    never = replace(symptoms, course=replace(patient.course, peak_kl=(1.0, 1.0, 0.01)))
    assert "collapsed dimensions" not in found_in(never)


@pytest.mark.parametrize("kind", ["beta 0", "dirac"])
def test_without_a_price_the_noise_dies(kind: str) -> None:
    if kind == "dirac":
        patient = train(build=partial(vae, dirac=True), objective=ELBO(beta=0.0), steps=40)
    else:
        patient = train(beta=0.0)
    symptoms = patient.symptoms()
    measured = symptoms.measured
    assert measured is not None
    assert kind == "dirac" or (measured.balance is not None and measured.balance < 0.05)
    finding = found_in(symptoms)["noise-free limit"]
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


def test_a_training_with_the_weight_of_a_mean_shows_it(well: set[str]) -> None:
    finding = train(beta=1 / DIMS, steps=40).findings()["mean and sum mixed up"]
    assert f"1 / {DIMS}" in finding.symptom
    assert "mean and sum mixed up" not in well


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
    assert names(course=replace(short, state="finished"))["KL weight below beta"] == "problem"
    assert names(course=replace(short, state="stopped"))["KL weight below beta"] == "warning"
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


def test_a_decoder_variance_at_its_floor(healthy: Patient, well: set[str]) -> None:
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
    assert "saturated decoder variance" not in well


def test_an_aggregate_posterior_that_is_not_the_prior(healthy: Patient) -> None:
    """The codes are moved away, and the decoder follows: the same reconstructions, other samples."""
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.posterior.mean)[-1].bias += 3
        first = linears(patient.model.decoder)[0]
        first.bias -= first.weight.sum(1) * 3
    symptoms = patient.symptoms()
    after = symptoms.measured
    assert after is not None
    assert after.elbo is not None
    assert after.told is not None
    assert after.stray is not None
    assert after.prior_gap is not None
    assert after.told.value > 0.95
    assert after.stray.value > 0.5
    assert after.prior_gap.value > 9, "|3|^2 / 2 in three dimensions is 13.5"
    assert found_in(symptoms)["prior mismatch"].severity == "problem"
    early = replace(symptoms, course=replace(symptoms.course, state="running", step=STEPS // 3))
    assert "prior mismatch" not in found_in(early)


@pytest.mark.parametrize(
    ("told", "strays", "gap", "error", "severity"),
    [
        (0.95, 0.70, 13.5, 0.01, "problem"),
        (0.95, 0.30, 13.5, 0.01, "warning"),
        (0.95, 0.07, 13.5, 0.01, "note"),  # samples do not show it
        (0.55, 0.70, 13.5, 0.01, "note"),  # nor z
        (0.95, 0.07, 3.0, 0.01, None),  # 3 of 20 nats
        (0.55, 0.70, 0.5, 0.01, None),
        (0.95, 0.70, 4.3, 0.20, None),  # so few examples that nothing is sure
    ],
)
def test_a_mismatch_is_as_bad_as_its_samples(
    told: float, strays: float, gap: float, error: float, severity: str | None, in_health: Symptoms
) -> None:
    assert in_health.measured is not None
    numbers = {"told": told, "stray": strays, "prior_gap": gap, "rate": 20.0}
    estimates = {name: Estimate(value, error, 300, "") for name, value in numbers.items()}
    found = found_in(replace(in_health, measured=replace(in_health.measured, **estimates)))
    assert (found["prior mismatch"].severity if "prior mismatch" in found else None) == severity


@pytest.mark.parametrize(("gap", "found"), [(1.5, False), (3.0, True)])
def test_learning_by_heart_is_a_share_of_the_elbo(gap: float, found: bool, in_health: Symptoms) -> None:
    assert in_health.measured is not None
    numbers = {"elbo": -100.0, "train_elbo": -100.0 + gap}  # 2 % of it, and far more than chance
    estimates = {name: Estimate(value, 0.1, 300, "nats") for name, value in numbers.items()}
    assert ("overfitting" in found_in(replace(in_health, measured=replace(in_health.measured, **estimates)))) == found


@pytest.mark.parametrize(("worth", "found"), [(0.01, True), (0.5, False)])
def test_a_z_that_is_worth_half_a_nat_has_not_collapsed(worth: float, found: bool, in_health: Symptoms) -> None:
    assert in_health.measured is not None
    measured = replace(in_health.measured, use_of_z=Estimate(worth, 0.001, 300, "nats"))
    assert ("posterior collapse" in found_in(replace(in_health, measured=measured))) == found


def test_a_rate_that_is_too_high_makes_the_model_worse_than_a_fresh_one() -> None:
    patient = train(steps=60, learning_rate=30.0, schedule=Constant(), patience=0)
    finding = patient.findings()["learning rate too high"]
    assert finding.severity == "problem"
    assert finding.options == ("--lr", "0.001")
    assert names(replace(SETTINGS, learning_rate=0.05))["learning rate too high"] == "warning"
    assert names(replace(SETTINGS, learning_rate=0.02)) == {}
    falling = replace(COURSE, elbo=((0, -100.0), (10, -300.0), (20, -200.0)))
    assert names(course=falling)["learning rate too high"] == "problem"
    assert "learning rate too high" not in names(replace(SETTINGS, beta=0.0), falling), "not trained for the ELBO"


def test_splits_of_different_kinds_and_splits_that_share_examples(healthy: Patient) -> None:
    x = healthy.data.x.copy()
    x[healthy.data.rows("validation")] *= -1.0
    x[healthy.data.rows("validation")] += 2.0
    found = altered(healthy, replace(healthy.data, x=x)).findings()
    assert found["splits differ"].severity in ("problem", "warning")
    assert "overfitting" not in found, "that is not what makes validation worse"
    copies = {0: None, 1: "note", 50: "warning", 500: "problem"}
    for crossing, severity in copies.items():
        settings = replace(SETTINGS, crossing=crossing, held_out=2_000)
        assert names(settings).get("examples in several splits") == severity


def test_a_learned_variance_that_has_no_time_to_settle(well: set[str]) -> None:
    found = train(steps=80, learning_rate=1e-2, schedule=Constant()).findings()
    assert "times the mean squared error" in found["decoder variance not settled"].symptom
    assert "decoder variance not settled" not in well


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
    decayed = replace(COURSE, elbo=tuple((10 * step, -100 - 50 * (1 - step / 20) ** 3) for step in range(21)))
    assert names(course=decayed)["trained too short"] == "note", "flat at its end, as a rate that falls to 0 makes it"
    assert names(course=replace(decayed, step=8_000)) == {}, "patience ended it: there was no more to gain"
    level = replace(COURSE, elbo=tuple((10 * step, -100 - 50 * 0.5**step) for step in range(20)))
    assert names(course=level) == {}


def test_steps_and_weights_that_are_not_finite(healthy: Patient) -> None:
    patient = altered(healthy)
    with torch.no_grad():
        linears(patient.model.decoder)[0].bias[0] = math.nan
    finding = patient.findings()["non-finite weights"]
    assert finding.options == ("--lr", "0.002")
    assert names(course=replace(COURSE, skipped=3))["skipped steps"] == "note"
    assert names(course=replace(COURSE, skipped=300))["skipped steps"] == "warning"
    assert names(course=replace(COURSE, recoveries=1))["non-finite steps"] == "warning"
    lines = [{"step": 1, "split": "validation", "elbo": None, "kl": 1.0, "skipped": 4}]
    course = course_of_lines(lines, None, 10, None)
    assert (course.broken, course.skipped, course.elbo) == (1, 4, ())
    assert names(course=course)["non-finite steps"] == "problem"


def test_labels_that_say_nothing_are_ignored(conditional: Patient, with_classes: Symptoms) -> None:
    finding = train(dataset("coin"), partial(vae, classes=True), steps=80).findings()["ignored labels"]
    assert finding.options == ("--condition", "decoder")
    measured = with_classes.measured
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


def test_too_many_and_too_few_latents(healthy: Patient, well: set[str], cheap: Symptoms) -> None:
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
    assert "too many latents" not in well
    full = replace(cheap, settings=replace(cheap.settings, pca_95=9))
    assert found_in(full)["too few latents"].options == ("--latent-dim", "6")
    assert "too few latents" not in found_in(cheap)


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
