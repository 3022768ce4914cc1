"""L_K, its curve and the record of everything, against exact answers and against their definitions."""

import json
import math

import numpy as np
import pytest
import torch
from exact_models import DIMS, data, linear_vae, log_evidence

from sfumato.core.errors import UserError
from sfumato.data import Binarise, Dataset, Identity
from sfumato.evaluation import evaluate, evidence_bound
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.evidence import CURVE, find_evidence, importance_curve, log_weights
from sfumato.evaluation.measuring import measuring
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import SecondStage, StandardNormal

QUICK = Annealing(temperatures=20, chains=6, leapfrogs=3, burn_in=8)


def dataset(x, name="toy"):
    rows = np.arange(len(x))
    return Dataset(name, np.asarray(x), None, {"train": rows[:0], "validation": rows[:0], "test": rows}, ())


def labelled_vae():
    torch.manual_seed(0)
    networks = [WithLabel(MLP((5 + 3,), (2,), hidden=(8,)), 3) for _ in range(2)]
    decoder = WithLabel(MLP((2 + 3,), (1, 5), hidden=(8,)), 3)
    return VAE(StandardNormal(2), DiagonalGaussian(*networks), decoder, Bernoulli((5,))).double()


def all_weights(model, x, samples, seed=0):
    with measuring(model):
        return torch.cat(list(log_weights(model, x, samples=samples, seed=seed)))


@pytest.mark.parametrize("samples", [1, 7, 100, 1_234])
def test_at_the_exact_posterior_all_draws_weigh_the_same(samples):
    x = data(9)
    found = importance_curve(linear_vae(), x, samples=samples)
    assert list(found.bounds) == [*[k for k in CURVE if k < samples], samples]
    for bound in found.bounds.values():
        torch.testing.assert_close(bound, log_evidence(x), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.effective, torch.full((9,), float(samples)).double(), rtol=1e-9, atol=0)


def test_the_curve_is_the_mean_over_groups_of_one_set_of_draws():
    model, x = linear_vae(spread=1.7), data(30)
    found = importance_curve(model, x, samples=250, seed=4)
    weights = all_weights(model, x, 250, seed=4)
    assert weights.shape == (250, 30)
    for k in (1, 10, 100, 250):
        groups = weights[: 250 // k * k].reshape(250 // k, k, 30)
        expected = (torch.logsumexp(groups, 1) - math.log(k)).mean(0)
        torch.testing.assert_close(found.bounds[k], expected, atol=1e-10, rtol=0)
    share = weights.softmax(0)
    torch.testing.assert_close(found.effective, 1 / share.square().sum(0), rtol=1e-9, atol=0)
    assert ((found.effective >= 1) & (found.effective < 250)).all()


def test_defect_20_the_curve_rises_to_the_evidence():
    model, x = linear_vae(spread=1.7), data(200)
    found = importance_curve(model, x, samples=5_000, seed=1)
    means = [float((bound - log_evidence(x)).mean()) for bound in found.bounds.values()]
    assert means == sorted(means)
    assert list(found.bounds) == list(CURVE)
    assert means[0] < -0.2
    assert abs(means[-1]) < 0.01


@pytest.mark.parametrize("build", [lambda: linear_vae(1.5), lambda: linear_vae(1.5, classes="prior"), labelled_vae])
def test_the_last_point_is_the_bound_and_the_block_changes_no_draw(build):
    model = build()
    x = torch.eye(5).double()[:, : model.decoder.out_shape[-1]]
    whole = importance_curve(model, x, samples=130, seed=3)
    torch.testing.assert_close(whole.bounds[130], evidence_bound(model, x, samples=130, seed=3), atol=1e-9, rtol=0)
    for block in (1, 33, 10**9):
        found = importance_curve(model, x, samples=130, seed=3, block=block)
        torch.testing.assert_close(found.effective, whole.effective)
        for k, bound in found.bounds.items():
            torch.testing.assert_close(bound, whole.bounds[k])


def test_exactly_k_draws_are_decoded():
    model, rows = linear_vae(), []
    model.decoder.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[:-1].numel()))
    importance_curve(model, data(6), samples=137)
    assert sum(rows) == 137 * 6


def test_everything_in_one_record():
    x = np.random.default_rng(1).normal(0, 1.5, (253, DIMS)).astype(np.float32)
    model, parts = linear_vae(spread=1.5).float().train(), []
    found = find_evidence(
        model,
        Identity((DIMS,)),
        dataset(x),
        samples=120,
        annealing=QUICK,
        annealed=20,
        simulated=9,
        together=8,
        seed=3,
        tell=lambda part, done, of: parts.append((part, done, of)),
    )
    assert model.training
    exact = log_evidence(torch.from_numpy(x).double())
    whole = evaluate(model, Identity((DIMS,)), dataset(x), samples=120, seed=3).values["evidence_bound"]
    assert found.bound.value == pytest.approx(whole.value, abs=1e-9)
    assert found.bound.standard_error == pytest.approx(whole.standard_error, rel=1e-9)
    assert found.bound.value == pytest.approx(float(exact.mean()), abs=0.02)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (content["n"], content["samples"], content["seed"], content["split"]) == (253, 120, 3, "test")
    assert [entry["samples"] for entry in content["curve"]] == [1, 10, 100, 120]
    assert content["importance_bound"]["value"] == found.bound.value
    assert content["effective_sample_size"]["of"] == 120
    assert content["effective_sample_size"]["unit"] == "draws"
    assert content["data"]["fingerprint"]
    own = content["annealed"]
    assert own["settings"] == {"temperatures": 20, "chains": 6, "leapfrogs": 3, "burn_in": 8, "start": "posterior"}
    counts = {name: entry["n"] for name, entry in own.items() if isinstance(entry, dict) and "n" in entry}
    assert counts == {
        "annealed_bound": 20,
        "importance_bound_same_examples": 20,
        "annealed_minus_importance": 20,
        "annealed_acceptance": 20,
        "simulated_lower_bound": 9,
        "simulated_upper_bound": 9,
        "simulated_gap": 9,
    }
    rows = torch.arange(20) * 253 // 20
    same = log_evidence(torch.from_numpy(x)[rows].double())
    assert own["importance_bound_same_examples"]["value"] == pytest.approx(float(same.mean()), abs=0.05)
    assert own["annealed_bound"]["value"] == pytest.approx(float(same.mean()), abs=0.08)
    assert own["annealed_minus_importance"]["value"] == pytest.approx(
        own["annealed_bound"]["value"] - own["importance_bound_same_examples"]["value"], abs=1e-9
    )
    assert own["simulated_gap"]["value"] == pytest.approx(
        own["simulated_upper_bound"]["value"] - own["simulated_lower_bound"]["value"], abs=1e-9
    )
    assert own["annealed_minus_importance"]["standard_error"] < own["annealed_bound"]["standard_error"]
    last = {part: (done, of) for part, done, of in parts}
    assert len(last) == 3
    assert all(done == of for done, of in last.values())


def test_annealing_sees_the_same_binarised_images():
    """Dynamic binarisation draws once for all parts: L_K of the chosen examples is that of the whole pass."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 1, 2, 3)).astype(np.uint8)
    torch.manual_seed(0)
    networks = [MLP((1, 2, 3), (2,), hidden=()) for _ in range(2)]
    model = VAE(StandardNormal(2), DiagonalGaussian(*networks), MLP((2,), (1, 1, 2, 3)), Bernoulli((1, 2, 3)))
    binarise = Binarise((1, 2, 3), "dynamic")
    found = find_evidence(model, binarise, dataset(pixels), samples=400, annealing=QUICK, annealed=300, simulated=0)
    assert found.annealed.importance.value == pytest.approx(found.bound.value, abs=1e-12)
    assert found.annealed.gap is None
    assert abs(found.annealed.excess.value) < 0.3
    assert found.annealed.excess.standard_error < 0.5 * found.annealed.lower.standard_error


def test_the_same_seed_gives_the_same_record():
    x = np.random.default_rng(1).normal(0, 1.5, (30, DIMS)).astype(np.float32)
    model = linear_vae(spread=1.5).float()
    first, again, other = (
        find_evidence(
            model, Identity((DIMS,)), dataset(x), samples=20, annealing=QUICK, annealed=4, simulated=3, seed=seed
        ).to_dict()
        for seed in (1, 1, 2)
    )
    assert first == again
    for part in ("annealed_bound", "simulated_gap"):
        assert first["annealed"][part]["value"] != other["annealed"][part]["value"]


def test_a_point_mass_is_annealed_from_the_prior_and_the_rest_says_why_not():
    encoder = MLP((DIMS,), (2,), hidden=())
    exact = linear_vae()
    model = VAE(exact.prior, Dirac(encoder.double()), exact.decoder, exact.likelihood).float()
    x = np.random.default_rng(1).normal(0, 1, (40, DIMS)).astype(np.float32)
    settings = Annealing(200, 16, 3, 50)
    found = find_evidence(
        model, Identity((DIMS,)), dataset(x), samples=10, annealing=settings, annealed=40, simulated=40
    )
    assert found.bound is None
    assert "point mass" in found.absent["importance_bound"]
    assert found.annealed.settings.start == "prior"
    truth = float(log_evidence(torch.from_numpy(x).double()).mean())
    assert found.annealed.lower.value == pytest.approx(truth, abs=0.1)
    assert abs(found.annealed.gap.value) < 0.2
    content = found.to_dict()
    assert content["importance_bound"] is content["annealed"]["annealed_minus_importance"] is None


def test_what_cannot_be_annealed_has_its_bound_all_the_same():
    exact, x = linear_vae().float(), np.zeros((5, DIMS), np.float32)
    model = VAE(SecondStage(2, hidden=(3,)), exact.posterior, exact.decoder, exact.likelihood).float()
    found = find_evidence(model, Identity((DIMS,)), dataset(x), samples=7, annealed=3, simulated=3)
    assert found.bound.n == 5
    assert found.annealed is None
    assert found.absent["annealed"].startswith("annealing needs the density of the prior itself; Marginal")
    neither = VAE(model.prior, Dirac(MLP((DIMS,), (2,), hidden=())), exact.decoder, exact.likelihood)
    with pytest.raises(UserError, match="annealing needs the density of the prior itself"):
        find_evidence(neither, Identity((DIMS,)), dataset(x), samples=7, annealed=3)


def test_what_was_not_asked_for_is_absent_and_wrong_numbers_are_refused():
    x = np.zeros((5, DIMS), np.float32)
    model = linear_vae().float()
    found = find_evidence(model, Identity((DIMS,)), dataset(x), samples=3, annealed=0)
    assert found.annealed is None
    assert "not asked for" in found.absent["annealed"]
    assert found.to_dict()["annealed"] is None
    for wrong in ({"samples": 0}, {"annealed": -1}, {"simulated": -1}, {"together": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            find_evidence(model, Identity((DIMS,)), dataset(x), **wrong)
    with pytest.raises(UserError, match="no examples"):
        find_evidence(model, Identity((DIMS,)), dataset(x), split="train")
    with pytest.raises(UserError, match="point mass"):
        importance_curve(
            VAE(StandardNormal(1), Dirac(MLP((5,), (1,))), MLP((1,), (1, 5)), Bernoulli((5,))),
            torch.zeros(2, 5),
            samples=3,
        )
