import json
import math

import numpy as np
import pytest
import torch
from exact_models import linear_vae, log_evidence

from sfumato.core.errors import UserError
from sfumato.data import Binarise, Dataset, Identity, Standardise
from sfumato.evaluation import bounds, evaluate, generation_accuracy, judge_accuracy, train_judge
from sfumato.evaluation.classifier import Judge, shifted
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal

N = 253  # one more batch, a small one


def dataset(x, y=None, classes=0, test=N):
    rows = np.arange(len(x))
    splits = {"train": rows[: len(x) - test], "validation": rows[:0], "test": rows[len(x) - test :]}
    return Dataset("toy", np.asarray(x), y, splits, tuple(map(str, range(classes))))


def blobs(n=800):
    y = np.arange(n) % 3
    x = np.random.default_rng(0).normal(0, 0.5, (n, 4)) + 3 * np.eye(4)[y]
    return dataset(x.astype(np.float32), y.astype(np.int64), 3)


def pictures(n=600):
    """A bar at the top or at the left."""
    y = np.arange(n) % 2
    x = np.random.default_rng(0).integers(0, 100, (n, 1, 8, 8))
    x[y == 0, :, :3, :] += 150
    x[y == 1, :, :, :3] += 150
    return dataset(x.astype(np.uint8), y.astype(np.int64), 2)


def test_defect_5_means_are_over_examples_and_agree_with_the_exact_answer():
    x = np.random.default_rng(1).normal(0, 1, (N, 4)).astype(np.float32)
    x[250:] += 4
    model = linear_vae().float().train()
    found = evaluate(model, Identity((4,)), dataset(x), samples=5)
    exact = log_evidence(torch.from_numpy(x).double())
    bound = found.values["evidence_bound"]
    assert bound.value == pytest.approx(float(exact.mean()), abs=1e-4)
    assert bound.standard_error == pytest.approx(float(exact.std()) / math.sqrt(N), rel=1e-3)
    assert bound.n == N
    assert model.training
    kl = found.values["kl"].value
    assert kl == pytest.approx(found.values["kl_mean"].value + found.values["kl_variance"].value, rel=1e-5)
    assert kl == pytest.approx(float(found.latents.kl.sum()), rel=1e-5)
    assert found.values["elbo"].value == pytest.approx(-found.values["reconstruction"].value - kl, rel=1e-5)
    assert found.values["mean_sigma"].value == pytest.approx(found.latents.mean_sigma, rel=1e-5)
    assert "bits_per_dim" not in found.values
    assert "continuous" in found.absent["bits_per_dim"]


def test_defect_6_one_bad_example_shows():
    model = linear_vae().float()
    model.decoder.register_forward_hook(lambda _, given, out: out.masked_fill(given[0][..., :1, None] > 1.5, math.nan))
    x = np.zeros((N, 4), dtype=np.float32)
    x[7] = 10.0
    found = evaluate(model, Identity((4,)), dataset(x), samples=2)
    assert math.isnan(found.values["evidence_bound"].value)
    assert math.isnan(found.values["elbo"].value)
    assert found.to_dict()["values"]["elbo"]["value"] is None


@pytest.mark.parametrize("many", [N * 5 - 1, N * 5])
def test_an_evaluation_is_compiled_where_it_is_long(monkeypatch, many):
    model, asked = linear_vae().float(), []
    size = sum(parameter.numel() for parameter in model.decoder.parameters())
    monkeypatch.setattr(bounds, "MANY_OPERATIONS", 2 * size * many)
    right = bounds.importance_bound

    def bound(*given, compiled, **named):
        asked.append(compiled)
        return right(*given, **named)

    monkeypatch.setattr("sfumato.evaluation.evaluation.importance_bound", bound)
    evaluate(model, Identity((4,)), dataset(np.zeros((N, 4), dtype=np.float32)), samples=5)
    assert set(asked) == {many < N * 5}


def test_the_same_seed_repeats_and_json_holds_everything():
    torch.manual_seed(0)
    model = VAE(
        StandardNormal(2),
        DiagonalGaussian(MLP((1, 8, 8), (2,), (8,)), MLP((1, 8, 8), (2,), (8,))),
        MLP((2,), (1, 1, 8, 8), (8,)),
        Bernoulli((1, 8, 8)),
    )
    told = []
    options = {"samples": 3, "seed": 5, "baselines": True}
    tell = lambda *said: told.append(said)  # noqa: E731
    first = evaluate(model, Binarise((1, 8, 8), "dynamic"), pictures(), tell=tell, **options).to_dict()
    torch.randn(1)
    assert evaluate(model, Binarise((1, 8, 8), "dynamic"), pictures(), **options).to_dict() == first
    read = json.loads(json.dumps(first, allow_nan=False))
    assert read["values"]["evidence_bound"]["samples"] == 3
    assert read["values"]["elbo"]["samples"] == 1
    assert (read["split"], read["seed"], read["n"], read["dims"]) == ("test", 5, N, 64)
    assert read["data"]["fingerprint"] == pictures().fingerprint
    bound = read["values"]["evidence_bound"]["value"]
    assert read["values"]["bits_per_dim"]["value"] == pytest.approx(-bound / 64 / math.log(2))
    assert read["baselines"]["independent"]["unit"] == "nats"
    assert len(read["per_dimension"]["kl"]) == 2
    assert read["absent"]["bayes_accuracy"] == "the model has no classes"
    assert ("bounds", N, N) in told


def test_raw_density_and_rmse_are_in_the_units_of_the_data():
    x = np.random.default_rng(1).normal(5, 3, (N, 4)).astype(np.float32)
    scaled = Standardise((4,)).fit(x)
    model = linear_vae().float()
    found = evaluate(model, scaled, dataset(x), samples=2)
    gap = found.values["evidence_bound_raw"].value - found.values["evidence_bound"].value
    assert gap == pytest.approx(-float(np.log(x.astype(np.float64).std(0)).sum()), rel=1e-4)
    copy = scaled.inverse(model.reconstruct(scaled(torch.from_numpy(x)))).numpy()
    assert found.values["reconstruction_rmse"].value == pytest.approx(np.sqrt(np.square(copy - x).mean()), rel=1e-4)


def test_a_conditional_model_is_never_scored_by_the_true_label_under_the_name_of_the_evidence():
    model = linear_vae(classes="prior").float()
    y = torch.arange(N) % 3
    x = model.sample(N, y, draw=True, generator=0).numpy()
    found = evaluate(model, Identity((4,)), dataset(x, y.numpy(), 3), samples=200)
    assert "elbo" not in found.values
    evidence, given = found.values["evidence_bound"].value, found.values["evidence_bound_given_label"].value
    assert evidence < given
    assert found.values["elbo_given_label"].value < given
    assert 0.6 < found.bayes.overall.value < 1
    assert "judge" in found.absent["generation_accuracy"]
    without = evaluate(model, Identity((4,)), dataset(x), samples=200)
    assert without.values["evidence_bound"].value == pytest.approx(evidence, abs=1e-9)
    assert "elbo_given_label" not in without.values
    assert without.values["elbo"].value < evidence
    assert without.absent["bayes_accuracy"] == "some examples have no label"
    json.dumps(without.to_dict(), allow_nan=False)


def test_networks_that_look_at_labels_get_no_elbo_without_them():
    torch.manual_seed(0)
    decoder = WithLabel(MLP((5,), (1, 4)), 3)
    encoder = DiagonalGaussian(MLP((4,), (2,)), MLP((4,), (2,)))
    model = VAE(StandardNormal(2), encoder, decoder, Gaussian((4,)))
    x = np.random.default_rng(0).normal(0, 1, (N, 4)).astype(np.float32)
    y = np.full(N, -1)
    found = evaluate(model, Identity((4,)), dataset(x, y, 3), samples=2)
    assert set(found.values) == {"evidence_bound", "evidence_bound_raw"}
    assert "networks look at labels" in found.absent["elbo"]


def test_a_point_mass_has_a_reconstruction_and_reasons():
    model = VAE(StandardNormal(1), Dirac(MLP((4,), (1,))), MLP((1,), (1, 4)), Gaussian((4,)))
    found = evaluate(model, Identity((4,)), blobs())
    assert set(found.values) == {"reconstruction", "reconstruction_rmse"}
    for name in ("elbo", "kl", "evidence_bound", "mean_sigma"):
        assert "point mass" in found.absent[name]
    assert found.latents.active_units in (0, 1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_defect_16_grey_values_under_bernoulli_are_refused():
    encoder = DiagonalGaussian(MLP((4,), (1,)), MLP((4,), (1,)))
    model = VAE(StandardNormal(1), encoder, MLP((1,), (1, 4)), Bernoulli((4,)))
    with pytest.raises(UserError, match="0 and 1 only"):
        evaluate(model, Identity((4,)), dataset(np.full((N, 4), 0.5, dtype=np.float32)))


def test_bad_questions_are_answered_in_one_sentence():
    model = linear_vae(classes="prior").float()
    with pytest.raises(UserError, match="no examples"):
        evaluate(model, Identity((4,)), blobs(), split="validation")
    with pytest.raises(UserError, match="3 classes and toy has 2"):
        evaluate(model, Identity((4,)), pictures())
    with pytest.raises(UserError, match="labels of at least two classes"):
        train_judge(dataset(np.zeros((N, 4), dtype=np.float32)), Identity((4,)))


def test_the_judge_learns_vectors_and_finds_wrong_generation():
    data = blobs()
    judge = train_judge(data, Identity((4,)), steps=60)
    assert judge_accuracy(judge, data.split("test"), Identity((4,))).overall.value > 0.97
    model = VAE(
        ClassConditional(3, 4),
        DiagonalGaussian(MLP((4,), (4,)), MLP((4,), (4,))),
        MLP((4,), (1, 4), hidden=()),
        Gaussian((4,), "fixed"),
    )
    layer = model.decoder.layers[-1]
    layer.weight.data.copy_(0.3 * torch.eye(4))
    layer.bias.data.zero_()
    model.prior.means.data.copy_(10 * torch.eye(4)[:3])
    found = generation_accuracy(model, judge, per_class=300)
    assert found.overall.value > 0.95
    assert found.confusion.sum(1).tolist() == [300, 300, 300]
    model.prior.means.data.copy_(10 * torch.eye(4)[[0, 2, 2]])
    swapped = generation_accuracy(model, judge, per_class=300)
    assert swapped.per_class[1].value < 0.1
    assert swapped.per_class[2].value > 0.9
    with pytest.raises(UserError, match="judge's 3 classes"):
        generation_accuracy(linear_vae(), judge)


def test_the_judge_learns_pictures_and_is_the_same_for_the_same_seed():
    data, binary = pictures(), Binarise((1, 8, 8), "dynamic")
    judge = train_judge(data, binary, steps=25, seed=1)
    assert judge.is_image
    assert judge_accuracy(judge, data.split("test"), binary).overall.value > 0.9
    again = train_judge(data, binary, steps=25, seed=1)
    for one, other in zip(judge.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 64), (1, 8, 9), (5,), (2, 3)])
def test_the_judge_fits_any_shape(shape):
    assert Judge(shape, 4).eval()(torch.zeros(2, *shape)).shape == (2, 4)


def test_shifts_move_by_two_pixels_at_most():
    x = torch.zeros(64, 1, 9, 9)
    x[:, 0, 4, 4] = 1
    places = shifted(x).flatten(2).argmax(-1).squeeze(-1)
    rows, columns = places // 9, places % 9
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}


def test_generation_with_the_judge_inside_an_evaluation():
    data = blobs()
    model = linear_vae(classes="prior").float()
    found = evaluate(model, Identity((4,)), data, samples=None, judge=True, per_class=20)
    assert found.judge.overall.value > 0.9
    assert found.generation.overall.n == 60
    assert "not asked for" in found.absent["evidence_bound"]
    assert "generation_accuracy" not in found.absent
    assert found.to_dict()["judge_accuracy"]["overall"]["n"] == N
