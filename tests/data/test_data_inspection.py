"""Facts and what follows from them."""

import json

import numpy as np
import pytest
from data_helpers import image_folder, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.core.errors import UserError
from sfumato.data import (
    Binarise,
    Counts,
    Identity,
    Integers,
    Levels,
    Standardise,
    build_preprocessing,
    decide,
    decided,
    inspect_dataset,
    load_dataset,
)

GENERATOR = np.random.default_rng(0)
GREY = noise(60, 9, 9)
COUNTS = GENERATOR.poisson(3, (60, 5)).clip(0, 12)
COUNTS[:, 0] = 12
MANY = GENERATOR.poisson(500, (60, 5))
NORMAL = GENERATOR.normal(size=(60, 5))
SCALED = (GREY / 255).astype(np.float32)

CASES = {
    "bits": ((GREY > 99), "binary", "bernoulli", Identity),
    "black and white": ((GREY > 99) * np.uint8(255), "binary", "bernoulli", Levels),
    "grey": (GREY, "8-bit", "logistic", Levels),
    "grey as float": (GREY.astype(np.float32), "8-bit", "logistic", Levels),
    "grey in [0, 1]": (SCALED, "8-bit", "logistic", Levels),
    "rows of bytes": (GREY.reshape(60, 81), "8-bit", "logistic", Levels),
    "few counts": (COUNTS, "counts", "categorical", Integers),
    "many counts": (MANY, "counts", "negative-binomial", Counts),
    "real": (NORMAL, "real", "gaussian", Standardise),
    "negative whole": (COUNTS - 5, "real", "gaussian", Standardise),
    "uniform in [0, 1]": (GENERATOR.random((60, 9, 9)), "real", "gaussian", Standardise),
}


def look(x, **options):
    data = load_dataset(x, **options)
    return data, inspect_dataset(data)


@pytest.mark.parametrize(("x", "kind", "likelihood", "member"), CASES.values(), ids=CASES)
def test_each_kind_gets_its_likelihood_and_preprocessing(x, kind, likelihood, member):
    data, facts = look(x)
    assert facts.kind == kind
    decisions = decide(facts)
    assert decided(decisions, "likelihood") == likelihood
    preprocessing = build_preprocessing(facts, decisions, data)
    assert type(preprocessing) is member
    for name in ("train", "validation", "test"):
        examples = data.split(name)
        model_input = preprocessing(examples.x)
        if likelihood == "bernoulli":
            assert {*model_input.unique().tolist()} <= {0.0, 1.0}
        if likelihood == "logistic":
            levels = model_input * 255
            assert float((levels - levels.round()).abs().max()) < 1e-4
            assert 0 <= model_input.min() <= model_input.max() <= 1
        np.testing.assert_allclose(preprocessing.inverse(model_input).numpy(), examples.x.numpy(), atol=1e-3)
    assert all(decision.because and decision.change_with.startswith("--") for decision in decisions)
    assert all(decision.source == "auto" for decision in decisions)
    json.dumps([facts.to_dict(), *(decision.to_dict() for decision in decisions)], allow_nan=False)


def test_facts_are_right(tmp_path):
    folder = image_folder(tmp_path / "d", {"a": 30, "b": 10})
    for number in range(3):
        (folder / "a" / f"copy{number}.png").write_bytes((folder / "a" / "000.png").read_bytes())
    (folder / "notes.txt").write_text("")
    data, facts = look(folder)
    assert (facts.source, facts.layout, facts.shape, facts.dtype) == ("d", "images", (1, 8, 8), "uint8")
    assert facts.splits == {name: len(rows) for name, rows in data.splits.items()}
    assert dict(facts.classes) == {"a": 33, "b": 10}
    assert facts.balance == 3.3
    assert (facts.duplicates, facts.crossing, facts.left_out, facts.missing) == (3, 0, 1, 0)
    train = data.array("train")
    assert (facts.low, facts.high) == (train.min(), train.max())
    assert facts.distinct == len(np.unique(train))
    assert facts.extremes == pytest.approx(((train == train.min()) | (train == train.max())).mean())
    assert facts.levels == 256
    assert facts.dimensions == 64
    assert not facts.given_splits


def test_duplicates_that_cross_given_splits_are_counted(tmp_path):
    x = noise(30, 4)
    x[25] = x[26] = x[0]
    x[2] = x[1]
    np.savez(tmp_path / "d.npz", x_train=x[:20], x_test=x[20:])
    _, facts = look(tmp_path / "d.npz")
    assert (facts.duplicates, facts.crossing) == (3, 1)
    assert facts.given_splits


def test_constant_dimensions_missing_rows_and_tables(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n" + "".join(f"{row},7,{row * row / 3}\n" for row in range(20)) + "1,,2\n")
    _, facts = look(tmp_path / "t.csv", skip_bad=True)
    assert (facts.layout, facts.constant, facts.missing, facts.source) == ("table", 1, 1, "t.csv")


def test_pca_counts_the_components_of_95_percent():
    mixing = GENERATOR.normal(size=(4, 30))
    _, facts = look(GENERATOR.normal(size=(2000, 4)) @ mixing + 1e-3 * GENERATOR.normal(size=(2000, 30)) + 100)
    assert facts.pca_95 in (3, 4)
    _, wide = look(GENERATOR.normal(size=(50, 4)) @ GENERATOR.normal(size=(4, 200)))
    assert wide.pca_95 in (3, 4)
    _, spread = look(GENERATOR.normal(size=(2000, 20)))
    assert spread.pca_95 in (18, 19)
    _, flat = look(np.ones((10, 3)))
    assert flat.pca_95 == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(-3, 600))
def test_the_test_split_decides_nothing(seed, high):
    """Whatever lies in the validation and test splits, facts that decide and decisions stay as they are."""
    random = np.random.default_rng(seed)
    data = load_dataset(random.integers(0, max(1, high), (40, 3)))
    facts = inspect_dataset(data)
    held_out = np.concatenate([data.splits["validation"], data.splits["test"]])
    data.x[held_out] = random.integers(-(10**6), 10**6, (len(held_out), 3))
    other = inspect_dataset(data)
    assert decide(other) == decide(facts)
    ignored = {"duplicates", "crossing"}
    assert {k: v for k, v in other.to_dict().items() if k not in ignored} == {
        k: v for k, v in facts.to_dict().items() if k not in ignored
    }


def test_standardising_is_fitted_to_the_training_split_alone():
    data, facts = look(NORMAL)
    mean = data.array("train").mean(0)
    data.x[data.splits["test"]] = 1e6
    preprocessing = build_preprocessing(facts, decide(facts), data)
    np.testing.assert_allclose(preprocessing.mean, mean, rtol=1e-6)


@pytest.mark.parametrize("mode", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", ["grey", "grey in [0, 1]", "bits", "black and white", "uniform in [0, 1]"])
def test_binarisation_when_asked_for(name, mode):
    data, facts = look(CASES[name][0])
    for likelihood in (None, "bernoulli"):
        decisions = decide(facts, likelihood, binarise=mode)
        assert decided(decisions, "likelihood") == "bernoulli"
        chosen = next(decision for decision in decisions if decision.name == "binarise")
        assert (chosen.value, chosen.source) == (mode, "user")
        preprocessing = build_preprocessing(facts, decisions, data, seed=5)
        assert isinstance(preprocessing, Binarise)
        assert (preprocessing.mode, preprocessing.seed) == (mode, 5)
        prepared = preprocessing.prepare(data)
        model_input = preprocessing(prepared.split("train").x)
        assert {*model_input.unique().tolist()} == {0.0, 1.0}
        truth = data.x.astype(float).mean() / (255 if data.x.max() > 1 else 1)
        assert float(model_input.mean()) == pytest.approx(truth, abs=0.04)


def test_explicit_choices_win_and_say_so():
    data, facts = look(GREY, split=(0.5, 0.25, 0.25))
    decisions = decide(facts, likelihood="gaussian")
    first = decisions[0]
    assert (first.value, first.source) == ("gaussian", "user")
    assert "no bits per dimension" in first.because
    assert decided(decisions, "variance") == "optimal"
    assert decisions[-1].source == "user"
    assert isinstance(build_preprocessing(facts, decisions, data), Standardise)
    assert decided(decide(facts, likelihood="categorical"), "levels") == 256
    _, scaled = look(SCALED)
    categorical = build_preprocessing(scaled, decide(scaled, "categorical"), load_dataset(SCALED))
    assert (categorical.levels, categorical.high) == (256, 1.0)
    _, bits = look(CASES["bits"][0])
    assert decided(decide(bits, likelihood="logistic"), "levels") == 2


def test_nearly_binary_images_stay_logistic_but_point_to_binarisation():
    x = np.where(noise(50, 9, 9) < 220, 0, noise(50, 9, 9)).astype(np.uint8)
    x[0, 0, 0] = 255
    _, facts = look(x, split=(1, 0, 0))
    first = decide(facts)[0]
    assert (first.value, first.change_with) == ("logistic", "--binarise dynamic")
    assert decide(look(GREY)[1])[0].change_with == "--likelihood gaussian"


@pytest.mark.parametrize(
    ("name", "likelihood", "binarise", "says"),
    [
        ("grey", "bernoulli", None, r"^a Bernoulli likelihood needs values in \[0, 1\]; array holds 0 to 255\. "
         r"Use --likelihood logistic, --binarise dynamic, or rescale the array\.$"),
        ("grey", "bernoulli", "none", "holds 0 to 255"),
        ("real", "bernoulli", None, "holds -.*Use --likelihood gaussian, or"),
        ("few counts", "bernoulli", None, "holds 0 to 12.*--likelihood categorical"),
        ("uniform in [0, 1]", "bernoulli", None, "are 0 or 1; .*cross-entropy is not a likelihood.*--binarise"),
        ("grey in [0, 1]", "bernoulli", None, "values that are 0 or 1.*--likelihood logistic"),
        ("real", "logistic", None, "a discretised logistic likelihood needs whole numbers.*real values from"),
        ("negative whole", "categorical", None, "real values from -5"),
        ("many counts", "categorical", None, "at most 255; array holds whole numbers from"),
        ("few counts", None, "dynamic", "needs grey values.*holds 0 to 12"),
        ("real", None, "fixed", "needs grey values"),
        ("grey", "logistic", "dynamic", "binarised values need a Bernoulli likelihood; got --likelihood logistic"),
        ("grey", "bernouli", None, "--likelihood should be one of its names; got 'bernouli'. Did you mean 'bernoulli'"),
        ("grey", None, "random", "--binarise should be one of its names; got 'random'"),
    ],
)  # fmt: skip
def test_likelihoods_that_the_values_do_not_fit(name, likelihood, binarise, says):
    _, facts = look(CASES[name][0])
    with pytest.raises(UserError, match=says):
        decide(facts, likelihood, binarise)


def test_the_file_is_named_as_it_was_typed(tmp_path):
    np.save(tmp_path / "counts.npy", GREY)
    _, facts = look(tmp_path / "counts.npy")
    with pytest.raises(UserError, match=r"counts.npy holds 0 to 255"):
        decide(facts, "bernoulli")


def test_values_that_training_rules_out_are_an_error_not_a_choice():
    data, facts = look(COUNTS.copy())
    decisions = decide(facts)
    data.x[data.splits["test"][0], 2] = 13
    with pytest.raises(UserError, match=r"the test split of array should hold 13 levels from 0 to 12.*got 13"):
        build_preprocessing(facts, decisions, data)
