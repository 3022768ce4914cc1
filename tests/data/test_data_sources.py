"""What was typed: paths that do not exist, folders without data, pickles, arrays, archives, tables, built-in names."""

import contextlib
import gzip
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import image_folder, noise, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.core.errors import SfumatoError, UserError
from sfumato.data import arrays, builtin, load_dataset

# Paths


def test_a_path_that_does_not_exist_says_what_is_there(tmp_path, monkeypatch):
    image_folder(tmp_path / "photos", {"": 1})
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    text = refused("fotos", "'fotos' does not exist")
    assert "Did you mean 'photos'? In this folder: photos/, runs/." in text
    assert "Did you mean 'fashion-mnist'?" in refused("fashon-mnist", "does not exist")
    assert "In nowhere/: nothing" in refused("nowhere/x", "does not exist")
    refused("a\0b", "cannot be read")
    refused("x" * 5000, "cannot be read")


def test_an_empty_folder_and_a_folder_without_data(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty/ is empty; expected images")
    (tmp_path / "notes").mkdir()
    for number in range(12):
        (tmp_path / "notes" / f"{number}.txt").write_text("x")
    text = refused(tmp_path / "notes", r"no images, arrays or tables in notes/ \(looked for \.png")
    assert "found 12 .txt" in text
    assert ".parquet" in text
    np.save(tmp_path / "notes" / "x.npy", np.zeros(3))
    refused(tmp_path / "notes", r"holds no images but x.npy")


def test_a_text_file_a_single_image_and_pickles_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", r"notes.txt is not data.*\.npy \.npz \.csv \.parquet")
    (tmp_path / "notes.npy").write_text("hello")
    refused(tmp_path / "notes.npy", "should be an array written by numpy.save")
    (tmp_path / "notes.npz").write_text("hello")
    refused(tmp_path / "notes.npz", "whole .npz archive")
    (tmp_path / "one.png").write_bytes(b"")
    refused(tmp_path / "one.png", "a single image")
    for ending in ("pt", "pkl", "joblib"):
        (tmp_path / f"x.{ending}").write_bytes(b"\x80\x04.")
        refused(tmp_path / f"x.{ending}", r"is a pickle, which can run code.*numpy\.save\('x\.npy', array\)")


def test_options_that_would_do_nothing_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", noise(9, 4))
    refused(tmp_path / "x.npy", "--size is for folders", size=8)
    refused(tmp_path / "x.npy", "--label is for tables", label="y")
    refused("fashion-mnist-mini", "--size is for folders", size=8)
    refused(image_folder(tmp_path / "d", {"": 3}), "--label is for tables", label="y")


# Arrays


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 12, 10), (1, 12, 10)),
        ((9, 12, 10, 3), (3, 12, 10)),
        ((9, 12, 10, 1), (1, 12, 10)),
        ((9, 3, 12, 10), (3, 12, 10)),
        ((9, 3, 12, 3), (3, 12, 3)),
        ((9, 5, 12, 10), (5, 12, 10)),
        ((9, 4), (4,)),
        ((9, 100, 2), (100, 2)),
        ((9, 2, 2, 2, 2), (2, 2, 2, 2)),
    ],
)
def test_layouts_of_arrays(tmp_path, shape, expected):
    x = noise(*shape)
    np.save(tmp_path / "x.npy", x)
    data = load_dataset(tmp_path / "x.npy")
    assert data.shape == expected
    assert data.x.dtype == np.uint8
    assert np.array_equal(np.sort(data.x.ravel()), np.sort(x.ravel()))
    if shape == (9, 12, 10, 3):
        assert np.array_equal(data.x[:, 1], x[..., 1])
    assert load_dataset(x).fingerprint == data.fingerprint == load_dataset(torch.from_numpy(x)).fingerprint
    assert load_dataset(**data.origin).fingerprint == data.fingerprint


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "u4", "i8", "f2", "f4", "f8", ">f4", ">i2"])
def test_types_of_arrays_that_torch_has(dtype):
    values = np.arange(36).reshape(9, 4) % 2
    data = load_dataset(values.astype(dtype))
    x, _ = data.split("train").batch(torch.arange(2))
    assert np.array_equal(x.numpy(), values[data.splits["train"][:2]])


def test_fortran_order_is_read_right(tmp_path):
    x = np.asfortranarray(noise(9, 5, 7).astype(np.int32))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(load_dataset(tmp_path / "x.npy").x, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_counted_and_placed(tmp_path, bad):
    x = np.zeros((9, 2, 3))
    x[4, 1, 2] = x[7, 0, 0] = bad
    np.save(tmp_path / "x.npy", x)
    what = "NaN" if np.isnan(bad) else "infinity"
    refused(
        tmp_path / "x.npy", rf"x.npy .*2 of 54 values are not, the first \({what}\) in example 4, position \(1, 2\)"
    )
    data = load_dataset((x, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])), skip_bad=True)
    assert len(data) == 7
    assert data.y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.left_out == (("row 4", "missing or infinite values"), ("row 7", "missing or infinite values"))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros(5), "at least 2 dimensions"),
        (np.zeros((0, 4)), "it has none"),
        (np.zeros((5, 0)), "at least 2 dimensions"),
        (np.zeros((5, 2), dtype=complex), "numbers of at most 64 bits; got complex128"),
        (np.array([["a", "b"]] * 5), "numbers of at most 64 bits"),
        (np.full((5, 2), 2**63, dtype=np.uint64), "below 2"),
        ([[1.0]], "got list"),
        (None, "cannot be found again"),
        (7, "got int"),
    ],
)
def test_arrays_that_are_no_data(x, says):
    refused(x, says)


def test_labels(tmp_path):
    x = noise(6, 4)
    assert load_dataset((x, np.array([3, 3, 8, 8, -1, 8]))).y.tolist() == [0, 0, 1, 1, -1, 1]
    texts = load_dataset((x, np.array(["b", "a", "a", "", "b", "b"])))
    assert texts.class_names == ("a", "b")
    assert texts.y.tolist() == [1, 0, 0, -1, 1, 1]
    assert load_dataset((torch.from_numpy(x), torch.tensor([0.0, 0, 1, 1, 1, 0]))).y.dtype == np.int64
    refused((x, np.arange(5)), "one label for each of its 6 examples; got 5")
    refused((x, np.arange(5)), "one label for each of its 6 examples; got 5", skip_bad=True)
    refused((x, np.zeros((6, 2))), r"got an array of shape \(6, 2\)")
    refused((x, np.array([0.5] * 6)), "whole numbers or texts; got 0.5")
    refused((x, np.array([0, 0, 0, 0, 0, np.nan])), "got nan")
    refused((x, np.full(6, -2)), "or -1 for unknown; got -2")


def test_npz_keys(tmp_path):
    path, x, y = tmp_path / "d.npz", noise(8, 9, 9), np.arange(8) % 2
    np.savez(path, x=x, y=y, categories=np.array(["cat", "dog"]), names=np.array(["n"] * 8))
    data = load_dataset(path)
    assert data.class_names == ("cat", "dog")
    assert data.y.tolist() == y.tolist()
    np.savez_compressed(path, anything=x)
    assert load_dataset(path).y is None
    np.savez(path, x=x, kind=y)
    assert load_dataset(path).y is None
    assert load_dataset(path, label="kind").y.tolist() == y.tolist()
    refused(path, "no array 'kinds'. Did you mean 'kind'", label="kinds")
    np.savez(path, a=x, b=x)
    refused(path, "an array named x, or x_train and x_test; got a, b")
    np.savez(path, x=x, y=y[:5])
    refused(path, "one label for each of its 8 examples; got 5")
    np.savez(path, x=x, y=y, class_names=np.array(["only"]))
    refused(path, "names 1 classes but holds the label 1")


def test_an_archive_of_very_many_arrays_is_named_by_some(tmp_path):
    np.savez(tmp_path / "many.npz", **{f"a{number:03}": np.zeros(3) for number in range(300)})
    refused(tmp_path / "many.npz", r"got a000, a001, .*, a039 and 260 more\. Rename one\.$")


def test_npz_with_given_splits(tmp_path):
    path, x, y = tmp_path / "d.npz", noise(30, 4), np.arange(30) % 2
    np.savez(path, x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    data = load_dataset(path)
    assert data.splits["test"].tolist() == list(range(20, 30))
    assert (len(data.splits["train"]), len(data.splits["validation"])) == (18, 2)
    np.savez(path, x_train=x[:20], x_val=x[20:25], x_test=x[25:])
    assert [len(load_dataset(path).splits[name]) for name in ("train", "validation", "test")] == [20, 5, 5]
    np.savez(path, x_train=x[:20], x_test=x[20:, :2])
    refused(path, "x_test should be like x_train")
    np.savez(path, x_train=x[:20], y_train=y[:19], x_test=x[20:], y_test=y[20:])
    refused(path, "for each of the 20 examples of x_train; got 19")
    np.savez(path, x_train=x[:20], y_train=y[:20], x_test=x[20:])
    refused(path, "labels for each of its splits, or for none")


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little") + text + body


def test_an_array_that_ends_while_it_is_read_is_refused():
    """Its size was looked at before: the file was cut in between."""
    whole = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4), }", bytes(144))
    with pytest.raises(UserError, match="ends after 141 of 144 bytes"):
        arrays._read_array(io.BytesIO(whole[:-3]), len(whole), "x.npy")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", b"\x80\x04."), "plain numbers; got object"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", bytes(8)), "plain numbers"),
        (npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (2,), }", bytes(16)), "plain numbers"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4), }", bytes(143)), "144 bytes|cut or damaged"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4), }", bytes(145)), "cut or damaged"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**12, 10**6), }"), "header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000), }"), "cut or damaged"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-9, -4), }", bytes(144)), "cut or damaged"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 4), 'x': 1}"), "header"),
        (npy("__import__('os').system('true')"), "header"),
        (npy("(" * 5000), "header"),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 4), }" + " " * 20_000, bytes(36)), "header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "a header of 4,294,967,295 bytes"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }", bytes(16)), "header"),
        (b"\x93NUMPY\x09\x00\x00", "header"),
        (b"", "header"),
    ],
)
def test_headers_are_read_with_suspicion(tmp_path, content, says):
    (tmp_path / "x.npy").write_bytes(content)
    refused(tmp_path / "x.npy", says)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
    refused(tmp_path / "x.npz", says)


def test_arrays_larger_than_memory_are_refused_before_anything_is_allocated(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((9, 4)))
    monkeypatch.setattr("sfumato.data.files.os.sysconf", lambda name: 16)
    says = r"x.npy would take 0.0 GiB; expected to fit into this machine's 0.0"
    refused(tmp_path / "x.npy", says, stream=False)  # what is left to choose is streamed
    monkeypatch.setattr("sfumato.data.files.os.sysconf", lambda name: 17)
    assert len(load_dataset(tmp_path / "x.npy")) == 9


def test_damaged_archives_are_named(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=noise(50, 40))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "d.npz should be a whole .npz archive")
    np.savez(path, x=noise(50, 40))
    flipped = bytearray(path.read_bytes())
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    refused(path, "d.npz should be a whole .npz archive.*CRC")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_gives_anything_but_a_user_error_or_data(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=noise(9, 8, 8), y=np.arange(9) % 3)
    table = b"a,b,c\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n"
    ending, content = data.draw(st.sampled_from([("npz", buffer.getvalue()), ("csv", table), ("npy", npy("{}"))]))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    path = folder / f"d.{ending}"
    path.write_bytes(damaged)
    with contextlib.suppress(UserError):
        load_dataset(path, label="c" if ending == "csv" else None)


# Built-in sets


def test_fashion_mnist_mini_is_real_balanced_and_ships_with_its_licence():
    data = load_dataset("fashion-mnist-mini")
    assert data.x.shape == (12_000, 1, 28, 28)
    assert data.x.dtype == np.uint8
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 9000, "validation": 1000, "test": 2000}
    for name, each in (("train", 900), ("validation", 100), ("test", 200)):
        assert np.bincount(data.y[data.splits[name]]).tolist() == [each] * 10
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert builtin.MINI.stat().st_size < 6_000_000
    assert "Copyright (c) 2017 Zalando SE" in builtin.MINI.with_suffix(".LICENSE.txt").read_text()
    assert load_dataset(**data.origin).fingerprint == data.fingerprint


def system_folder() -> Path:
    folder = next((place for place in builtin._places() if builtin.holds_fashion_mnist(place)), None)
    return folder or pytest.skip("Fashion-MNIST is not installed here")


def test_fashion_mnist_from_the_system_and_the_subset_is_part_of_it():
    system_folder()
    data, mini = load_dataset("fashion-mnist"), load_dataset("fashion-mnist-mini")
    assert data.x.shape == (70_000, 1, 28, 28)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [54_000, 6_000, 10_000]
    assert data.splits["test"].tolist() == list(range(60_000, 70_000))
    assert np.bincount(data.y).tolist() == [7000] * 10
    for start, offset, count in ((0, 0, 1000), (60_000, 10_000, 200)):
        for number in range(10):
            rows = np.flatnonzero(data.y[start:] == number)[:count] + start
            mine = np.flatnonzero(mini.y[offset:] == number)[:count] + offset
            assert np.array_equal(data.x[rows], mini.x[mine])


def test_fashion_mnist_from_a_given_folder_checks_the_payload(tmp_path):
    source = system_folder()
    for name in builtin.FILES:
        (tmp_path / name).symlink_to(source / name)
    data = load_dataset(tmp_path)
    assert data.class_names == builtin.CLASS_NAMES
    assert data.origin["source"] == str(tmp_path.resolve())
    images = tmp_path / next(iter(builtin.FILES))
    images.unlink()
    images.write_bytes(gzip.compress(b"0" * 100))
    refused(tmp_path, "train-images-idx3-ubyte.gz should be Fashion-MNIST's; its content has another checksum")
    images.write_bytes(images.read_bytes()[:20])
    refused(tmp_path, "train-images-idx3-ubyte.gz should be a whole .gz file")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without the data, with an empty cache."""
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path


def test_without_data_and_network_one_sentence_says_what_to_do(nowhere, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(builtin.urllib.request, "urlopen", offline)
    with pytest.raises(
        SfumatoError, match=r"could not be downloaded \(no route to host\).*use fashion-mnist-mini"
    ) as error:
        load_dataset("fashion-mnist")
    assert error.value.exit_code == 1


def test_a_download_is_checked_before_it_is_kept(nowhere, monkeypatch):
    payload = {"one.gz": b"first" * 100, "two.gz": b"second" * 100}
    files = {name: (len(body), hashlib.md5(body).hexdigest()) for name, body in payload.items()}
    monkeypatch.setattr(builtin, "FILES", files)
    served = dict(payload, **{"two.gz": b"sec0nd" * 100})
    asked: list[str] = []

    def fetch(url, timeout):
        asked.append(url)
        return io.BytesIO(gzip.compress(served[url.rsplit("/", 1)[1]]))

    monkeypatch.setattr(builtin.urllib.request, "urlopen", fetch)
    folder = builtin._places()[-1]
    assert folder == nowhere / "cache" / "fashion-mnist"
    with pytest.raises(SfumatoError, match=r"two.gz.part should be Fashion-MNIST's; its content has another checksum"):
        builtin.fashion_mnist()
    assert (folder / "one.gz").exists()
    assert not (folder / "two.gz").exists()
    served = payload
    assert builtin._download(folder) == folder
    assert builtin.holds_fashion_mnist(folder)
    assert gzip.decompress((folder / "two.gz").read_bytes()) == b"second" * 100
    assert asked[0] == builtin.URL + "one.gz"


# The package


def test_importing_prints_nothing_seeds_nothing_and_does_not_need_pyarrow():
    code = (
        "import sys, random, numpy, torch; a = torch.get_rng_state(), random.getstate(), torch.get_num_threads();"
        "b = numpy.random.get_state()[1].tolist(); import sfumato.data;"
        "assert torch.equal(a[0], torch.get_rng_state()) and a[1:] == (random.getstate(), torch.get_num_threads());"
        "assert b == numpy.random.get_state()[1].tolist() and 'pyarrow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
