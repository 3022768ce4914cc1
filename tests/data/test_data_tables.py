"""Tables: csv and parquet, and the columns of mixed ones: numbers, texts, gaps, and what is neither."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import refused
from pyarrow import parquet

from sfumato.core.errors import UserError
from sfumato.data import load_dataset
from sfumato.data.tables import MOST_TEXTS, read_arrow_column, read_column


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "people.csv"
    path.write_bytes(text.encode())
    return path


ROWS = "age,income,bought\n1,2.5,yes\n3,4,no\n5,6e3,yes\n7,8,no\n9,10,yes\n"


@pytest.mark.parametrize(
    "text", [ROWS, "\ufeff" + ROWS, ROWS.replace(",", ";"), ROWS.replace("\n", "\r\n"), ROWS + "\n"]
)
def test_csv(tmp_path, text):
    data = load_dataset(csv(tmp_path, text), label="bought")
    assert data.columns == ("age", "income")
    assert data.class_names == ("no", "yes")
    assert data.y.tolist() == [1, 0, 1, 0, 1]
    assert data.x.dtype == np.float32
    assert data.x.tolist() == [[1, 2.5], [3, 4], [5, 6000], [7, 8], [9, 10]]
    assert load_dataset(**data.origin).fingerprint == data.fingerprint


def test_csv_without_a_header_and_with_quotes(tmp_path):
    data = load_dataset(csv(tmp_path, "1,2\n3,4\n5,6\n"))
    assert data.columns == ("c0", "c1")
    assert len(data) == 3
    quoted = load_dataset(csv(tmp_path, '"a, b",c\n"1",2\n3,4\n5,6\n'))
    assert quoted.columns == ("a, b", "c")
    numbers = load_dataset(csv(tmp_path, "a,k\n1,2\n3,2\n5,7\n6,7\n6,\n"), label="k")
    assert numbers.class_names == ("2", "7")
    assert numbers.y.tolist() == [0, 0, 1, 1, -1]


@pytest.mark.parametrize(
    ("text", "label", "says"),
    [
        (ROWS, "bougt", r"no column 'bougt'. Did you mean 'bought'\? Columns: age, income, bought"),
        (ROWS, None, "line 2, column 'bought': expected a number; got 'yes'.*--label"),
        ("a,b\n1,2\n3\n", None, "line 3: expected 2 cells as in the first line; got 1"),
        ("a,b\n1,2\n3,4,5\n", None, "line 3: expected 2 cells.*got 3"),
        ('a,b\n1,"2\n3,4\n', None, "line 2: expected csv with closed quotes"),
        ('a,b\n1,"2"x\n', None, "line 2: expected csv with closed quotes"),
        ("a,b\n1,2\n,4\n5,\n", None, "2 are empty, the first in line 3, column 'a'.*--skip-bad"),
        ("a,b\n1,2\nnan,4\n5,6\n", None, r"1 of 6 values are not, the first \(NaN\) in example 1, column 'a'"),
        ("a,b\n1,1e39\n3,4\n5,6\n", None, "below 3.4e38; got 1e[+]39"),
        ("a,b\n1,1_000\n", None, "expected a number; got '1_000'"),
        ("a,a\n1,2\n", None, "'a' is there twice"),
        ("a\n1\n2\n", "a", "columns of numbers beside the label"),
        ("a,b\n", None, "it has none"),
        ("", None, "it has none"),
        ("a,k\n1,0.5\n2,0.5\n3,1\n", "k", "whole numbers or texts; got 0.5"),
        ("a,k\n1,x\n2,x\n3,z\n", "k", "'z' has one"),
    ],
)
def test_bad_csv_is_named_with_line_and_column(tmp_path, text, label, says):
    refused(csv(tmp_path, text), says, label=label)


def test_csv_in_another_encoding_is_refused_and_rows_can_be_skipped(tmp_path):
    path = tmp_path / "people.csv"
    path.write_bytes("größe\n1\n".encode("latin-1"))
    refused(path, "should be utf-8 text; byte 2 is not")
    data = load_dataset(csv(tmp_path, "a,b\n1,2\n,4\n5,6\n7,8\n"), skip_bad=True)
    assert data.x.tolist() == [[1, 2], [5, 6], [7, 8]]
    assert data.left_out == (("row 1", "missing or infinite values"),)


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {
        "a": [1, 2, 3, 4],
        "b": [0.5, 1.5, 2.5, 3.5],
        "flag": [True, False, True, True],
        "k": ["x", "y", "x", "y"],
    }
    parquet.write_table(pa.table(columns), path)
    data = load_dataset(path, label="k")
    assert data.columns == ("a", "b", "flag")
    assert data.class_names == ("x", "y")
    assert data.x.dtype == np.float32
    assert data.x.tolist() == [[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1], [4, 3.5, 1]]
    refused(path, "column 'k': expected numbers; got string.*--label")
    refused(path, "no column 'kk'. Did you mean 'k'", label="kk")
    parquet.write_table(pa.table({"a": [1, None, 3, 4, 5, 6], "k": [7, 8, None, 7, 8, 8]}), path)
    refused(path, "1 are empty, the first in row 1, column 'a'", label="k")
    skipped = load_dataset(path, label="k", skip_bad=True)
    assert skipped.y.tolist() == [0, -1, 0, 1, 1]
    parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    refused(path, "it has none")
    path.write_bytes(b"PAR1 nonsense PAR1")
    refused(path, "should be a parquet file")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path / "t.parquet", r"pip install 'sfumato\[parquet\]'")


NAN = float("nan")


@pytest.mark.parametrize(("cells", "values", "texts"), [
    (["1", "2.5", None], [1, 2.5, NAN], ()),
    (["1", "NA", "nan", "-3"], [1, NAN, NAN, -3], ()),
    (["b", "a", None, "", "b"], [1, 0, NAN, NAN, 1], ("a", "b")),
    (["x", "y", "1", None], [1, 2, 0, NAN], ("1", "x", "y")),
    ([None, None], [NAN, NAN], ()),
])  # fmt: skip
def test_a_column_holds_numbers_or_places_in_the_alphabet(cells, values, texts):
    found, named = read_column(cells, "a", "t.csv")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float64
    assert named == texts


def test_a_text_among_numbers_is_named():
    with pytest.raises(UserError, match=r"^t.csv, column 'a': expected numbers, as in most of its cells; got 'oops'"):
        read_column(["1", "2", "oops", "3"], "a", "t.csv")
    with pytest.raises(UserError, match="got 'oops'"):
        read_column(["1", "oops"], "a", "t.csv")  # as many numbers as texts


def test_so_many_texts_and_no_more():
    texts = [f"t{number:05}" for number in range(MOST_TEXTS + 1)]
    assert len(read_column(texts[:-1], "a", "t.csv")[1]) == MOST_TEXTS
    with pytest.raises(UserError, match=f"expected at most {MOST_TEXTS} different texts; got {MOST_TEXTS + 1:,}"):
        read_column(texts, "a", "t.csv")


@pytest.mark.parametrize(("column", "values", "texts"), [
    (pa.array([1, None, 3]), [1, NAN, 3], ()),
    (pa.array([0.5, None], pa.float32()), [0.5, NAN], ()),
    (pa.array([True, False, None]), [1, 0, NAN], ()),
    (pa.array(["2", "10", None]), [1, 0, NAN], ("10", "2")),
    (pa.array(["a", "NA"], pa.large_string()), [1, 0], ("NA", "a")),
    (pa.array(["b", "a"], pa.string_view()), [1, 0], ("a", "b")),
    (pa.array([7, 5, None, 7]).dictionary_encode(), [1, 0, NAN, 1], ("5", "7")),
    (pa.array(["x", None, "x"]).dictionary_encode(), [0, NAN, 0], ("x",)),
])  # fmt: skip
def test_the_type_of_an_arrow_column_says_whether_it_holds_texts(column, values, texts):
    found, named = read_arrow_column(pa.chunked_array([column]), "a", "t.parquet")
    np.testing.assert_array_equal(found, values)
    assert named == texts


@pytest.mark.parametrize("column", [pa.array([b"1"]), pa.array([[1]]), pa.array([None])])
def test_other_columns_are_taken_out_by_the_user(column):
    with pytest.raises(
        UserError, match=r"^t.parquet, column 'a': expected numbers or texts; got .*Take the column out"
    ):
        read_arrow_column(pa.chunked_array([column]), "a", "t.parquet")
