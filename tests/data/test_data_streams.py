"""Streamed data are the data in memory, read later: the same batches, the same order, the same refusals."""

import io
import os
import tarfile

import numpy as np
import pytest
import torch
from data_helpers import image_folder, noise, save_image
from streams_helpers import KINDS, both, make, png, shards, table, write_shard

from sfumato.core.errors import UserError
from sfumato.data import (
    Binarise,
    Examples,
    Levels,
    Order,
    build_preprocessing,
    decide,
    decided,
    inspect_dataset,
    load_dataset,
)
from sfumato.data.streams import ArrayRows, Names, Prefetched, Streamed


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_examples_are_those_in_memory(kind, tmp_path):
    path, reading = make(kind, tmp_path)
    memory, streamed = both(path, **reading)
    assert streamed.streamed
    assert not memory.streamed
    assert (streamed.x.shape, streamed.x.dtype) == (memory.x.shape, memory.x.dtype)
    assert np.array_equal(streamed.x[:], memory.x)
    assert (streamed.class_names, streamed.columns) == (memory.class_names, memory.columns)
    assert list(streamed.items or []) == list(memory.items or [])
    assert (streamed.y is None) == (memory.y is None)
    assert memory.y is None or np.array_equal(streamed.y, memory.y)
    for name in ("train", "validation", "test"):  # no duplicates here, so nothing tells their splits apart
        assert np.array_equal(streamed.rows(name), memory.rows(name))
        assert np.array_equal(streamed.array(name), memory.array(name))
        one, other = memory.split(name), streamed.split(name)
        assert isinstance(other, Examples)
        assert (len(one), one.shape) == (len(other), other.shape)
        indices = torch.randperm(len(one))[:5]
        for mine, theirs in zip(one.batch(indices), other.batch(indices), strict=True):
            assert (mine is None and theirs is None) or torch.equal(mine, theirs)
        other.close()


@pytest.mark.parametrize("colour", [False, True])
def test_shards_hold_the_images_that_were_packed(colour, tmp_path):
    images = shards(tmp_path / "set", colour=colour)
    data = load_dataset(tmp_path / "set")
    assert np.array_equal(data.x[:], images)
    assert data.class_names == ("0", "1", "2")
    assert data.y.tolist() == [place % 3 for count in (7, 12) for place in range(count)]
    assert data.items[0] == "part/000000"
    assert ("19 members .json", "not an image") in data.left_out
    one = load_dataset(tmp_path / "set/shard-001.tar")
    assert np.array_equal(one.x[:], images[7:])
    assert data.x.name(7) == "shard-001.tar: part/010000"


def test_every_example_comes_once_an_epoch_and_ranks_share_one(tmp_path):
    shards(tmp_path / "set", (30, 23))
    data = load_dataset(tmp_path / "set", split=(1, 0, 0))
    train, order = data.split("train"), Order(len(data), 8, seed=4)
    whole = {row.tobytes(): number for number, row in enumerate(data.x[:])}
    for epoch in range(2):
        seen = []
        for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
            indices = order(step)
            x, y = train.batch(indices)
            parts = [train.batch(indices[rank::3]) for rank in range(3)]  # three processes: other indices, no more
            assert torch.equal(torch.cat([part[0] for part in parts]), torch.cat([x[rank::3] for rank in range(3)]))
            assert torch.equal(torch.cat([part[1] for part in parts]), torch.cat([y[rank::3] for rank in range(3)]))
            seen += [whole[row.numpy().tobytes()] for row in x]
        assert sorted(seen) == list(range(53))
        assert seen != sorted(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_have_one_fingerprint_and_others_another(kind, tmp_path):
    path, reading = make(kind, tmp_path / "one")
    data = load_dataset(path, stream=True, **reading)
    again = load_dataset(**data.origin)
    assert again.streamed
    assert again.fingerprint == data.fingerprint
    if path.is_dir():
        victim = sorted(item for item in path.rglob("*") if item.is_file())[0]
        os.rename(victim, victim.with_name("renamed.png"))
    elif path.suffix == ".npy":
        raw = bytearray(path.read_bytes())
        raw[-3] ^= 1  # 64 of the examples are read for it: here all of them
        path.write_bytes(raw)
    else:
        table(path, labels=True, rows=41)
    assert load_dataset(**data.origin).fingerprint != data.fingerprint


def test_streaming_is_chosen_by_size_and_said(tmp_path, monkeypatch):
    path, _ = make("npy", tmp_path)
    assert not load_dataset(path).streamed
    monkeypatch.setattr("sfumato.data.streams.opening.machine_memory", lambda: 8 * path.stat().st_size - 8)
    data = load_dataset(path)
    assert data.streamed
    decisions = decide(inspect_dataset(data))
    reading = next(decision for decision in decisions if decision.name == "reading")
    assert (reading.value, reading.change_with, reading.source) == ("streamed", "--no-stream", "auto")
    assert "more than an eighth of this machine's" in reading.because
    split = next(decision for decision in decisions if decision.name == "split")
    assert split.because == "duplicates not looked for"
    assert not load_dataset(path, stream=False).streamed
    asked = decide(inspect_dataset(load_dataset(path, stream=True)))[-1]
    assert (asked.because, asked.source) == ("asked for", "user")
    folder, _ = make("folder", tmp_path)
    monkeypatch.setattr("sfumato.data.streams.opening.machine_memory", lambda: 8 * 3 * 19 * 64 - 8)
    assert not load_dataset(folder).streamed  # the first image is grey
    monkeypatch.setattr("sfumato.data.streams.opening.machine_memory", lambda: 8 * 19 * 64 - 8)
    assert load_dataset(folder).streamed
    monkeypatch.setattr("sfumato.data.streams.opening.machine_memory", lambda: None)
    assert not load_dataset(folder).streamed


@pytest.mark.parametrize("kind", KINDS)
def test_facts_and_preprocessing_of_a_small_stream_are_those_in_memory(kind, tmp_path):
    path, reading = make(kind, tmp_path)
    memory, streamed = map(inspect_dataset, both(path, **reading))
    different = {key for key, value in memory.to_dict().items() if value != streamed.to_dict()[key]}
    assert different == {"streamed"}
    trees = []
    for data, facts in zip(both(path, **reading), (memory, streamed), strict=True):
        found = build_preprocessing(facts, decide(facts), data)
        trees.append((type(found), {name: value.tolist() for name, value in found.state_dict().items()}))
    assert trees[0] == trees[1]


def test_a_value_that_the_sample_did_not_show_is_refused_when_it_is_read(tmp_path, monkeypatch):
    x = np.zeros((50, 4), dtype=np.int32)
    x[:, 0] = np.arange(50) % 5
    x[33, 2] = 900
    np.save(tmp_path / "counts.npy", x)
    monkeypatch.setattr("sfumato.data.streams.rows.SAMPLE_ROWS", 5)
    monkeypatch.setattr("sfumato.data.streams.rows._FINGERPRINT_ROWS", 1)
    data = load_dataset(tmp_path / "counts.npy", stream=True, split=(1, 0, 0))
    facts = inspect_dataset(data)
    assert facts.top < 5
    made = build_preprocessing(facts, decide(facts), data)
    assert decided(decide(facts), "likelihood") == "categorical"
    train = made.prepare(data).split("train")
    with pytest.raises(UserError, match=r"counts.npy should hold .* levels from 0 .* got 900"):
        train.batch(torch.tensor([1, 33]))
    with pytest.raises(UserError, match="--binarise fixed draws all examples"):
        Binarise((4,), "fixed").prepare(data)


def test_the_quick_check_of_8_bit_levels_refuses_nothing_else_than_before():
    levels = Levels((2,))
    levels.check(noise(100, 2), "x")
    with pytest.raises(UserError, match="should hold 256 levels"):
        levels.check(np.array([[0, 256]]), "x")
    with pytest.raises(UserError, match="should hold 16 levels"):
        Levels((2,), 16).check(noise(100, 2), "x")


def test_nan_in_a_stream_is_named(tmp_path):
    x = np.zeros((40, 3), dtype=np.float32)
    x[17, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match=r"x.npy should hold finite numbers; row 17 holds NaN"):
        load_dataset(tmp_path / "x.npy", stream=True).x[np.array([3, 17])]


@pytest.mark.parametrize("skip", [False, True])
def test_files_that_are_no_images_are_found_by_the_index(skip, tmp_path):
    image_folder(tmp_path / "p", {"": 6})
    (tmp_path / "p/bad.png").write_bytes(b"no image")
    (tmp_path / "p/empty.png").write_bytes(b"")
    save_image(tmp_path / "p/deep.tif", np.zeros((8, 8), dtype=np.float32))
    if not skip:
        with pytest.raises(UserError, match=r"bad.png should be an image; it cannot be read \(damaged or not an image"):
            load_dataset(tmp_path / "p", stream=True)
        return
    memory, streamed = both(tmp_path / "p", skip_bad=True)
    assert streamed.left_out == memory.left_out
    assert len(streamed.left_out) == 3
    assert np.array_equal(streamed.x[:], memory.x)


def test_damage_behind_a_good_header_is_named_when_it_is_read(tmp_path):
    image_folder(tmp_path / "p", {"": 6}, size=32)
    whole = (tmp_path / "p/003.png").read_bytes()
    (tmp_path / "p/003.png").write_bytes(whole[: len(whole) // 2])
    data = load_dataset(tmp_path / "p", stream=True, split=(1, 0, 0))
    data.x[[0, 1, 2, 4, 5]]
    with pytest.raises(UserError, match=r"003.png should be an image; it cannot be read \(.*Remove it, and train anew"):
        data.x[3]
    save_image(tmp_path / "p/004.png", noise(20, 32))
    with pytest.raises(UserError, match=r"the first is 32x32 and 004.png is 32x20. Choose one, for instance --size 20"):
        data.x[4]
    save_image(tmp_path / "p/005.png", noise(32, 32, 3))
    with pytest.raises(UserError, match=r"grey by their headers; 005.png has colours"):
        data.x[5]


def test_images_over_the_limit_are_refused_by_their_header(tmp_path):
    image_folder(tmp_path / "p", {"": 3}, size=16)
    with pytest.raises(UserError, match="16x16 is more than 100 pixels"):
        load_dataset(tmp_path / "p", stream=True, max_pixels=100)


def test_a_cut_file_is_refused_and_so_is_one_that_is_cut_later(tmp_path):
    np.save(tmp_path / "x.npy", noise(40, 100))
    data = load_dataset(tmp_path / "x.npy", stream=True)
    os.truncate(tmp_path / "x.npy", 128 + 2050)
    data.x[:20]
    with pytest.raises(UserError, match=r"x.npy ends before row 20 of 40: it was cut while it was in use"):
        data.x[np.array([20])]
    with pytest.raises(UserError, match=r"x.npy should have 4,128 bytes by its header"):
        load_dataset(tmp_path / "x.npy", stream=True)


def test_arrays_that_cannot_be_read_by_row_are_refused(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(noise(9, 5)))
    with pytest.raises(UserError, match=r"f.npy is in Fortran's order.*Save it again"):
        load_dataset(tmp_path / "f.npy", stream=True)
    np.save(tmp_path / "o.npy", np.array([[{}], [{}]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"o.npy should hold plain numbers; got object"):
        load_dataset(tmp_path / "o.npy", stream=True)
    np.save(tmp_path / "flat.npy", noise(9))
    with pytest.raises(UserError, match="at least 2 dimensions"):
        load_dataset(tmp_path / "flat.npy", stream=True)
    np.savez(tmp_path / "z.npz", x=noise(9, 5))
    with pytest.raises(UserError, match=r"z.npz cannot be streamed; expected a folder of images, .npy"):
        load_dataset(tmp_path / "z.npz", stream=True)
    with pytest.raises(UserError, match="--stream is for files"):
        load_dataset(noise(9, 5), stream=True)


def test_shards_are_read_with_suspicion(tmp_path, monkeypatch):
    good = write_shard(tmp_path / "a.tar", [(f"{n}.png", png(noise(8, 8, seed=n))) for n in range(5)])
    data = load_dataset(good, split=(1, 0, 0))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[: 4 * 1024 + 700])
    with pytest.raises(UserError, match=r"cut.tar should be a whole, uncompressed tar; it is cut or damaged"):
        load_dataset(cut)
    os.truncate(good, data.x.place(4).offset + 10)
    data.x[3]
    with pytest.raises(UserError, match=r"a.tar: 4 should be an image; it cannot be read \(a.tar ends after 10 of its"):
        data.x[4]
    linked = tmp_path / "link.tar"
    with tarfile.open(linked, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match=r"a.png should be a plain file; it is a link"):
        load_dataset(linked)
    for name in ("../a.png", "b/../../a.png", "/tmp/a.png"):
        with pytest.raises(UserError, match="should be a name inside of the shard; it leads out of it"):
            load_dataset(write_shard(tmp_path / "out.tar", [(name, png(noise(8, 8)))]))
    squeezed = tmp_path / "z.tar"
    with tarfile.open(squeezed, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(UserError, match="uncompressed"):
        load_dataset(squeezed)
    write_shard(tmp_path / "big.tar", [("a.png", png(noise(64, 64)))])
    monkeypatch.setattr("sfumato.data.streams.shards.MAX_ENCODED", 1000)
    with pytest.raises(UserError, match=r"a.png has .* bytes; at most 1,000 are read"):
        load_dataset(tmp_path / "big.tar")


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path):
    path = tmp_path / "long.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("n" * 300_000 + ".png"))
    with pytest.raises(UserError, match="a header of 300,"):
        load_dataset(path)


def test_shards_without_images_or_with_two_of_a_name_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no.tar should hold shards with images"):
        load_dataset(write_shard(tmp_path / "no.tar", [("a.txt", b"x")]))
    pixels = png(noise(8, 8))
    with pytest.raises(UserError, match=r"one image for each name; 'a' has a.png and a.jpg"):
        load_dataset(write_shard(tmp_path / "two.tar", [("a.png", pixels), ("a.jpg", pixels)]))
    with pytest.raises(UserError, match="can only be streamed"):
        load_dataset(tmp_path / "two.tar", stream=False)


def test_arrow_files_are_the_same_table(tmp_path):
    memory = load_dataset(table(tmp_path / "t.parquet"), label="kind")
    for name in ("t.arrow", "t.feather"):
        streamed = load_dataset(table(tmp_path / name), label="kind")
        assert streamed.streamed
        assert np.array_equal(streamed.x[:], memory.x)
        assert np.array_equal(streamed.y, memory.y)
        assert streamed.class_names == memory.class_names == ("cat", "dog", "eel")
    (tmp_path / "bad.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"bad.arrow should be an Arrow file"):
        load_dataset(tmp_path / "bad.arrow")


@pytest.mark.parametrize("skip", [False, True])
def test_missing_cells_of_a_streamed_table_are_named_or_left_out(skip, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    values = [float(row) for row in range(40)]
    made = pa.table({"a": [*values[:23], None, *values[24:]], "b": values})
    parquet.write_table(made, tmp_path / "t.parquet", row_group_size=6)
    if not skip:
        with pytest.raises(UserError, match="row 23, column 'a', has none"):
            load_dataset(tmp_path / "t.parquet", stream=True)
        return
    memory, streamed = both(tmp_path / "t.parquet", skip_bad=True)
    assert np.array_equal(streamed.x[:], memory.x)
    assert streamed.left_out == memory.left_out


def test_rows_are_indexed_like_an_array():
    x = noise(9, 4)
    rows = ArrayRows(x)
    mask = np.arange(9) % 2 == 0
    for index in (slice(None), slice(2, 8, 3), mask, [3, 1], -1, 4, np.array([[1, 2], [3, 4]]), []):
        wanted = x[np.asarray(index, dtype=np.int64)] if isinstance(index, list) else x[index]
        assert np.array_equal(rows[index], wanted)
    with pytest.raises(IndexError):
        rows[[9]]
    assert len(rows) == 9


def test_some_rows_are_an_array_of_their_own():
    x = np.arange(60.0, dtype=np.float32).reshape(20, 3)
    rows, chosen = ArrayRows(x, "values.npy"), np.array([7, 3, 3, 19])
    part = rows.only(chosen)
    assert part.shape == (4, 3)
    assert np.array_equal(part[:], x[chosen])
    assert np.array_equal(part[1:3], x[[3, 3]])
    assert part.name(3) == "row 19"
    assert part.digest() != rows.only(chosen[::-1]).digest()
    x[19, 1] = np.nan
    with pytest.raises(UserError, match=r"values.npy should hold finite numbers; row 19 holds NaN"):
        part[2:]


def test_names_are_packed_whatever_they_hold():
    names = ["a.png", "", "ünïcode/ß.jpg", os.fsdecode(b"\xff\xfe.png")]
    packed = Names(names)
    assert list(packed) == names
    assert packed[-1] == names[-1]
    assert packed[1:3] == names[1:3]
    with pytest.raises(IndexError):
        packed[4]


def test_a_split_of_a_stream_is_prefetched():
    data = load_dataset(noise(20, 4))
    assert not isinstance(data.split("train"), Prefetched)
    assert Streamed(ArrayRows(data.x), data.rows("train")).y is None
