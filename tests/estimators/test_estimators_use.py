"""The estimators as people use them: pipelines, searches, frames, folders, joblib, semi-supervised classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from joblib.numpy_pickle import NumpyUnpickler
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sfumato
from sfumato.core.errors import UserError
from sfumato.estimators import VAEClassifier, VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer
from sfumato.io.tensors import unpack

SMALL: dict[str, Any] = {
    "n_components": 2,
    "hidden_layer_sizes": (8,),
    "max_iter": 2,
    "batch_size": 50,
    "random_state": 0,
}
ALL = (VAEClassifier, VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer)
X, Y = make_blobs(150, n_features=3, centers=3, cluster_std=0.5, random_state=0)
FRAME = pd.DataFrame(X, columns=["height", "weight", "age"], index=np.arange(150) + 7)


def fitted(cls: type, data: Any = X, **words: Any) -> Any:
    labels = [Y] if cls is VAEClassifier else []
    return cls(**SMALL | words).fit(data, *labels)


def said(estimator: Any, data: Any = X) -> np.ndarray:
    """Return what an estimator says about rows."""
    name = next(name for name in ("predict_proba", "score_samples", "transform") if hasattr(estimator, name))
    data = np.where(np.arange(len(data))[:, None] % 5 == 0, np.nan, data) if isinstance(estimator, VAEImputer) else data
    return np.asarray(getattr(estimator, name)(data))


def test_pipeline_with_frames_in_and_out() -> None:
    pipe = make_pipeline(StandardScaler(), VAETransformer(**SMALL))
    found = pipe.set_output(transform="pandas").fit_transform(FRAME)
    assert list(found.columns) == ["vaetransformer0", "vaetransformer1"]
    assert (found.index == FRAME.index).all()
    found = clone(pipe).set_output(transform="polars").fit_transform(pl.from_pandas(FRAME))
    assert isinstance(found, pl.DataFrame)
    assert found.columns == ["vaetransformer0", "vaetransformer1"]
    imputer = VAEImputer(**SMALL).set_output(transform="pandas")
    filled = imputer.fit_transform(FRAME.mask(FRAME > 5))
    assert list(filled.columns) == list(FRAME.columns)
    assert (filled.index == FRAME.index).all()


def test_grid_search_by_likelihood_and_cross_validation() -> None:
    search = GridSearchCV(VAEDensity(**SMALL, n_importance_samples=4), {"n_components": [1, 2]}, cv=2).fit(X)
    assert search.best_params_["n_components"] in (1, 2)
    scores = cross_val_score(VAEClassifier(**SMALL, n_importance_samples=4), X, Y, cv=2)
    assert scores.shape == (2,)


@pytest.mark.parametrize("cls", ALL)
def test_a_folder_holds_the_fitted_estimator(cls: type, tmp_path: Path) -> None:
    estimator = fitted(cls, FRAME)
    again = cls.load(estimator.save(tmp_path / "m"))
    np.testing.assert_array_equal(said(again, FRAME.to_numpy()), said(estimator, FRAME.to_numpy()))
    assert again.get_params() == estimator.get_params()
    assert list(again.feature_names_in_) == list(FRAME.columns)
    assert again.n_iter_ == estimator.n_iter_
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors", "manifest.json"}
    assert sfumato.load(tmp_path / "m").sample(2, generator=0).shape == (2, 3)
    other = VAEDensity if cls is not VAEDensity else VAETransformer
    with pytest.raises(UserError, match=f"should hold a {other.__name__}; it holds {cls.__name__}"):
        other.load(tmp_path / "m")
    with pytest.raises(UserError, match="exists"):
        estimator.save(tmp_path / "m")


pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")


@pytest.mark.parametrize("cls", ALL)
def test_joblib_keeps_the_bytes_of_the_folder(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = fitted(cls)
    state = estimator.__getstate__()
    assert set(state["model_"]) == {"config.json", "model.safetensors"}
    assert all(isinstance(data, bytes) for data in state["model_"].values())
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    named: set[tuple[str, str]] = set()
    find = NumpyUnpickler.find_class
    monkeypatch.setattr(
        NumpyUnpickler, "find_class", lambda reader, *name: named.add(name) or find(reader, *name), raising=False
    )
    np.testing.assert_array_equal(said(joblib.load(file)), said(estimator))
    assert {pair for pair in named if pair[0].startswith(("sfumato", "torch"))} == {(cls.__module__, cls.__name__)}


@pytest.mark.parametrize("cls", ALL)
def test_random_state_is_scikit_learns_and_nothing_global_is_touched(cls: type) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, three = fitted(cls), fitted(cls), fitted(cls, random_state=1)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    np.testing.assert_array_equal(said(one), said(two))
    assert not np.array_equal(said(one), said(three))
    instance = np.random.RandomState(0)
    np.testing.assert_array_equal(said(fitted(cls, random_state=instance)), said(one))


def test_the_transformer_goes_there_and_back() -> None:
    data = np.repeat(X[:, :1], 4, 1) * [1.0, -2.0, 0.5, 3.0] + 5
    transformer = VAETransformer(
        1, hidden_layer_sizes=(), max_iter=30, batch_size=15, learning_rate_init=0.05, random_state=0
    )
    again = transformer.inverse_transform(transformer.fit_transform(data))
    assert np.abs(again - data).max() < 0.2 * data.std()


def test_partial_fit_goes_on_where_it_was_also_after_joblib() -> None:
    data = np.repeat(X[:, :1], 4, 1) * [1.0, -2.0, 0.5, 3.0] + 5
    transformer = VAETransformer(1, hidden_layer_sizes=(), batch_size=15, learning_rate_init=0.02, random_state=0)

    def error(estimator: VAETransformer) -> float:
        return float(np.abs(estimator.inverse_transform(estimator.transform(data)) - data).mean())

    for start in (0, 75):
        transformer.partial_fit(data[start : start + 75])
    first = error(transformer)
    file = io.BytesIO()
    joblib.dump(transformer, file)
    file.seek(0)
    twin = joblib.load(file)
    for _ in range(15):
        transformer.partial_fit(data)
        twin.partial_fit(data)
    assert transformer.n_iter_ == 17
    assert error(transformer) < 0.5 * first
    np.testing.assert_array_equal(twin.transform(data), transformer.transform(data))


def test_partial_fit_is_one_pass_over_the_rows_and_decides_once() -> None:
    words = {**SMALL, "batch_size": 20}
    one, two = VAETransformer(**words), VAETransformer(**words | {"max_iter": 77, "validation_fraction": 0.5})
    one.partial_fit(X[:50])
    np.testing.assert_array_equal(one.transform(X), two.partial_fit(X[:50]).transform(X))
    assert one.n_iter_ == 1
    assert one._passes is not None
    kept = unpack(one._passes["tensors"]["ema"], "ema")
    assert all(torch.equal(kept[name], value) for name, value in one.model_.model.state_dict().items()), "averages"
    plain = one._passes["plain"]
    assert (plain["averages"], plain["count"]) == (3, 50), "steps of 20 rows, the last of 10: every row once"
    assert plain["optimizer"]["param_groups"][0]["lr"] == one.learning_rate_init, "at its peak"
    scale = one.model_.preprocessing.scale.clone()
    one.set_params(batch_size=5).partial_fit(9 * X)
    np.testing.assert_allclose(scale, X[:50].std(0), rtol=1e-5)
    assert torch.equal(one.model_.preprocessing.scale, scale)
    assert one._passes["plain"]["averages"] == 3 + 8, "the rows a step are those of the first call"


def test_partial_fit_goes_on_from_fit_and_from_a_folder(tmp_path: Path) -> None:
    transformer = fitted(VAETransformer, batch_size=25)
    again = VAETransformer.load(transformer.save(tmp_path / "m"))
    before = transformer.transform(X)
    np.testing.assert_array_equal(again.partial_fit(X).transform(X), transformer.partial_fit(X).transform(X))
    assert 0 < np.abs(transformer.transform(X) - before).max() < 0.1, "six steps of 0.001 from where it was"
    assert transformer.n_iter_ == 3
    assert np.array_equal(transformer.fit(X).transform(X), before), "fit begins anew"


def test_a_few_labels_and_many_rows_without() -> None:
    data, truth = make_blobs(300, centers=[[0, 0, 0], [4, 0, 0], [0, 4, 0]], cluster_std=0.6, random_state=1)
    names = np.array([30, 10, 20])[truth]
    few = np.where(np.random.RandomState(0).uniform(size=300) < 0.2, names, -1)
    classifier = VAEClassifier(
        2, hidden_layer_sizes=(), max_iter=12, batch_size=15, learning_rate_init=0.1, random_state=0
    ).fit(data, few)
    assert classifier.classes_.tolist() == [10, 20, 30]
    assert classifier.score(data, names) > 0.95
    found = classifier.predict_proba(data)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(classifier.predict(data), classifier.classes_[found.argmax(1)])


def test_minus_one_is_a_class_where_there_is_only_one_other() -> None:
    assert fitted_labels(np.where(Y == 0, -1, 1)) == [-1, 1]
    assert fitted_labels(np.where(Y == 0, -1, Y)) == [1, 2]
    assert fitted_labels(np.array(["b", "c", "a"])[Y]) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="at least two classes"):
        fitted_labels(np.zeros(150))


def fitted_labels(labels: np.ndarray) -> list[Any]:
    found: list[Any] = VAEClassifier(**SMALL).fit(X, labels).classes_.tolist()
    return found


def test_other_likelihoods_and_what_they_refuse() -> None:
    binary = (X > 0).astype(float)
    density = VAEDensity(**SMALL, likelihood="bernoulli").fit(binary)
    assert (density.score_samples(binary) < 0).all()
    assert type(fitted(VAEDensity, binary, likelihood="auto").model_.model.likelihood).__name__ == "Bernoulli"
    with pytest.raises(ValueError, match="0 and 1"):
        density.score_samples(X)
    with pytest.raises(ValueError, match="a Bernoulli likelihood needs"):
        VAEDensity(**SMALL, likelihood="bernoulli").fit(X)


def test_mistakes_are_value_errors_with_a_cure() -> None:
    with pytest.raises(ValueError, match="column 1 has none"):
        VAEImputer(**SMALL).fit(np.column_stack([X[:, 0], np.full(150, np.nan)]))
    with pytest.raises(ValueError, match="whole numbers from 1"):
        VAEDensity(hidden_layer_sizes=(0,)).fit(X)
    with pytest.raises(ValueError, match="needs rows to set its threshold"):
        VAEOutlierDetector(**SMALL, calibration_fraction=0.01).fit(np.zeros((20, 2)))


def test_what_a_notebook_shows_is_small() -> None:
    for estimator in (VAEDensity(), fitted(VAEDensity)):
        assert len(estimator._repr_html_()) < 10_000
