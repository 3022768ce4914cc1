"""What a disk may look like after a power cut: log a writer's operations, then build the states that they allow.

A file's content is sure up to its last fsync; after that it may be kept, lost, torn, zeroed or garbage. A name (made,
moved, removed) is sure after the fsync of its folder; before that it may have reached the disk or not, each for itself.
"""

import contextlib
import os
import random
from pathlib import Path

CONTENTS = ("kept", "lost", "torn", "zero", "garbage")
NAMES = ("none", "all", "some", "ordered")
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")


def place(path, dir_fd=None):
    """Return the absolute path that a system call means."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    path = os.fspath(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path) if dir_fd is not None else os.path.abspath(path)


@contextlib.contextmanager
def recorded(monkeypatch, root):
    """Yield the list of operations below ``root`` that happen inside the block."""
    log, real, root = [], {name: getattr(os, name) for name in CALLS}, str(root)

    def note(*entry):
        if all(item.startswith(root) for item in entry[1:] if isinstance(item, str)):
            log.append(entry)

    def opened(path, flags, mode=0o777, *, dir_fd=None):
        fresh = flags & os.O_CREAT and not os.path.lexists(place(path, dir_fd))
        descriptor = real["open"](path, flags, mode, dir_fd=dir_fd)
        if fresh:
            note("create", place(path, dir_fd))
        return descriptor

    def written(descriptor, data):
        count = real["write"](descriptor, data)
        note("write", place(descriptor), bytes(data[:count]))
        return count

    def synced(descriptor):
        note("sync", place(descriptor))
        return real["fsync"](descriptor)

    def made(path, mode=0o777, *, dir_fd=None):
        real["mkdir"](path, mode, dir_fd=dir_fd)
        note("mkdir", place(path, dir_fd))

    def moved(source, target, **kwargs):
        real["rename"](source, target, **kwargs)
        note("move", place(source), place(target))

    def removed(path, *, dir_fd=None):
        real["rmdir" if os.path.isdir(place(path, dir_fd)) else "unlink"](path, dir_fd=dir_fd)
        note("remove", place(path, dir_fd))

    fakes = {"open": opened, "write": written, "fsync": synced, "mkdir": made, "rename": moved, "replace": moved}
    with monkeypatch.context() as patch:
        for name, fake in (fakes | {"unlink": removed, "rmdir": removed}).items():
            patch.setattr(os, name, fake)
        yield log


class Disk:
    """Plays a log up to a crash and writes one of the states that may then be found."""

    def __init__(self, root, log):
        self.root = str(root)
        self.files = {}  # number -> [content, durable content]
        self.folders = {0: ({}, {}, [])}  # number -> (names, durable names, changes since)
        for entry in log:
            self._play(*entry)

    def _look(self, path):
        number = 0
        for part in Path(path).relative_to(self.root).parts:
            number = self.folders[number][0][part]
        return number

    def _change(self, path, number):
        """Let the name ``path`` mean ``number`` (None: nothing)."""
        names, _, changes = self.folders[self._look(os.path.dirname(path))]
        if number is None:
            del names[os.path.basename(path)]
        else:
            names[os.path.basename(path)] = number
        changes.append({os.path.basename(path): number})

    def _play(self, kind, *args):
        if kind == "create":
            number = len(self.files) + len(self.folders)
            self.files[number] = [b"", b""]
            self._change(args[0], number)
        elif kind == "mkdir":
            number = len(self.files) + len(self.folders)
            self.folders[number] = ({}, {}, [])
            self._change(args[0], number)
        elif kind == "write":
            self.files[self._look(args[0])][0] += args[1]
        elif kind == "sync":
            number = self._look(args[0])
            if number in self.files:
                self.files[number][1] = self.files[number][0]
            else:
                names, durable, changes = self.folders[number]
                durable.clear()
                durable.update(names)
                changes.clear()
        elif kind == "move":
            number = self._look(args[0])
            self._change(args[0], None)
            self._change(args[1], number)
            changes = self.folders[self._look(os.path.dirname(args[0]))][2]
            changes[-2:] = [changes[-2] | changes[-1]]  # one folder, one change: both names or none
        elif kind == "remove":
            self._change(args[0], None)

    def build(self, target, contents, names, seed):
        """Write to ``target`` a state: how unsynced ``contents`` and ``names`` fared."""
        self._build(Path(target), 0, contents, names, random.Random(seed))

    def _build(self, target, number, contents, names, dice):
        target.mkdir()
        _, durable, changes = self.folders[number]
        upto = dice.randint(0, len(changes))
        entries = dict(durable)
        for index, change in enumerate(changes):
            if names == "all" or (names == "some" and dice.random() < 0.5) or (names == "ordered" and index < upto):
                entries.update(change)
        for name, child in entries.items():
            if child in self.folders:
                self._build(target / name, child, contents, names, dice)
            elif child is not None:
                (target / name).write_bytes(content_after_crash(*self.files[child], contents, dice))


def content_after_crash(content, durable, how, dice):
    """Return what a file may hold whose ``content`` was synced only up to ``durable``."""
    if content == durable or how == "kept":
        return content
    if how == "lost":
        return durable
    if how == "torn":
        return content[: dice.randint(0, len(content))]
    if how == "zero":
        return bytes(len(content))
    blocks = [content[at : at + 64] for at in range(0, len(content), 64)]
    return b"".join(dice.choice((block, bytes(len(block)), dice.randbytes(len(block)))) for block in blocks)
