import hashlib
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from exact_models import linear_vae
from scipy import linalg, stats
from torch import nn

from sfumato.core.errors import UserError
from sfumato.data import Dataset, Identity, Levels, Standardise
from sfumato.evaluation.classifier import Judge, train_judge
from sfumato.evaluation.distances import (
    frechet_distance,
    frechet_of_gaussians,
    kernel_distance,
    neighbour_scores,
    two_sample_test,
)
from sfumato.evaluation.features import choose, judge_features, onnx_features, principal_features
from sfumato.evaluation.fidelity import fidelity
from sfumato.io.tensors import digest
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal


def rows(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=generator).double()


def covariance(d: int, seed: int) -> torch.Tensor:
    a = rows(d, d, seed)
    return a @ a.T + 0.1 * torch.eye(d).double()


def test_frechet_of_known_gaussians():
    """Diagonal: sum of squared differences of means and of standard deviations; otherwise by scipy's matrix root."""
    m, s = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]]).double(), torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 0.5]])
    s = s.double()
    found = frechet_of_gaussians(m[0], s[0].square().diag(), m[1], s[1].square().diag())
    assert found == pytest.approx(float((m[0] - m[1]).square().sum() + (s[0] - s[1]).square().sum()), abs=1e-12)
    a, b = covariance(5, 1), covariance(5, 2)
    root = linalg.sqrtm((a @ b).numpy()).real
    expected = float(a.trace() + b.trace()) - 2 * np.trace(root)
    zero = torch.zeros(5).double()
    assert frechet_of_gaussians(zero, a, zero, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_of_gaussians(zero, a, zero, a) == pytest.approx(0, abs=1e-12)


def test_frechet_of_singular_gaussians():
    e = torch.eye(2).double()
    zero = torch.zeros(2).double()
    assert frechet_of_gaussians(zero, torch.outer(e[0], e[0]), zero, torch.outer(e[1], e[1])) == pytest.approx(2.0)
    thin = rows(40, 3, 0) @ rows(3, 60, 1) * 1e3  # rank 3 in 60 dimensions
    assert frechet_distance(thin, thin.clone()).value == pytest.approx(0, abs=1e-5)


def test_frechet_distance_of_samples_is_that_of_their_moments():
    x, y = rows(57, 4, 0) @ covariance(4, 3), rows(83, 4, 1, shift=0.3)
    a, b = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    found = frechet_distance(x, y)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.n == 57
    moved = frechet_distance(x + 1e4, y + 1e4)
    assert moved.value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_the_jackknife_error_is_the_spread_over_repetitions(measure):
    found = [measure(rows(60, 2, 2 * seed), rows(60, 2, 2 * seed + 1, 1.5, 0.7)) for seed in range(120)]
    spread = np.std([one.value for one in found], ddof=1)
    claimed = math.sqrt(np.mean([one.standard_error**2 for one in found]))
    assert claimed == pytest.approx(spread, rel=0.25)
    assert math.isnan(measure(rows(19, 2, 0), rows(60, 2, 1)).standard_error)


def test_kernel_distance_by_hand():
    """k(a, b) = (ab + 1)^3: within x 1, within y 27, between (1 + 1 + 8 + 27) / 4."""
    x, y = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[1.0], [2.0]]).double()
    assert kernel_distance(x, y).value == pytest.approx(1 + 27 - 2 * 37 / 4)


@pytest.mark.parametrize("q", [(0.5, 0.3, 0.2), (0.2, 0.2, 0.6)])
def test_kernel_distance_is_unbiased_by_enumeration(q):
    """Over every pair of samples of two, weighted by its probability, the mean is MMD^2; 0 for equal distributions."""
    points, p = torch.tensor([0.0, 1.0, 3.0]).double(), np.array([0.5, 0.3, 0.2])
    kernel = (np.outer(points, points) + 1) ** 3
    difference = p - np.array(q)
    mean = 0.0
    for i, j, k, m in itertools.product(range(3), repeat=4):
        value = kernel_distance(points[[i, j]].unsqueeze(1), points[[k, m]].unsqueeze(1)).value
        mean += p[i] * p[j] * q[k] * q[m] * value
    assert mean == pytest.approx(difference @ kernel @ difference, abs=1e-9)


def test_kernel_distance_against_all_pairs():
    x, y = rows(23, 3, 0), rows(31, 3, 1, shift=1.0)

    def k(a, b):
        return (a.numpy() @ b.numpy().T / 3 + 1) ** 3

    within = [(k(s, s).sum() - np.trace(k(s, s))) / (len(s) * (len(s) - 1)) for s in (x, y)]
    assert kernel_distance(x, y).value == pytest.approx(sum(within) - 2 * k(x, y).mean(), rel=1e-10)


def test_neighbour_scores_by_hand():
    """Real balls: 0, 1, 2 with radius 1, and 4 with radius 2. Generated: .4 and .5 with .1, 5 and 8.5 with 3.5."""
    real, generated = (torch.tensor([v]).double().T for v in ([0.0, 1.0, 2.0, 4.0], [0.5, 0.4, 5.0, 8.5]))
    found = neighbour_scores(real, generated, nearest_precision=1, nearest_coverage=1)
    assert {name: one.value for name, one in found.items()} == {
        "precision": 0.75,  # 8.5 is in no ball
        "recall": 0.5,  # 2 and 4, in the ball of 5
        "density": 1.25,  # (2 + 2 + 1 + 0) / 4
        "coverage": 0.75,  # the ball of 2 is empty
    }
    by_error = {name: one.standard_error for name, one in found.items()}
    assert by_error["precision"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert by_error["density"] == pytest.approx(np.std([2, 2, 1, 0], ddof=1) / 2)


def test_neighbour_scores_against_brute_force(monkeypatch):
    real, generated = rows(60, 3, 0), rows(45, 3, 1, 0.7, 0.5)
    between = np.linalg.norm(real.numpy()[:, None] - generated.numpy()[None], axis=-1)

    def radius(points, k):
        return np.sort(np.linalg.norm(points.numpy()[:, None] - points.numpy()[None], axis=-1), 1)[:, k]

    expected = {
        "precision": (between <= radius(real, 3)[:, None]).any(0).mean(),
        "recall": (between <= radius(generated, 3)[None]).any(1).mean(),
        "density": (between <= radius(real, 5)[:, None]).sum(0).mean() / 5,
        "coverage": (between.min(1) <= radius(real, 5)).mean(),
    }
    for block in (16_000_000, 130):  # one block, and two rows at a time
        monkeypatch.setattr("sfumato.evaluation.distances.BLOCK_NUMBERS", block)
        found = neighbour_scores(real, generated)
        assert {name: one.value for name, one in found.items()} == pytest.approx(expected)


def test_for_equal_distributions_density_is_1_and_coverage_is_known():
    """Exchangeability: P(y among the k nearest of x) = k / n; no generated one in the ball is a draw without return."""
    n, m, k = 30, 20, 5
    found = [neighbour_scores(rows(n, 2, 2 * s), rows(m, 2, 2 * s + 1)) for s in range(300)]
    empty = math.prod((n - 1 - i) / (n + m - 1 - i) for i in range(k))
    for name, expected in (("density", 1.0), ("coverage", 1 - empty)):
        values = np.array([one[name].value for one in found])
        assert values.mean() == pytest.approx(expected, abs=4 * stats.sem(values))
        assert stats.sem(values) < 0.02


def test_copies_are_found_at_distance_0():
    real = torch.tensor([[1.1, 0.3]]).double().expand(8, 2)
    assert {one.value for name, one in neighbour_scores(real, real.clone()).items() if name != "density"} == {1.0}
    away = neighbour_scores(real, real + 1e-9)
    assert {one.value for one in away.values()} == {0.0}


def test_two_sample_test_is_at_chance_for_equal_distributions_and_sees_a_difference():
    equal = [two_sample_test(rows(120, 3, 2 * s), rows(150, 3, 2 * s + 1), seed=s) for s in range(12)]
    accuracies = np.array([one.accuracy.value for one in equal])
    assert accuracies.mean() == pytest.approx(0.5, abs=3 * 0.5 / math.sqrt(12 * 120))
    assert sum(one.p_value < 0.05 for one in equal) <= 3
    assert {one.accuracy.n for one in equal} == {120}
    apart = two_sample_test(rows(400, 3, 0), rows(400, 3, 1, shift=4.0))
    assert apart.accuracy.value > 0.99
    assert apart.p_value < 1e-12
    one = equal[0]
    statistic = (one.accuracy.value - 0.5) * math.sqrt(4 * one.accuracy.n)
    assert one.p_value == pytest.approx(stats.norm.sf(statistic), rel=1e-12)


def test_two_sample_test_sees_what_no_line_separates():
    """Equal means, another spread; and a constant feature does no harm."""
    inner, outer = rows(500, 2, 0, 0.3), rows(500, 2, 1, 3.0)
    constant = torch.ones(500, 1).double()
    found = two_sample_test(torch.cat([inner, constant], 1), torch.cat([outer, constant], 1))
    assert found.accuracy.value > 0.85


@pytest.mark.parametrize(
    ("measure", "least"), [(frechet_distance, 2), (kernel_distance, 2), (neighbour_scores, 6), (two_sample_test, 4)]
)
def test_too_few_examples_are_refused(measure, least):
    measure(rows(least, 2, 0), rows(least, 2, 1))
    with pytest.raises(UserError, match=f"at least {least} real"):
        measure(rows(least, 2, 0), rows(least - 1, 2, 1))


def vector_data(x: torch.Tensor, y: np.ndarray | None = None) -> Dataset:
    n = len(x)
    splits = {"train": np.arange(n // 2), "validation": np.arange(0), "test": np.arange(n // 2, n)}
    names = () if y is None else tuple("abc")
    return Dataset("vectors", x.float().numpy(), y, splits, names)


@pytest.fixture(scope="module")
def own() -> Dataset:
    """Data that the linear-Gaussian model truly generates."""
    return vector_data(linear_vae().sample(800, draw=True, generator=0))


def test_a_true_model_is_as_good_as_real_examples_and_a_false_one_is_not(own):
    """Without classes the features are all 4 principal components: a rotation, which changes no distance."""
    model = linear_vae().train()
    before = torch.get_rng_state()
    found = fidelity(model, Standardise((4,)), own, draw=True, seed=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.n_real, found.n_generated, found.n_reference, found.features) == (400, 400, 400, 4)
    assert found.extractor == "first 4 principal components of the training split"
    real, train = (torch.from_numpy(own.array(name)).double() for name in ("test", "train"))
    expected = frechet_distance(real, train)
    assert found.reference["frechet_distance"].value == pytest.approx(expected.value, rel=1e-6)
    for name, one in found.values.items():
        error = math.hypot(one.standard_error, found.reference[name].standard_error)
        assert one.value == pytest.approx(found.reference[name].value, abs=4 * error)
    assert found.p_value > 0.01
    assert found.notes == ()
    again = fidelity(linear_vae(), Standardise((4,)), own, draw=True, seed=3)
    assert again.to_dict() == found.to_dict()

    means = fidelity(linear_vae(), Standardise((4,)), own, seed=3, reference=False)
    assert not means.draws
    assert means.reference == {}
    assert means.values["frechet_distance"].value > 3 * found.values["frechet_distance"].value
    assert means.p_value < 1e-6


def test_every_figure_carries_its_numbers_split_and_extractor(own):
    found = fidelity(linear_vae(), Standardise((4,)), own, split="test", n=30, draw=True)
    text = json.dumps(found.to_dict(), allow_nan=False)
    plain = json.loads(text)
    assert len(plain["values"]) == len(plain["reference"]) == 7
    for figure in plain["values"].values():
        assert (figure["n_real"], figure["n_generated"], figure["split"]) == (30, 30, "test")
        assert figure["extractor_sha256"] == found.extractor_sha256
        assert figure["error_from"]
    assert {figure["n_training"] for figure in plain["reference"].values()} == {30}
    assert plain["data"]["fingerprint"] == own.fingerprint
    assert "fid" not in {name.lower() for name in plain["values"]}
    assert plain["values"]["two_sample_accuracy"]["p_value"] == pytest.approx(found.p_value)


def test_with_classes_the_features_are_those_of_the_judge_on_the_training_split(own):
    y = np.random.default_rng(0).integers(0, 3, len(own.x))
    data = vector_data(torch.from_numpy(own.x), y)
    preprocessing = Standardise((4,))
    found = fidelity(linear_vae().float(), preprocessing, data, n=100, seed=5, draw=True)
    judge = train_judge(data, preprocessing, seed=5)
    assert found.extractor_sha256 == digest(judge.state_dict())
    assert found.features == 256
    assert "100 examples are too few for 256 features" in found.notes[0]
    trained = fidelity(linear_vae().float(), preprocessing, data, split="train", n=50, extractor=judge_features(judge))
    assert trained.n_reference == 0
    assert "trained on" in trained.notes[-1]


@pytest.mark.parametrize("shape", [(4,), (1, 16, 16)])
def test_the_last_layer_turns_the_judges_features_into_its_logits(shape):
    judge = Judge(shape, 3).eval()
    x = torch.rand(5, *shape)
    features = judge_features(judge)(x, Identity(shape))
    with torch.no_grad():
        logits = judge.layers[-1](features.float())
        torch.testing.assert_close(logits, judge(x))
    last = judge.layers[-1]
    assert isinstance(last, nn.Linear)
    before = digest(judge.state_dict())
    last.bias.data[0] += 1e-3
    assert digest(judge.state_dict()) != before


def test_principal_components_against_the_covariance():
    x = (rows(300, 6, 0) * torch.tensor([9.0, 5.0, 3.0, 1.0, 0.5, 0.1])).float() + 7
    data = vector_data(torch.cat([x, x]))
    found = principal_features(data.split("train"), Standardise((6,)), components=2)
    projected = found(x, Standardise((6,)))
    spectrum = np.linalg.eigvalsh(np.cov(x.T.numpy()))[::-1]
    np.testing.assert_allclose(np.cov(projected.T.numpy()), np.diag(spectrum[:2]), atol=1e-3)


def test_a_subset_is_chosen_by_the_seed():
    data = vector_data(torch.arange(100).unsqueeze(1))
    train = data.split("train")
    some, again, other = (choose(train, 20, seed).x for seed in (1, 1, 2))
    assert len(torch.unique(some)) == 20
    assert torch.equal(some, again)
    assert not torch.equal(some, other)
    assert choose(train, 50, 1) is train


def network_file(path, weight, input_shape=("n", 1, 2, 2), kind=None):
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["f"], to=kinds.FLOAT),
            helper.make_node("Flatten", ["f"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["out"]),
        ],
        "features",
        [helper.make_tensor_value_info("x", kind or kinds.UINT8, input_shape)],
        [helper.make_tensor_value_info("out", kinds.FLOAT, ("n", weight.shape[1]))],
        [onnx.numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_extractor_from_an_onnx_file_sees_the_data_in_their_own_units(tmp_path):
    pytest.importorskip("onnxruntime")
    weight = np.arange(12.0).reshape(4, 3)
    path = network_file(tmp_path / "own.onnx", weight)
    extractor = onnx_features(path)
    raw = torch.tensor([[[[0, 255], [3, 4]]], [[[5, 6], [7, 8]]]], dtype=torch.uint8)
    preprocessing = Levels((1, 2, 2))
    found = extractor(preprocessing(raw), preprocessing)
    np.testing.assert_allclose(found, raw.flatten(1).numpy().astype(float) @ weight)
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.name == "own.onnx"
    inputs = network_file(tmp_path / "inputs.onnx", weight, kind=1)  # float
    seen = onnx_features(inputs, sees="preprocessed")(preprocessing(raw), preprocessing)
    np.testing.assert_allclose(seen, found / 255, rtol=1e-5)


def test_draws_of_binary_data_reach_the_extractor(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder = DiagonalGaussian(MLP((4,), (1,)), MLP((4,), (1,)))
    model = VAE(StandardNormal(1), encoder, MLP((1,), (1, 4)), Bernoulli((4,)))
    x = (torch.rand(60, 4) < 0.5).to(torch.uint8)
    splits = {"train": np.arange(20), "validation": np.arange(0), "test": np.arange(20, 60)}
    data = Dataset("bits", x.numpy(), None, splits)
    path = network_file(tmp_path / "sum.onnx", np.ones((4, 1)), ("n", 4), kind=1)
    found = fidelity(model, Identity((4,)), data, extractor=onnx_features(path), reference=False)
    assert found.draws
    assert found.to_dict()["generated"] == "draws from p(x | z)"
    assert found.features == 1


def test_files_that_are_no_extractor_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="Give an ONNX file that exists"):
        onnx_features(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"broken\.onnx is not a whole ONNX network"):
        onnx_features(broken)
    path = network_file(tmp_path / "own.onnx", np.ones((4, 3)))
    with pytest.raises(UserError, match=r"does not take examples of shape \(1, 3, 3\)"):
        onnx_features(path)(torch.zeros(2, 1, 3, 3), Levels((1, 3, 3)))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'sfumato\[onnx\]'"):
        onnx_features(path)


def test_fidelity_of_one_example_is_refused(own):
    with pytest.raises(UserError, match="at least 2 examples"):
        fidelity(linear_vae(), Standardise((4,)), own, n=1)
