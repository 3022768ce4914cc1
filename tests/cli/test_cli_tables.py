"""Tables of different columns and counts, from the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import STEPS, Command, rare_evaluations, short_reports

from sfumato.cli.main import run
from sfumato.core.errors import UserError


def rows(n: int = 80) -> list[list[str]]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(n):
        z = generator.normal()
        city = "rome" if z > 0.3 else "oslo" if z < -0.6 else "paris"
        cells = [f"{20 + 3 * z:.4f}", city, str(generator.poisson(np.exp(2 + z))), str(1 + number % 4), f"p{number}"]
        found.append(cells)
    for number in range(0, n, 7):
        found[number][number % 4] = ""
    return found


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``people.csv`` and a run on it."""
    folder = tmp_path_factory.mktemp("people")
    with (folder / "people.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["age", "city", "visits", "rating"])
        writer.writerows(row[:4] for row in rows())
    with (folder / "named.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n", delimiter=";")
        writer.writerow(["name", "rating", "visits", "city", "age"])
        writer.writerows([row[4], row[3], row[2], row[1], row[0]] for row in rows())
    with chdir(folder), rare_evaluations(), short_reports():
        assert run(["train", "people.csv", "--likelihood", "mixed", *STEPS, "--quiet"]) == 0
    return folder


@pytest.fixture
def place(people: Path, tmp_path: Path) -> Iterator[Path]:
    with chdir(tmp_path):
        yield people


def test_the_guesses_are_decisions(place: Path, command: Command) -> None:
    result = command("inspect", str(place / "people.csv"), "--likelihood", "mixed")
    assert result.code == 0
    for words in ("mixed", "column city", "category", "3 texts", "column visits", "count", "column rating", "ordinal"):
        assert words in result.out
    decided = json.loads((place / "runs/people/run.json").read_text())
    assert decided["inspection"]["columns"] == {
        "age": "real",
        "city": "category",
        "visits": "count",
        "rating": "ordinal",
    }
    assert decided["inspection"]["empty"] == 12


def test_a_run_on_a_table_is_evaluated(place: Path) -> None:
    found = json.loads((place / "runs/people/evaluation.json").read_text())
    assert np.isfinite(found["values"]["evidence_bound_raw"]["value"])
    assert np.isfinite(found["baselines"]["independent"]["value"])
    assert found["absent"]["reconstruction_rmse"]


def test_impute_fills_what_is_missing_and_changes_nothing_else(place: Path, command: Command) -> None:
    given = ("impute", str(place / "runs/people"), str(place / "named.csv"), "-o", "whole.csv")
    result = command(*given, "--samples", "50")
    assert result.code == 0, result.err
    assert "12 cells in 4 columns filled, 50 draws a row" in result.out + result.err
    before, after = (
        list(csv.reader(path.read_text().splitlines(), delimiter=";"))
        for path in (place / "named.csv", Path("whole.csv"))
    )
    assert before[0] == after[0]
    assert len(before) == len(after)
    for old, new in zip(before[1:], after[1:], strict=True):
        for name, was, now in zip(before[0], old, new, strict=True):
            if was:
                assert was == now
            elif name == "city":
                assert now in ("rome", "oslo", "paris")
            elif name == "rating":
                assert now in ("1", "2", "3", "4")
            elif name == "visits":
                assert now.isdigit()
            else:
                assert 5 < float(now) < 35
    assert command(*given).code == 2
    again = Path("whole.csv").read_bytes()
    assert command(*given, "--samples", "50", "--force").code == 0
    assert Path("whole.csv").read_bytes() == again


def test_impute_keeps_the_types_of_a_parquet(place: Path, command: Command) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = list(zip(*rows(), strict=True))
    table = pa.table({
        "visits": pa.array([int(cell) if cell else None for cell in columns[2]], pa.int16()),
        "city": pa.array([cell or None for cell in columns[1]]).dictionary_encode(),
        "age": pa.array([float(cell) if cell else None for cell in columns[0]], pa.float32()),
        "rating": pa.array([int(cell) if cell else None for cell in columns[3]], pa.int64()),
    })  # fmt: skip
    parquet.write_table(table, "t.parquet")
    result = command("impute", str(place / "runs/people"), "t.parquet", "-o", "whole.parquet", "--samples", "20")
    assert result.code == 0, result.err
    whole = parquet.read_table("whole.parquet")
    assert whole.schema.types == table.schema.types
    assert whole.column_names == table.column_names
    assert not any(column.null_count for column in whole.columns)
    for old, new in zip(table.columns, whole.columns, strict=True):
        assert all(was in (None, now) for was, now in zip(old.to_pylist(), new.to_pylist(), strict=True))


def test_a_frame_with_texts_is_encoded_as_its_file_is(place: Path, command: Command) -> None:
    pd = pytest.importorskip("pandas")
    import sfumato

    frame = pd.read_csv(place / "named.csv", sep=";")
    mean = sfumato.load(place / "runs/people").encode(frame).mean
    assert command("encode", str(place / "runs/people"), str(place / "named.csv"), "-o", "z.npz").code == 0
    np.testing.assert_allclose(np.load("z.npz")["mean"], mean.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("age,city,visits\n1,rome,2\n", "no column 'rating', which the model was trained on"),
        ("age,city,visits,rating\n1,rom,2,1\n", "line 2, column 'city': expected one of oslo, paris, rome; got 'rom'"),
        ("age,city,visits,rating\nx,rome,2,1\n", "line 2, column 'age': expected numbers; got 'x'"),
        ("age,city,visits,rating\n,rome,2,9\n", "column 'rating': expected one of 1, 2, 3, 4; got 9"),
    ],
)
def test_a_table_that_the_model_does_not_know(place: Path, command: Command, text: str, says: str) -> None:
    Path("new.csv").write_text(text)
    result = command("impute", str(place / "runs/people"), "new.csv", "-o", "whole.csv")
    assert result.code == 2
    assert says in result.err
    assert not Path("whole.csv").exists()


def test_counts_are_trained_as_counts(tmp_path: Path, command: Command) -> None:
    counts = np.random.default_rng(0).negative_binomial(2, 0.02, (60, 5))
    with chdir(tmp_path):
        np.save("counts.npy", counts)
        result = command("train", "counts.npy", *STEPS)
        assert result.code == 0
        assert "negative-binomial" in result.err + result.out
        found = json.loads(Path("runs/counts/evaluation.json").read_text())
        assert np.isfinite(found["values"]["bits_per_dim"]["value"])
        assert np.isfinite(found["baselines"]["independent"]["value"])
        assert command("sample", "runs/counts", "-n", "5", "-o", "new.csv").code == 0
        assert all(cell.isdigit() for line in Path("new.csv").read_text().splitlines()[1:] for cell in line.split(","))


def test_an_anndata_layer_of_counts_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anndata = pytest.importorskip("anndata")
    import sfumato

    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(3.0, (40, 4)).astype(np.float32)
    adata = anndata.AnnData(np.log1p(counts), layers={"counts": counts})
    trained = sfumato.train(adata, layer="counts", likelihood="negative-binomial", steps=5)
    assert type(trained.model.model.likelihood).__name__ == "NegativeBinomial"
    assert trained.model.encode(adata).mean.shape == (40, trained.model.model.latent_dim)
    assert (trained.model.encode(adata).mean == trained.model.encode(counts).mean).all()
    with pytest.raises(UserError, match=r"should hold counts, whole numbers.*raw counts"):
        trained.model.encode(np.log1p(counts))
