"""Faults (T2, T3, T6, T7): errors and kills at every system call of a save, and disks that are really full."""

import errno
import os
import signal
import stat
import subprocess
import traceback

import pytest
from io_helpers import FAULTS, at_call, content, fails, is_right, leftovers, save, tiny

from sfumato.core.errors import SfumatoError, UserError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model
from sfumato.io.store import NoRoom

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def count_calls(monkeypatch, action, **kwargs):
    with at_call(monkeypatch, -1, None, **kwargs) as fired:
        action()
    return fired.count


def error_of(action):
    """Return the error of sfumato that ``action`` ends with, one sentence, or None; any other error is a bug."""
    try:
        action()
    except SfumatoError as error:
        text = str(error)
        return error if text.count("\n") == 0 and text.endswith(".") and "could not be" in text else text
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=errno.errorcode.get)
def test_a_fault_at_any_call_of_a_save_leaves_the_last_good_one(fault, tmp_path, monkeypatch):
    steps = iter(range(3, 10_000, 3))
    folder = tmp_path / "checkpoints"
    for _ in range(3):
        save(folder, next(steps))
    calls = count_calls(monkeypatch, lambda: save(folder, next(steps)))
    assert calls > 25
    errors = 0
    for number in range(1, calls + 1):
        step = next(steps)
        before = Checkpoints(folder).steps()
        with at_call(monkeypatch, number, fails(fault)) as fired:
            error = error_of(lambda step=step: save(folder, step))
        assert fired.done
        assert error is None or isinstance(error, SfumatoError), error
        assert error is None or "checkpoints" in str(error)
        assert error is None or isinstance(error, NoRoom) == (fault in (errno.ENOSPC, errno.EDQUOT)), (number, error)
        errors += error is not None
        checkpoints = Checkpoints(folder)
        found = checkpoints.latest()
        assert found.step in (before[-1], step)
        assert is_right(found)
        assert not checkpoints.warnings
        assert len(checkpoints.steps()) >= 2
        save(folder, next(steps))
        assert not leftovers(folder)
    assert errors > 20


def test_the_file_and_the_cure_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (
        at_call(monkeypatch, 2, fails(errno.ENOSPC), calls=("write",)),
        pytest.raises(
            NoRoom, match=r"^run/step-00000003/optimizer\.safetensors could not be written: the disk is full"
        ),
    ):
        save(tmp_path / "run", 3)
    assert NoRoom.exit_code == 1


def test_a_failed_fsync_is_not_retried(tmp_path, monkeypatch):
    with (
        at_call(monkeypatch, 1, fails(errno.EIO), calls=("fsync",)) as fired,
        pytest.raises(SfumatoError, match="fault"),
    ):
        store.write_file(tmp_path / "x", b"data")
    assert fired.count == 1
    assert os.listdir(tmp_path) == []


def test_a_disk_that_cannot_sync_folders_is_used_all_the_same(tmp_path, monkeypatch):
    real = os.fsync

    def sync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    save(tmp_path, 3)
    assert is_right(Checkpoints(tmp_path).latest())


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_is_no_room(fault, tmp_path):
    with pytest.raises(NoRoom), store.explained(tmp_path):
        raise OSError(fault, os.strerror(fault))
    with (
        pytest.raises(SfumatoError, match=r"could not be written: Timer expired \(ETIME\)\. Check"),
        store.explained("x"),
    ):
        raise OSError(errno.ETIME, "Timer expired")


def test_short_writes_are_completed(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: max(1, len(data) // 2)]))
    save(tmp_path, 3)
    assert is_right(Checkpoints(tmp_path).latest())


def test_an_interrupt_inside_a_save_cleans_up(tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    save(tmp_path, 3)
    with at_call(monkeypatch, 3, interrupt, calls=("write",)), pytest.raises(KeyboardInterrupt):
        save(tmp_path, 6)
    assert os.listdir(tmp_path) == ["step-00000003"]


def test_an_old_one_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 6):
        checkpoints.save(step, *content(step))

    def refuse(path):
        raise SfumatoError(f"{path} could not be removed: permission is missing.")

    monkeypatch.setattr(store, "discard", refuse)
    checkpoints.save(9, *content(9))
    assert checkpoints.steps() == [3, 6, 9]
    assert "could not be removed" in checkpoints.warnings[0]


def replaced(path, number):
    save_model(path, tiny(), card={"number": number}, replace=True)


@pytest.mark.parametrize("fault", FAULTS, ids=errno.errorcode.get)
def test_a_fault_while_a_model_is_replaced_leaves_the_old_or_the_new(fault, tmp_path, monkeypatch):
    path = tmp_path / "model"
    save_model(path, tiny(), card={"number": 0})
    calls = count_calls(monkeypatch, lambda number=0: replaced(path, number), calls=CALLS)
    for number in range(1, calls + 1):
        before = load_model(path, kind="tiny")[1]["number"]
        with at_call(monkeypatch, number, fails(fault), calls=CALLS) as fired:
            error = error_of(lambda number=number: replaced(path, number))
        assert fired.done
        assert error is None or isinstance(error, SfumatoError), error
        assert path.exists()
        assert load_model(path, kind="tiny")[1]["number"] in (before, number)
    replaced(path, 0)
    assert os.listdir(tmp_path) == ["model"]


def killed(monkeypatch, number, before, action):
    """Do ``action`` in a child that kills itself at a system call; return whether it did."""
    child = os.fork()
    if child == 0:
        try:
            with at_call(monkeypatch, number, lambda: os.kill(os.getpid(), signal.SIGKILL), calls=CALLS, before=before):
                action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_kill_9_at_every_call_of_a_save(before, tmp_path, monkeypatch):
    folder, step, inside = tmp_path / "checkpoints", 9, 0
    for first in (3, 6, 9):
        save(folder, first)
    number, seen = 0, set()
    while True:
        number, step = number + 1, step + 3
        died = killed(monkeypatch, number, before, lambda step=step: save(folder, step))
        checkpoints = Checkpoints(folder)
        found = checkpoints.latest()
        assert is_right(found)
        assert not checkpoints.warnings
        assert found.step in (step - 3, step)
        seen.add(found.step == step)
        inside += any(name.startswith(".part-step") for name in os.listdir(folder))
        if not died:
            assert found.step == step
            break
        save(folder, step)  # the sweep, then the same step again
        assert checkpoints.latest().step == step
        assert not leftovers(folder)
        assert len(checkpoints.steps()) == 2
    assert number > 30
    assert inside > number / 2
    assert seen == {True, False}


def test_kill_9_at_every_call_of_a_replacement(tmp_path, monkeypatch):
    path, number, died, waiting = tmp_path / "model", 0, True, 0
    save_model(path, tiny(), card={"number": 0})
    while died:
        number += 1
        before = load_model(path, kind="tiny")[1]["number"]
        died = killed(monkeypatch, number, True, lambda number=number: replaced(path, number))
        waiting += not path.exists()
        assert load_model(path, kind="tiny")[1]["number"] in (before, number)
    assert waiting > 0
    assert number > 20


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a disk of so many bytes, or again with more."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size, again=False):
        options = f"size={size}" + (",remount" if again else "")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(
                f"NOT PROVEN HERE: a disk really full needs the right to mount ({done.stderr.decode().strip()})"
            )
        return place

    yield mount
    while os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("asked", [True, False], ids=["room is asked for", "another program takes the room"])
@pytest.mark.parametrize("pages", [1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
def test_a_disk_really_full(pages, asked, small_disk, monkeypatch):
    folder = small_disk(pages * 4096) / "checkpoints"
    with monkeypatch.context() as patch:
        if not asked:
            patch.setattr(Checkpoints, "_check_room", lambda self, size: None)
        done = 0
        while done < 30:
            try:
                save(folder, done + 3)
            except NoRoom:
                break
            done += 3
    assert done < 30
    checkpoints = Checkpoints(folder)
    found = checkpoints.latest()
    assert (found.step if found else 0) == done
    assert found is None or is_right(found)
    assert not checkpoints.warnings
    small_disk(2**20, again=True)
    save(folder, done + 3)
    assert is_right(checkpoints.latest())
    assert not leftovers(folder)


def test_room_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 3)

    class Disk:
        f_bavail, f_frsize = 1, 512

    monkeypatch.setattr(os, "statvfs", lambda path: Disk)
    with (
        at_call(monkeypatch, -1, None, calls=("write",)) as fired,
        pytest.raises(NoRoom, match=r"has room for 0\.0 MB; a checkpoint needs 0\.0"),
    ):
        save(tmp_path, 6)
    assert fired.count == 0
    assert Checkpoints(tmp_path).latest().step == 3


def test_the_umask_decides_the_rights(tmp_path):
    old = os.umask(0o027)
    try:
        store.write_file(tmp_path / "file", b"")
        store.write_folder(tmp_path / "folder", {"x": b""})
    finally:
        os.umask(old)
    mode = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("file", "folder", "folder/x")}
    assert mode == {"file": 0o640, "folder": 0o750, "folder/x": 0o640}


def test_a_file_is_replaced_whole(tmp_path):
    for data in (b"one", b"", b"three" * 1000):
        store.write_file(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
    assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(SfumatoError, match="could not be written"):
        store.write_file(tmp_path / "no" / "x", b"")


def test_a_folder_is_not_overwritten(tmp_path):
    store.write_folder(tmp_path / "a", {"x": b"1"})
    with pytest.raises(UserError, match="exists"):
        store.write_folder(tmp_path / "a", {"x": b"2"})
    (tmp_path / "a" / "mine.txt").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds more than would be replaced \(mine\.txt\)"):
        store.write_folder(tmp_path / "a", {"x": b"2"}, replace=True)
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(UserError, match="Move it away"):
        store.write_folder(tmp_path / "link", {"x": b"2", "mine.txt": b""}, replace=True)
    assert (tmp_path / "a" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".x", "manifest.json", "a\0", "é"])
def test_names_that_no_file_may_have(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be the name"):
        store.write_folder(tmp_path / "a", {name: b""})


def test_sweep(tmp_path):
    store.sweep(tmp_path / "nothing")
    for name in (".part-a", ".part-b/deep/er", ".old-c", ".old-d", "d", "mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".part-file").write_bytes(b"")
    (tmp_path / ".part-link").symlink_to("mine")
    store.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["c", "d", "mine"]


def test_rotation_keeps_two_and_the_protected(tmp_path):
    for step in range(3, 19, 3):
        save(tmp_path, step, protect=[6])
    assert Checkpoints(tmp_path).steps() == [6, 15, 18]
    save(tmp_path, 18)
    assert Checkpoints(tmp_path).steps() == [15, 18]
    with pytest.raises(ValueError, match="would not be the latest"):
        save(tmp_path, 15)
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match=r"no checkpoint of step 3\. There are: 15, 18\."):
        Checkpoints(tmp_path).load(3)
    assert Checkpoints(tmp_path / "none").latest() is None
    assert not (tmp_path / "none").exists()


def test_nothing_is_rotated_before_the_new_one_is_read_back(tmp_path, monkeypatch):
    for step in (3, 6):
        save(tmp_path, step)
    monkeypatch.setattr(store, "read_folder", lambda path, names=None: {})
    with pytest.raises(SfumatoError, match="reads back other"):
        save(tmp_path, 9)
    assert Checkpoints(tmp_path).steps() == [3, 6, 9]


@pytest.mark.parametrize("state", [{"best": float("nan")}, {"best": float("inf")}, {"x": "\ud800"}])
def test_a_state_that_is_not_json_is_not_written(state, tmp_path):
    with pytest.raises(ValueError):
        Checkpoints(tmp_path / "a").save(3, {}, state)
    assert not (tmp_path / "a").exists()
