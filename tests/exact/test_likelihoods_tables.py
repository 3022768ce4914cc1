"""Tables with missing cells: what is read, what is scored and what is filled in, against exact answers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from contract import numbers
from scipy import stats

from sfumato.core.errors import UserError
from sfumato.data import Column, Columns, Counts, Unit, build_preprocessing, decide, decided, inspect_dataset
from sfumato.data import load_dataset as load
from sfumato.data.columns import guess_column
from sfumato.data.dataset import InMemory
from sfumato.evaluation import evaluate, importance_bound, score_baselines
from sfumato.evaluation.checks import predictive_checks
from sfumato.evaluation.fidelity import fidelity
from sfumato.evaluation.imputation import imputed
from sfumato.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Laplace,
    Mixed,
    MixtureOfLogistics,
    NegativeBinomial,
    Ordinal,
    Perceptual,
    Poisson,
    ZeroInflated,
)
from sfumato.models import VAE
from sfumato.networks import MLP, Composed, Embedded, WithMask
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.recipes import Options, plan
from sfumato.recipes.likelihood import encoder_input, means_of, mixed

NAN = math.nan


def constant(network: MLP) -> MLP:
    """A network that gives 0 whatever it sees: of an encoder, q = N(0, 1)."""
    torch.nn.init.zeros_(network.layers[-1].weight)
    torch.nn.init.zeros_(network.layers[-1].bias)
    return network


# Imputation


def test_a_linear_model_fills_in_the_conditional_mean() -> None:
    """x = L z + c + s e is normal, so E[x_missing | x_observed] is known."""
    loading = torch.tensor([[1.0, 1.0, 0.5, 0.0], [1.0, -1.0, 0.0, 0.5]]).double().T
    offset, scale = torch.tensor([0.3, -0.2, 0.1, 0.0]).double(), 0.5
    decoder = MLP((2,), (4,), hidden=()).double()
    decoder.layers[-1].weight.data.copy_(loading)
    decoder.layers[-1].bias.data.copy_(offset)
    encoders = (WithMask(constant(MLP((8,), (2,), hidden=()))) for _ in range(2))
    likelihood = Mixed((Gaussian((4,), "fixed", scale),), (0, 1, 2, 3))
    model = VAE(StandardNormal(2), DiagonalGaussian(*encoders), decoder, likelihood).double()
    x = torch.tensor([[1.0, -0.5, NAN, NAN], [NAN, 0.8, 0.2, NAN], [NAN, NAN, NAN, 0.4], [0.1, 0.2, 0.3, 0.4]]).double()
    found = imputed(model, x, samples=40_000)
    covariance = loading @ loading.T + scale**2 * torch.eye(4).double()
    for row, filled in zip(x, found, strict=True):
        there = ~row.isnan()
        assert torch.equal(filled[there], row[there])
        cross = covariance[~there][:, there]
        gain = cross @ covariance[there][:, there].inverse()
        expected = offset[~there] + gain @ (row[there] - offset[there])
        torch.testing.assert_close(filled[~there], expected, rtol=0, atol=0.03)
    naive = (offset - found[0]).abs()[2:].max()
    assert naive > 0.2  # the mean without looking at the row is far off


@pytest.fixture(scope="module")
def table() -> VAE:
    """A real column, a count, three levels and an ordinal column, all hanging on one z."""
    parts = (Gaussian((1,), "per_dimension"), Poisson((1,)), Categorical((1,), 3), Ordinal((1,), 3))
    likelihood = Mixed(parts, (1, 0, 3, 2))
    features = encoder_input(Mixed((*parts,), (1, 0, 3, 2)))
    assert features.levels == (0, 0, 3, 3)
    encoders = (Composed(features, constant(MLP(features.out_shape, (1,), hidden=()))) for _ in range(2))
    decoder = MLP((1,), likelihood.parameter_shape, hidden=())
    decoder.layers[-1].weight.data.copy_(torch.tensor([[1.0], [1.2], [-2.0], [0.0], [2.0], [1.5]]))
    decoder.layers[-1].bias.data.copy_(torch.tensor([0.1, 0.5, 0.0, 0.9, 0.0, 0.2]))
    return VAE(StandardNormal(1), DiagonalGaussian(*encoders), decoder, likelihood).double().requires_grad_(False)


def test_counts_and_levels_are_filled_in_as_quadrature_says(table: VAE) -> None:
    x = torch.tensor([[5.0, NAN, NAN, NAN], [NAN, -1.5, NAN, NAN], [NAN, NAN, NAN, 2.0], [0.0, NAN, 1.0, NAN]]).double()
    found = imputed(table, x, samples=30_000)
    z = torch.linspace(-8, 8, 4001).double().reshape(-1, 1, 1)
    observation = table.decode(z)
    weights = (torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 0]) + observation.log_prob(x)).softmax(0)
    summaries = [torch.einsum("kr,kl...->r...", weights, value) for value in table.likelihood.summaries(observation)]
    expected = torch.where(x.isnan(), table.likelihood.centre(observation, summaries), x)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], rtol=0, atol=0)
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=0.03, atol=0.03)
    prior = imputed(table, torch.full((1, 4), NAN).double(), samples=30_000)
    assert set(found[:2, 3].tolist()) == {0.0, 2.0}  # so that levels follow from the rows, and not from p(z) alone
    assert (found[:2, :2] - prior[:, :2]).abs().max() > 1


def test_a_row_without_any_cell_is_the_mean_of_the_model_and_k_is_honoured(table: VAE) -> None:
    empty = torch.full((1, 4), NAN).double()
    mean = math.exp(0.5 + 1.2**2 / 2)  # of a log-normal
    assert float(imputed(table, empty, samples=30_000)[0, 0]) == pytest.approx(mean, rel=0.05)
    assert not torch.equal(imputed(table, empty, samples=3), imputed(table, empty, samples=4))
    with pytest.raises(UserError, match="1 or more"):
        imputed(table, empty, samples=0)


# What a table is read as


@pytest.mark.parametrize(
    ("cells", "kind", "levels"),
    [
        ([0.5, 1.25, 3.0, 0.75], "real", 0),
        ([0, 1, 1, 0, 1], "binary", 2),
        ([1, 2, 2, 2], "binary", 2),
        ([3, 3, 3], "binary", 2),
        ([1, 2, 3, 4] * 5, "ordinal", 4),
        ([0.5, 1.5, 99.0] * 5, "ordinal", 3),
        (list(range(40)), "count", 0),
        (list(range(18, 60)), "real", 0),
        ([-1, *range(40)], "real", 0),
        ([], "binary", 2),
    ],
)
def test_the_kind_of_a_column_follows_from_its_values(cells, kind: str, levels: int) -> None:
    column, because = guess_column(np.array(cells, dtype=np.float32), "price", ())
    assert (column.kind, column.levels) == (kind, levels)
    assert because
    renamed, _ = guess_column(np.array(cells, dtype=np.float32), "id", ())
    assert (renamed.kind, renamed.levels) == (kind, levels)


ROWS = "size,city,visits,rating,smoker\n" + "".join(
    f"{0.37 * k:.2f},{'paris' if k % 3 else 'rome'},{k % 37},{1 + k % 4},{k % 2}\n" for k in range(60)
)
GAPPED = ROWS.replace("0.37,paris,1,2,1", ",,,,").replace("0.74,paris,2,3,0", "0.74,paris,NA,3,0")


def test_a_csv_is_read_column_by_column(tmp_path) -> None:
    (tmp_path / "people.csv").write_text(GAPPED)
    data = load(tmp_path / "people.csv", mixed=True)
    facts = inspect_dataset(data)
    assert [column.kind for column in facts.columns] == ["real", "category", "count", "ordinal", "binary"]
    assert data.texts == ((), ("paris", "rome"), (), (), ())
    assert np.isnan(data.x).sum() == facts.empty == 6
    assert load(**data.origin).fingerprint == data.fingerprint
    decisions = decide(facts)
    assert decided(decisions, "likelihood") == "mixed"
    assert decided(decisions, "column city") == "category"
    assert "6 cells are missing" in decisions[0].because
    with pytest.raises(UserError, match="--likelihood gaussian needs numbers of one kind"):
        decide(facts, "gaussian")
    with pytest.raises(UserError, match="read every column by its kind with --likelihood mixed"):
        load(tmp_path / "people.csv")
    with pytest.raises(UserError, match="--likelihood mixed is for tables"):
        decide(inspect_dataset(load(np.zeros((20, 3)))), "mixed")
    run = plan(data, Options(likelihood="mixed", steps=2))
    assert [type(part) for part in run.model.likelihood.whole_parts] == [
        Gaussian, Categorical, NegativeBinomial, Ordinal, Bernoulli,
    ]  # fmt: skip
    x = run.preprocessing(torch.from_numpy(data.x[:5]))
    assert run.model.terms(x).log_likelihood.isfinite().all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\nx,3\n4,5\n6,7\n", "column 'a': expected numbers, as in most of its cells; got 'x'"),
        ("a,b\n" + "".join(f"t{k},{k}\n" for k in range(300)), "at most 256 different texts; got 300"),
    ],
)
def test_columns_that_cannot_be_read(tmp_path, text: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        load(tmp_path / "t.csv", mixed=True)


def test_frames_and_parquet_are_read_by_their_types(tmp_path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({
        "code": pd.Categorical(["3", "1", "3", None] * 10),
        "flag": pd.array([True, False, None, True] * 10, dtype="boolean"),
        "size": [0.5, None, 2.25, 1.0] * 9 + [5.5, 6.5, 7.5, 8.5],
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        data = load(source, mixed=True)
        assert data.texts == (("1", "3"), (), ())
        assert [column.kind for column in inspect_dataset(data).columns] == ["category", "binary", "real"]
        assert np.isnan(data.x).sum() == 29


# Preprocessing and its volume


def test_columns_go_there_and_back_and_their_volume_is_that_of_the_cells_that_are_there() -> None:
    columns = (Column("a", "real"), Column("b", "ordinal", (1.0, 2.5, 7.0)), Column("c", "count", whole=True))
    columns += (Column("d", "real", whole=True),)
    raw = np.array([[1.0, 2.5, 3.0, 10.0], [3.0, 7.0, 0.0, 30.0], [NAN, 1.0, NAN, 20.0], [5.0, NAN, 2.0, NAN]])
    table = Columns(columns).fit(raw.astype(np.float32))
    x = table(torch.from_numpy(raw))
    assert x[:, 1].tolist()[:3] == [1, 2, 0]
    assert float(x[~x[:, 0].isnan(), 0].mean()) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(table.inverse(x).numpy(), raw, rtol=1e-6)
    a, d = raw[[0, 1, 3], 0].std(), raw[:3, 3].std()
    expected = [-math.log(a) - math.log(d)] * 2 + [-math.log(d), -math.log(a)]
    np.testing.assert_allclose(table.log_abs_dets(torch.from_numpy(raw)).numpy(), expected, rtol=1e-6)
    assert table.log_abs_det == pytest.approx(expected[0])
    with pytest.raises(UserError, match=r"column 'b': expected one of 1, 2.5, 7; got 3"):
        table.check(np.array([[0.0, 3.0, 0.0, 0.0]]), "new.csv")
    with pytest.raises(UserError, match=r"column 'c': expected whole numbers from 0; got 0.5"):
        table.check(np.array([[0.0, 1.0, 0.5, 0.0]]), "new.csv")


def test_counts_are_kept_and_unit_has_the_volume_of_its_scale() -> None:
    raw = torch.tensor([[0, 700]])
    assert Counts((2,))(raw).tolist() == [[0.0, 700.0]]
    assert Counts((2,)).inverse(torch.tensor([[0.2, 699.6]])).tolist() == [[0, 700]]
    with pytest.raises(UserError, match="should hold counts"):
        Counts((2,)).check(np.array([[0.5, 1.0]]), "x")
    unit = Unit((2,), 255.0)
    assert unit.log_abs_det == pytest.approx(-2 * math.log(255))
    with pytest.raises(UserError, match="should hold values from 0 to 255"):
        unit.check(np.array([[0.0, 256.0]]), "x")


# Counts, from data to likelihood


@pytest.mark.parametrize(
    ("likelihood", "member"),
    [
        (None, NegativeBinomial),
        ("poisson", Poisson),
        ("zero-inflated-negative-binomial", ZeroInflated),
        ("laplace", Laplace),
    ],
)
def test_counts_are_scored_as_they_are_and_seen_as_logarithms(likelihood, member) -> None:
    counts = np.random.default_rng(0).negative_binomial(2, 0.01, (60, 4))
    data = load(counts)
    run = plan(data, Options(likelihood=likelihood, steps=2))
    assert type(run.model.likelihood) is member
    if likelihood == "laplace":
        return
    x = run.preprocessing(torch.from_numpy(counts))
    assert torch.equal(x.double(), torch.from_numpy(counts).double())
    seen = run.model.posterior.trunk.first(x)
    torch.testing.assert_close(seen, torch.from_numpy(np.log1p(counts)).float())
    assert decided(run.decisions, "encoder input") == "log(1 + x)"
    base = run.model.likelihood.likelihood if member is ZeroInflated else run.model.likelihood
    torch.testing.assert_close(base.log_means.exp(), torch.from_numpy(data.array("train").mean(0)).float())
    assert run.preprocessing.log_abs_det == 0
    with pytest.raises(UserError, match="needs counts, whole numbers from 0"):
        plan(load(counts / 3), Options(likelihood=likelihood or "negative-binomial", steps=2))
    with pytest.raises(UserError, match="a ladder takes numbers of one kind"):
        plan(data, Options(likelihood=likelihood, recipe="ladder", steps=2))


def test_grey_values_have_other_likelihoods() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    facts = inspect_dataset(load(grey))
    decisions = decide(facts, "continuous-bernoulli")
    assert type(build_preprocessing(facts, decisions, load(grey))) is Unit
    run = plan(load(grey), Options(likelihood="mixture-of-logistics", steps=2))
    assert type(run.model.likelihood) is MixtureOfLogistics
    with pytest.raises(UserError, match="a mixture of logistics likelihood needs whole numbers"):
        decide(inspect_dataset(load(np.random.default_rng(0).normal(size=(40, 3)))), "mixture-of-logistics")
    with pytest.raises(UserError, match="a continuous Bernoulli likelihood needs grey values"):
        decide(inspect_dataset(load(np.random.default_rng(0).normal(size=(40, 3)))), "continuous-bernoulli")


def test_the_start_of_counts_is_their_mean_and_never_zero() -> None:
    assert means_of(np.array([[1.0, 0.0, NAN], [2.0, 0.0, 4.0]])) == (1.5, 0.25, 4.0)


# Evaluation


def test_baselines_of_counts_are_negative_binomials_at_the_moments() -> None:
    train = torch.tensor([[1.0, 0.0], [5.0, 1.0], [9.0, 1.0], [1.0, 0.0]])
    test = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    found = score_baselines(Poisson((2,)), 1, InMemory(train), InMemory(test), Counts((2,)))["independent"]
    mean, variance = train.numpy().mean(0), train.numpy().var(0)
    r = mean[0] ** 2 / (variance[0] - mean[0])
    first = stats.nbinom(r, r / (r + mean[0])).logpmf(test[:, 0].numpy())
    second = stats.poisson(mean[1]).logpmf(test[:, 1].numpy())
    assert found.value == pytest.approx((first + second).mean(), abs=1e-3)
    observed = Poisson((2,), library="observed")
    assert score_baselines(observed, 1, InMemory(train), InMemory(test), Counts((2,))) == {}


def test_baselines_of_a_table_leave_missing_cells_out() -> None:
    likelihood = Mixed((Bernoulli((1,)), Gaussian((1,), "per_dimension")), (1, 0))
    train = torch.tensor([[0.5, 1.0], [NAN, 0.0], [2.5, NAN], [1.5, 1.0]])
    test = torch.tensor([[1.0, 1.0], [NAN, 0.0], [NAN, NAN]])
    columns = Columns((Column("a", "real"), Column("b", "binary", (0.0, 1.0))))
    found = score_baselines(likelihood, 1, InMemory(train), InMemory(test), columns)["independent"]
    normal = stats.norm(1.5, math.sqrt(2 / 3)).logpdf(1.0)
    assert found.value == pytest.approx((normal + math.log(3 / 5) + math.log(2 / 5)) / 3, abs=1e-5)


def test_a_score_without_a_density_is_refused_with_the_reason() -> None:
    x = numbers(20, 3, dtype=torch.float32).numpy()
    data = load(x)
    run = plan(data, Options(steps=2))
    model = VAE(
        StandardNormal(2),
        DiagonalGaussian(MLP((3,), (2,)), MLP((3,), (2,))),
        MLP((2,), (1, 3)),
        Perceptual(MLP((3,), (4,), activation="tanh")),
    )
    with pytest.raises(UserError, match="Perceptual is a score in the place of a density"):
        importance_bound(model, torch.from_numpy(x), samples=2)
    found = evaluate(model, run.preprocessing, data, samples=2, baselines=True)
    assert not {"elbo", "reconstruction", "evidence_bound", "evidence_bound_raw"} & set(found.values)
    assert {"kl", "reconstruction_rmse"} <= set(found.values)
    assert "score in the place of a density" in found.absent["evidence_bound"]
    assert found.baselines == {}


def test_the_evidence_of_a_table_counts_the_volume_of_the_cells_that_are_there(table: VAE) -> None:
    rows = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, NAN, 1.0, NAN], [2.0, 9.0, 2.0, 0.0]] * 8, dtype=np.float32)
    data = load(np.arange(96.0).reshape(24, 4))
    object.__setattr__(data, "x", rows)
    columns = (Column("n", "count", whole=True), Column("r", "real"))
    columns += (Column("o", "ordinal", (0.0, 1.0, 2.0)), Column("c", "category", (0.0, 1.0, 2.0)))
    preprocessing = Columns(columns).fit(rows)
    found = evaluate(copy.deepcopy(table).float(), preprocessing, data, split="train", samples=4)
    there = ~np.isnan(rows[data.rows("train"), 1])
    volume = -there.mean() * math.log(float(np.nanstd(rows[:, 1])))
    difference = found.values["evidence_bound_raw"].value - found.values["evidence_bound"].value
    assert difference == pytest.approx(volume, abs=1e-6)
    assert abs(volume) > 1e-3
    assert "unit of its own" in found.absent["reconstruction_rmse"]
    with pytest.raises(UserError, match="predictive checks compare whole rows"):
        predictive_checks(table, data.split("train"), preprocessing)
    with pytest.raises(UserError, match="distances of features compare whole rows"):
        fidelity(table, preprocessing, data, split="train")


def test_columns_of_one_kind_share_a_part() -> None:
    columns = [Column("a", "real"), Column("b", "category", (0.0, 1.0, 2.0)), Column("c", "real")]
    columns += [Column("d", "binary", (0.0, 1.0)), Column("e", "category", (0.0, 1.0, 2.0))]
    likelihood = mixed(columns, np.zeros((4, 5)))
    assert [part.shape for part in likelihood.whole_parts] == [(2,), (2,), (1,)]
    assert likelihood.places == (0, 2, 1, 4, 3)
    assert isinstance(encoder_input(likelihood), Embedded)
