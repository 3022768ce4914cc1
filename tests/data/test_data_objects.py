"""What people hold in Python: frames, AnnData, xarray, Hugging Face datasets, torch datasets and loaders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset

import sfumato
from sfumato.core.errors import UserError
from sfumato.data import Standardise, load_dataset
from sfumato.data.objects import like, to_array
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.recipes import Options, plan

VALUES = np.random.RandomState(0).normal(size=(20, 3)).round(3)
KINDS = np.array(["cat", "dog"] * 10)
COLUMNS = ("height", "weight", "age")
FRAME = pd.DataFrame(VALUES, columns=COLUMNS, index=np.arange(20) + 100)
IMAGES = np.random.RandomState(1).randint(0, 256, size=(12, 8, 9, 3)).astype(np.uint8)


class Capsule:
    """Speaks Arrow's C interface and nothing else."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table(FRAME.reset_index(drop=True)).__arrow_c_stream__(requested_schema)


FRAMES = {
    "pandas": FRAME,
    "polars": pl.DataFrame(VALUES, schema=list(COLUMNS)),
    "polars-lazy": pl.LazyFrame(VALUES, schema=list(COLUMNS)),
    "arrow": pa.table({name: VALUES[:, place] for place, name in enumerate(COLUMNS)}),
    "capsule": Capsule(),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_frames_are_tables(frame: Any) -> None:
    data = load_dataset(frame)
    assert data.columns == COLUMNS
    assert data.x.dtype == np.float32
    np.testing.assert_allclose(data.x, VALUES, rtol=1e-6)


@pytest.mark.parametrize("kind", ["pandas", "polars", "categorical"])
def test_a_column_holds_the_classes(kind: str) -> None:
    frame = FRAME.assign(kind=KINDS)
    frame = frame.astype({"kind": "category"}) if kind == "categorical" else frame
    data = load_dataset(pl.from_pandas(frame) if kind == "polars" else frame, label="kind")
    assert data.class_names == ("cat", "dog")
    assert data.y is not None
    assert [data.class_names[number] for number in data.y] == KINDS.tolist()
    assert data.columns == COLUMNS
    pair = load_dataset((FRAME, frame["kind"]))
    np.testing.assert_array_equal(pair.y, data.y)


def test_unknown_labels_and_missing_cells() -> None:
    frame = FRAME.assign(kind=[None, *KINDS[1:]])
    assert load_dataset(frame, label="kind").y[0] == -1
    frame.loc[105, "age"] = None
    with pytest.raises(UserError, match="column 'age'"):
        load_dataset(frame, label="kind")
    assert len(load_dataset(frame, label="kind", skip_bad=True)) == 19


@pytest.mark.parametrize(
    ("source", "reading", "sentence"),
    [
        (FRAME.assign(kind=KINDS), {}, "column 'kind': expected numbers; got"),
        (FRAME, {"label": "hight"}, "no column 'hight'.*Did you mean 'height'"),
        (FRAME.head(0), {}, "it has none"),
        (FRAME, {"layer": "counts"}, "layer is for AnnData; got it with DataFrame"),
        (VALUES, {"label": "kind"}, "--label is for tables"),
        (VALUES, {"layer": "kind"}, "layer is for AnnData"),
        ([1, 2], {}, "got list"),
        (TensorDataset(torch.zeros(0, 3)), {}, "it has none"),
        ([[1.0]], {}, "got list"),
    ],
)
def test_mistakes(source: Any, reading: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_dataset(source, **reading)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_anndata() -> None:
    import anndata
    from scipy.sparse import csr_matrix

    counts = np.random.RandomState(0).poisson(1.0, size=(20, 3)).astype(np.float32)
    cells = anndata.AnnData(
        VALUES.astype(np.float32),
        obs=pd.DataFrame({"kind": KINDS}, index=[f"cell{row}" for row in range(20)]),
        var=pd.DataFrame(index=list(COLUMNS)),
        layers={"counts": csr_matrix(counts)},
    )
    data = load_dataset(cells, label="kind")
    assert (data.columns, data.class_names, data.items[3]) == (COLUMNS, ("cat", "dog"), "cell3")
    np.testing.assert_array_equal(load_dataset(cells, layer="counts").x, counts)
    with pytest.raises(UserError, match=r"no layer 'count'. Did you mean 'counts'"):
        load_dataset(cells, layer="count")
    with pytest.raises(UserError, match=r"no obs column 'kin'. Did you mean 'kind'"):
        load_dataset(cells, label="kin")
    model = small_model()
    cells.obsm["X_sfumato"] = model.encode(cells).mean.numpy()
    assert cells.obsm["X_sfumato"].shape == (20, 2)
    again = model.reconstruct(cells)
    assert isinstance(again, anndata.AnnData)
    assert list(again.obs_names) == list(cells.obs_names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_hugging_face_datasets() -> None:
    import datasets

    table = datasets.Dataset.from_dict(
        {**{name: VALUES[:, place] for place, name in enumerate(COLUMNS)}, "label": [0, 1] * 10},
        features=datasets.Features(
            {name: datasets.Value("float64") for name in COLUMNS} | {"label": datasets.ClassLabel(names=["cat", "dog"])}
        ),
    )
    data = load_dataset(table)
    assert (data.columns, data.class_names) == (COLUMNS, ("cat", "dog"))
    np.testing.assert_allclose(data.x, VALUES, rtol=1e-6)
    again = small_model().reconstruct(table.remove_columns("label"))
    assert isinstance(again, datasets.Dataset)
    assert again.column_names == list(COLUMNS)
    splits = datasets.DatasetDict({"test": table.select(range(4)), "train": table.select(range(4, 20))})
    given = load_dataset(splits)
    np.testing.assert_allclose(given.array("test"), VALUES[:4], rtol=1e-6)
    assert given.y is not None
    np.testing.assert_array_equal(given.y[given.rows("test")], [0, 1, 0, 1])
    with pytest.raises(UserError, match="a dictionary of splits should have train"):
        load_dataset(datasets.DatasetDict({"tests": table}))
    pictures = datasets.Dataset.from_dict({"image": list(IMAGES)}, datasets.Features({"image": datasets.Image()}))
    np.testing.assert_array_equal(load_dataset(pictures).x, IMAGES.transpose(0, 3, 1, 2))
    stream = table.to_iterable_dataset().map(lambda row: {"x": [row[name] for name in COLUMNS], "y": row["label"]})
    np.testing.assert_allclose(load_dataset(stream.remove_columns([*COLUMNS, "label"])).x, VALUES, rtol=1e-6)


class Items(IterableDataset[Any]):
    """Gives items one by one, and does not know how many."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __iter__(self) -> Any:
        for row, kind in zip(VALUES.astype(np.float32), KINDS, strict=True):
            number = int(kind == "dog")
            named = {"image": row, "label": number}
            yield {"x": row, "(x,)": (row,), "(x, y)": (row, number), "dict": named}[self.form]


@pytest.mark.parametrize("form", ["x", "(x,)", "(x, y)", "dict"])
@pytest.mark.parametrize("loader", [False, True])
def test_torch_datasets_and_loaders(form: str, loader: bool) -> None:
    source: Any = DataLoader(Items(form), batch_size=6) if loader else Items(form)
    data = load_dataset(source)
    np.testing.assert_allclose(data.x, VALUES.astype(np.float32))
    if form in ("(x, y)", "dict"):
        np.testing.assert_array_equal(data.y, np.arange(20) % 2)
    else:
        assert data.num_classes == 0


CHOSEN = [3, 1, 1, 7, 19, 0] * 4
ROWS = TensorDataset(torch.from_numpy(VALUES))
LOADERS = {
    "batch size": (DataLoader(ROWS, batch_size=5), range(20), 5, "SequentialSampler"),
    "sampler": (DataLoader(ROWS, batch_size=7, sampler=CHOSEN), CHOSEN, 7, "list"),
    "last batch": (DataLoader(ROWS, batch_size=6, drop_last=True), range(18), 6, "SequentialSampler"),
    "own batches": (DataLoader(ROWS, batch_sampler=BatchSampler(CHOSEN, 4, False)), CHOSEN, 4, "list"),
    "batches of any size": (DataLoader(ROWS, batch_sampler=[[2, 0], [1, 5, 4]] * 4), [2, 0, 1, 5, 4] * 4, None, "list"),
    "no batches": (DataLoader(ROWS, batch_size=None), range(20), None, ""),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_is_read_once_and_its_batch_size_is_that_of_the_training(name: str) -> None:
    loader, rows, size, sampler = LOADERS[name]
    data = load_dataset(loader)
    np.testing.assert_array_equal(data.x, VALUES[list(rows)])
    run = plan(data, Options(steps=1, latent_dim=2))
    said = {decision.name: decision for decision in run.decisions}
    if size is None:
        assert "batch" not in said
    else:
        assert run.config.batch_size == said["batch"].value == size
        assert f"the DataLoader's own; its {sampler} chose the examples" in said["batch"].because
        assert plan(data, Options(steps=1, latent_dim=2, batch_size=3)).config.batch_size == 3, "an explicit one wins"


def test_xarray() -> None:
    import xarray

    array = xarray.DataArray(
        VALUES.T,
        dims=("measure", "sample"),
        coords={"measure": list(COLUMNS), "sample": np.arange(20) + 100, "kind": ("sample", KINDS), "place": "here"},
    )
    data = load_dataset(array, label="kind")
    assert (data.columns, data.class_names, data.items[3]) == (COLUMNS, ("cat", "dog"), "103")
    np.testing.assert_allclose(data.x, VALUES, rtol=1e-6)
    assert [data.class_names[number] for number in data.y] == KINDS.tolist()
    model = small_model()
    again = model.reconstruct(array)
    assert again.dims == array.dims
    assert again.coords.equals(array.coords)
    np.testing.assert_allclose(again.values.T, model.reconstruct(VALUES), rtol=1e-6)
    z = xarray.DataArray(
        model.encode(array).mean.numpy(),
        dims=("sample", "z"),
        coords={"sample": array.sample, "kind": array.kind, "z": [0, 1]},
    )
    decoded = model.decode(z)  # another second dimension than that of z: the coordinates of the examples stay
    assert decoded.dims == ("sample", "dim_1")
    assert set(decoded.coords) == {"sample", "kind"}
    np.testing.assert_allclose(decoded.sel(sample=103), model.reconstruct(VALUES)[3], rtol=1e-5)
    with pytest.raises(UserError, match=r"no coordinate 'kin' along 'sample'. Did you mean 'kind'"):
        load_dataset(array, label="kin")
    with pytest.raises(UserError, match="Give one array of it"):
        load_dataset(array.to_dataset(name="x"))


@pytest.mark.parametrize("shape", [(12, 8, 9), (12, 8, 9, 3), (12, 3, 8, 9), (12, 4, 5)])
def test_images_in_xarray_keep_their_axes_and_coordinates(shape: tuple[int, ...]) -> None:
    import xarray

    values = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    dims = ("time", "a", "b", "c")[: len(shape)]
    array = xarray.DataArray(values, dims=dims, coords={"time": np.arange(12), "b": np.linspace(0, 1, shape[2])})
    x = load_dataset(array).x
    assert len(x.shape) == (3 if shape == (12, 4, 5) else 4)
    again = like(torch.from_numpy(x), array)
    assert again.identical(array)


def test_items_of_different_shapes_are_refused() -> None:
    class Ragged(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, number: int) -> Any:
            return torch.zeros(3 + number)

    with pytest.raises(UserError, match="examples of one shape; got"):
        load_dataset(Ragged())


def small_model() -> PackagedModel:
    networks = [MLP((3,), (2,), hidden=()) for _ in range(2)]
    vae = VAE(StandardNormal(2), DiagonalGaussian(*networks), MLP((2,), (1, 3), hidden=()), Gaussian((3,)))
    return PackagedModel(vae, Standardise((3,))).eval()


@pytest.mark.parametrize("name", ["pandas", "polars", "arrow"])
def test_the_same_kind_comes_back(name: str) -> None:
    frame, model = FRAMES[name], small_model()
    again = model.reconstruct(frame)
    assert type(again) is type(frame)
    assert tuple(getattr(again, "column_names", again.columns if name != "arrow" else ())) == COLUMNS
    expected = model.reconstruct(VALUES)
    np.testing.assert_allclose(to_array(again), expected, rtol=1e-6)
    if name == "pandas":
        assert (again.index == FRAME.index).all()
        decoded = model.decode(pd.DataFrame(model.encode(FRAME).mean.numpy(), index=FRAME.index))
        assert list(decoded.columns) == ["c0", "c1", "c2"]
        np.testing.assert_allclose(decoded, expected, rtol=1e-5)


def test_arrays_and_tensors_come_back_as_they_are() -> None:
    values = torch.zeros(2, 3)
    assert like(values, values) is values
    assert isinstance(like(values, np.zeros((2, 3))), np.ndarray)
    assert like(values, DataLoader(TensorDataset(values))) is values


def test_a_frame_is_inspected_trained_on_and_encoded(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.RandomState(0).normal(size=(60, 3)), columns=COLUMNS)
    frame["kind"] = ["a", "b"] * 30
    found = sfumato.inspect(frame, label="kind", likelihood="gaussian", latent_dim=2, conditional=False)
    assert found.dataset.num_classes == 2
    asked = {decision.name for decision in found.decisions if decision.source == "user"}
    assert asked == {"likelihood", "latent", "classes"}
    run = sfumato.train(frame, label="kind", out=tmp_path / "run", steps=3, latent_dim=2)
    assert run.model.encode(frame[list(COLUMNS)]).mean.shape == (60, 2)
    found, _ = sfumato.encode(tmp_path / "run", frame[list(COLUMNS)], out=tmp_path / "z.npz")
    np.testing.assert_allclose(found["mean"], run.model.encode(frame[list(COLUMNS)]).mean, atol=1e-6)


def test_other_libraries_are_not_imported() -> None:
    program = (
        "import sys, numpy, sfumato; sfumato.load_dataset(numpy.zeros((9, 3)) + numpy.arange(9)[:, None]);"
        "print([name for name in ('pandas', 'polars', 'pyarrow', 'anndata', 'datasets', 'sklearn') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
