"""Damage (T9): whatever happens to a file of a checkpoint or a model folder is noticed, and the file is named."""

import os
import shutil

import pytest
import torch
from io_helpers import is_right, leftovers, save, tiny
from proofs.t09_damage import CHECKPOINT, CONTENT, MODEL, PLACES, flipped

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model

HARD = bool(os.environ.get("SFUMATO_HARD"))


def flips(data):
    """Return bits of every region: header, middle, end."""
    bits = len(data) * 8
    return sorted({*range(0, bits, max(1, bits // 9)), 0, 7, 64, bits - 1})


def damages(path):
    """Yield (name, function that does the damage) for one file."""
    data = path.read_bytes()
    for name, change in CONTENT.items():
        assert change(data) != data
        yield name, lambda change=change: path.write_bytes(change(data))
    for bit in flips(data):
        yield f"bit {bit}", lambda bit=bit: path.write_bytes(flipped(data, bit))
    for name, change in PLACES.items():
        yield name, lambda change=change: change(path)


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints 3 and 6."""
    folder = tmp_path / "checkpoints"
    save(folder, 3)
    save(folder, 6)
    return folder


@pytest.mark.parametrize("file", CHECKPOINT)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(file, two, tmp_path):
    for name, damage in damages(two / "step-00000006" / file):
        kept = tmp_path / "kept"
        shutil.copytree(two, kept)
        damage()
        checkpoints = Checkpoints(two)
        found = checkpoints.latest()
        assert found is not None, name
        assert found.step == 3, name
        assert is_right(found), name
        assert len(checkpoints.warnings) == 1, name
        assert f"step-00000006{os.sep}{file}" in checkpoints.warnings[0], name
        assert (two / "damaged-step-00000006").is_dir(), name
        assert checkpoints.steps() == [3], name
        shutil.rmtree(two)
        os.rename(kept, two)


def test_every_bit_of_a_manifest_counts(two):
    path = two / "step-00000006" / store.MANIFEST
    data = path.read_bytes()
    for byte in range(len(data)):
        for bit in range(8) if HARD else (byte % 8,):
            with pytest.raises(store.DamagedError):
                store._records(flipped(data, 8 * byte + bit), path)
    for length in range(0, len(data), 1 if HARD else 9):
        with pytest.raises(store.DamagedError):
            store._records(data[:length], path)


def test_a_file_too_many_and_hidden_ones(two):
    (two / "step-00000006" / ".DS_Store").write_bytes(b"desktop")
    assert Checkpoints(two).latest().step == 6
    (two / "step-00000006" / "notes.txt").write_bytes(b"mine")
    checkpoints = Checkpoints(two)
    assert checkpoints.latest().step == 3
    assert "notes.txt is a file too many" in checkpoints.warnings[0]
    assert (two / "damaged-step-00000006" / "notes.txt").read_bytes() == b"mine"


def test_swapped_files_and_swapped_checkpoints(two):
    one, other = (two / "step-00000006" / name for name in CHECKPOINT[:2])
    os.rename(one, two / "x")
    os.rename(other, one)
    os.rename(two / "x", other)
    assert Checkpoints(two).latest().step == 3
    save(two, 9)
    os.rename(two / "step-00000003", two / "step-00000012")
    checkpoints = Checkpoints(two)
    assert checkpoints.latest().step == 9
    assert "another checkpoint than its name says" in checkpoints.warnings[0]


def test_a_linked_checkpoint_is_not_followed(two):
    (two / "step-00000009").symlink_to("step-00000006")
    checkpoints = Checkpoints(two)
    assert checkpoints.latest().step == 6
    assert "is a link" in checkpoints.warnings[0]


def test_all_damaged_is_none_and_all_are_kept(two):
    for step in (3, 6):
        (two / f"step-{step:08d}" / "state.json").write_bytes(b"")
    checkpoints = Checkpoints(two)
    assert checkpoints.latest() is None
    assert len(checkpoints.warnings) == 2
    assert sorted(os.listdir(two)) == ["damaged-step-00000003", "damaged-step-00000006"]
    save(two, 3)
    (two / "step-00000003" / "state.json").write_bytes(b"")
    assert checkpoints.latest() is None
    assert (two / "damaged-step-00000003-2").is_dir()


def test_what_cannot_be_renamed_is_still_named(two, monkeypatch):
    (two / "step-00000006" / "state.json").write_bytes(b"")
    checkpoints = Checkpoints(two)

    def refuse(*names):
        raise PermissionError

    monkeypatch.setattr(os, "rename", refuse)
    assert checkpoints.latest().step == 3
    assert "state.json" in checkpoints.warnings[0]


def newer(path, version):
    """Make an intact manifest of another format version."""
    manifest = strict_json.parse((path / store.MANIFEST).read_bytes(), "manifest")
    del manifest["sha256"]
    manifest["format_version"] = version
    (path / store.MANIFEST).write_bytes(strict_json.dump(manifest | {"sha256": store._digest(manifest)}))


@pytest.mark.parametrize("version", [2, 0, "1", None, True])
def test_another_format_version_is_not_damage(two, version):
    newer(two / "step-00000006", version)
    with pytest.raises(UserError, match="format version") as caught:
        Checkpoints(two).latest()
    assert not isinstance(caught.value, store.DamagedError)
    assert sorted(os.listdir(two)) == ["step-00000003", "step-00000006"]


@pytest.mark.parametrize("file", MODEL)
def test_a_damaged_model_folder_is_refused_by_name(file, tmp_path):
    save_model(tmp_path / "model", tiny(), card={})
    for name, damage in damages(tmp_path / "model" / file):
        shutil.copytree(tmp_path / "model", tmp_path / "kept")
        damage()
        with pytest.raises(UserError) as caught:
            load_model(tmp_path / "model", kind="tiny")
        assert file in str(caught.value), name
        assert str(caught.value).count("\n") == 0
        shutil.rmtree(tmp_path / "model")
        os.rename(tmp_path / "kept", tmp_path / "model")
    load_model(tmp_path / "model", kind="tiny")


@pytest.mark.parametrize(
    "files",
    [
        [],
        {"../x": {"bytes": 0, "sha256": ""}},
        {".x": {"bytes": 0, "sha256": ""}},
        {"manifest.json": {"bytes": 0, "sha256": ""}},
        {"x": {"bytes": -1, "sha256": ""}},
        {"x": {"bytes": True, "sha256": ""}},
        {"x": {"bytes": 1.0, "sha256": ""}},
        {"x": {"bytes": 1}},
        {"x": None},
        {"a/b": {"bytes": 0, "sha256": ""}},
    ],
)
def test_a_forged_manifest_is_refused(files, tmp_path):
    manifest = {"format_version": 1, "library": "sfumato", "files": files}
    (tmp_path / store.MANIFEST).write_bytes(strict_json.dump(manifest | {"sha256": store._digest(manifest)}))
    with pytest.raises(store.DamagedError, match=r"manifest\.json is damaged"):
        store.read_folder(tmp_path)


@pytest.mark.parametrize("text", [b"[1e999]", b"[%s]" % (b"9" * 5000), b'["\\ud800"]', b"[" * 99_999, b"NaN", b"\xff"])
def test_a_manifest_that_is_no_manifest(text, tmp_path):
    (tmp_path / store.MANIFEST).write_bytes(text)
    with pytest.raises(store.DamagedError, match=r"manifest\.json is damaged"):
        store.read_folder(tmp_path)
    (tmp_path / store.MANIFEST).write_bytes(b" " * 1_000_001)
    with pytest.raises(store.DamagedError, match="at most 1,000,000 bytes"):
        store.read_folder(tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        store.read_folder(tmp_path / "no")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is not a folder"):
        store.read_folder(tmp_path / "file")


def test_a_checkpoint_that_holds_something_else(tmp_path):
    files = {"state.json": b"[]"}, {"x.txt": b""}, {"state.json": b'{"step": 1, "state": {}}', "x.txt": b""}
    for number, content in enumerate(files, start=1):
        store.write_folder(tmp_path / f"step-{number:08d}", content)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert len(checkpoints.warnings) == 3


def test_a_disk_that_cannot_read_a_file(two, monkeypatch):
    real = os.fdopen

    def failing(descriptor, *args, **kwargs):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("step-00000006/state.json"):
            raise OSError(5, "Input/output error")
        return real(descriptor, *args, **kwargs)

    monkeypatch.setattr(os, "fdopen", failing)
    checkpoints = Checkpoints(two)
    assert checkpoints.latest().step == 3
    assert "state.json cannot be read: the disk reports a fault" in checkpoints.warnings[0]


def test_too_many_open_files_is_not_damage(two, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SfumatoError, match="too many files are open"):
            Checkpoints(two).latest()
    assert Checkpoints(two).steps() == [3, 6]
    assert not leftovers(two)


def test_loading_reads_no_time_stamps(two):
    os.utime(two / "step-00000003", (2**31, 2**31))
    os.utime(two / "step-00000006", (0, 0))
    assert Checkpoints(two).latest().step == 6
    assert torch.equal(Checkpoints(two).load(3).tensors["optimizer"]["0.step"], torch.tensor(3.0))
