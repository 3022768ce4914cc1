"""The run folder: its places, its lock, its metrics."""

import errno
import json
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from io_helpers import at_call, content, fails

from sfumato.core.errors import SfumatoError, UserError
from sfumato.io import store
from sfumato.io.run import Metrics, RunFolder, RunLock
from sfumato.io.store import DamagedError, NoRoom


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "photos").create()


def test_the_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder("runs/photos")
    names = [run.run, run.metrics.path, run.checkpoints, run.model, run.report]
    assert [path.relative_to(run.path).as_posix() for path in names] == [
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "report.html",
    ]
    assert os.listdir(tmp_path) == []
    run.create()
    assert os.listdir(run.path) == []
    with run.lock():
        run.open_checkpoints().save(3, *content(3))
    assert run.open_checkpoints(keep=5).latest().step == 3


def test_an_existing_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    RunFolder("empty").create().write_run({})
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "file", "link"):
        with pytest.raises(UserError, match=rf"^{name} exists\. Choose .*--out.* --resume {name}\."):
            RunFolder(name).create()


def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch):
    with at_call(monkeypatch, 1, fails(errno.EROFS), calls=("mkdir",)), pytest.raises(SfumatoError, match="read-only"):
        RunFolder(tmp_path / "a").create()


def test_run_json(run):
    run.write_run({"seed": 0, "ä": [1.5, None]})
    run.write_run({"seed": 1, "ä": [1.5, None]})
    assert run.read_run() == {"seed": 1, "ä": [1.5, None]}
    assert os.listdir(run.path) == ["run.json"]
    with pytest.raises(ValueError):
        run.write_run({"x": float("nan")})
    assert run.read_run()["seed"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": 1', b"[]", b"\0" * 20, b'{"a": 1, "a": 2}', b"[%s]" % (b"9" * 5000)]
)
def test_a_damaged_run_json(data, run):
    run.run.write_bytes(data)
    with pytest.raises(DamagedError, match=r"run\.json is") as caught:
        run.read_run()
    assert str(caught.value).count("\n") == 0


def test_a_missing_run_json_and_a_missing_run(run):
    with pytest.raises(DamagedError, match=r"run\.json is missing"):
        run.read_run()
    with pytest.raises(UserError, match="is not a folder"):
        RunFolder(run.path / "no").read_run()


LINES = [{"step": step, "elbo": -100.0 / step, "name": "ä"} for step in range(1, 8)]


def test_a_line_that_could_not_be_made_durable_is_not_there_twice_when_it_is_tried_again(run, monkeypatch):
    right, calls = store.sync_folder, []

    def once(path):
        calls.append(path)
        if len(calls) == 1:
            raise OSError(errno.EMFILE, "too many open files")
        right(path)

    monkeypatch.setattr(store, "sync_folder", once)
    with pytest.raises(SfumatoError):
        run.metrics.append(LINES[0])
    assert run.metrics.read() == []
    run.metrics.append(LINES[0])
    run.metrics.append(LINES[1])
    assert run.metrics.read() == LINES[:2]
    assert calls == 2 * [run.path], "the folder of a file that is new, and no other time"


def test_metrics_continue_byte_for_byte(run):
    metrics = run.metrics
    assert metrics.read() == []
    assert metrics.position() == 0
    metrics.truncate(0)
    for line in LINES[:3]:
        metrics.append(line)
    position = metrics.position()
    for line in LINES[3:]:
        metrics.append(line)
    whole = metrics.path.read_bytes()
    metrics.truncate(position)
    assert metrics.read() == LINES[:3]
    for line in LINES[3:]:
        Metrics(metrics.path).append(line)
    assert metrics.path.read_bytes() == whole
    assert metrics.read() == LINES


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_torn_last_line_is_left_out(cut, tmp_path_factory):
    metrics = Metrics(tmp_path_factory.mktemp("run") / "metrics.jsonl")
    for line in LINES:
        metrics.append(line)
    data = metrics.path.read_bytes()[:cut]
    metrics.path.write_bytes(data)
    assert metrics.read() == LINES[: data.count(b"\n")]


def test_numbers_that_are_not_finite_are_null(run):
    run.metrics.append({"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": -float("inf")}, "e": 2})
    assert run.metrics.path.read_bytes() == b'{"a":null,"b":[null,1.0],"c":{"d":null},"e":2}\n'


@pytest.mark.parametrize("line", [b"{", b"[]", b"\0\0\0", b'{"a":NaN}', b"\xff", b""])
def test_a_damaged_line_is_named(line, run):
    run.metrics.append(LINES[0])
    with run.metrics.path.open("ab") as file:
        file.write(line + b"\n")
    run.metrics.append(LINES[1])
    with pytest.raises(DamagedError, match=r"metrics\.jsonl, line 2, is damaged"):
        run.metrics.read()


def test_a_log_that_is_missing_or_cut(run):
    with pytest.raises(
        DamagedError, match=r"metrics\.jsonl is missing; when the checkpoint was written it had 10 bytes"
    ):
        run.metrics.truncate(10)
    run.metrics.append({"a": 1})
    with pytest.raises(
        DamagedError, match=r"metrics\.jsonl has 8 bytes; when the checkpoint was written it had 9 bytes"
    ):
        run.metrics.truncate(9)
    run.metrics.truncate(8)
    assert run.metrics.read() == [{"a": 1}]


def test_a_full_disk_leaves_the_log_as_it_was(run, monkeypatch):
    run.metrics.append(LINES[0])
    before, real = run.metrics.path.read_bytes(), os.write
    full = []

    def half(descriptor, data):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        full.append(True)
        return real(descriptor, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(NoRoom, match=r"metrics\.jsonl could not be written: the disk is full"):
            run.metrics.append(LINES[1])
    assert full
    assert run.metrics.path.read_bytes() == before
    run.metrics.append(LINES[1])
    assert run.metrics.read() == LINES[:2]


def test_the_position_is_durable(run, monkeypatch):
    run.metrics.append(LINES[0])
    with at_call(monkeypatch, -1, None, calls=("fsync",)) as fired:
        assert (
            run.metrics.position() == len(json.dumps(LINES[0], ensure_ascii=False, separators=(",", ":")).encode()) + 1
        )
    assert fired.count == 1


def test_a_lock_is_taken_once(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    with RunLock("photos"):
        with pytest.raises(UserError, match=r"^another process is training in photos\. Wait"), RunLock("photos"):
            pass
        with pytest.raises(UserError), run.lock():
            pass
    with run.lock(), pytest.raises(UserError), RunLock("photos"):
        pass
    with pytest.raises(SfumatoError, match="could not be"), RunLock("no"):
        pass


def test_a_killed_process_frees_its_lock(run):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with RunLock(run.path):
            os.write(tell, b"x")
            signal.pause()
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    with pytest.raises(UserError, match="another process"), run.lock():
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with run.lock():
        pass
    os.close(ready)
    os.close(tell)
