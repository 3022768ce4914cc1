"""Durable writing: what is announced as written survives a kill and a power cut, and what is read is what was written.

A folder is written beside its place and moved there whole:

    .part-NAME/ -> each file written, fsynced -> manifest.json last -> fsync(folder) -> rename to NAME -> fsync(parent)

so NAME is complete or absent. The manifest names every file with its size and SHA-256 and carries a SHA-256 of itself;
reading verifies all of it. A failed fsync is never retried: the kernel may have dropped the data, only writing anew
helps. When a folder is replaced, the old one waits under ``.old-NAME`` until the new one is there; reading knows it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PART = ".part-"
OLD = ".old-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "Free some space, or choose another disk."),
    errno.EDQUOT: ("your disk quota is used up", "Free some space, or ask for a larger quota."),
    errno.EFBIG: ("the largest file size allowed here is reached", "Raise it with `ulimit -f`."),
    errno.EIO: ("the disk reports a fault", "Copy what you need and use another disk."),
    errno.EROFS: ("the disk is mounted read-only", "Choose a folder that can be written."),
    errno.EMFILE: ("too many files are open", "Raise the limit with `ulimit -n` and start again."),
    errno.ENFILE: ("too many files are open on this machine", "Close other programs and start again."),
    errno.EACCES: ("permission is missing", "Choose a folder that is yours, or change its rights."),
    errno.EPERM: ("permission is missing", "Choose a folder that is yours, or change its rights."),
}


class NoRoom(SfumatoError):
    """There is no room to write; nothing that was there is lost, and the same call may succeed later."""


class DamagedError(UserError):
    """A file that should be there, whole and unchanged, is missing, cut, changed, or one too many."""


def write_file(path: str | Path, data: bytes) -> None:
    """Write one file durably: the old content or the new one is there at every moment, never a mixture.

    Args:
        path: where to; its folder exists.
        data: the whole content.

    Raises:
        NoRoom: the disk or the quota is full. SfumatoError: another reason of the operating system.
    """
    path = Path(path)
    part = path.with_name(f"{PART}{path.name}-{os.getpid()}")
    with explained(path):
        _remove(part)
        try:
            _write(part, data)
            os.replace(part, path)
        except BaseException:
            _remove_quietly(part)
            raise
        sync_folder(path.parent)


def write_folder(path: str | Path, files: Mapping[str, bytes], *, replace: bool = False) -> str:
    """Write a folder of files durably, by the protocol on top of this page.

    Args:
        path: the folder; missing parents are made.
        files: name -> content. The manifest is added.
        replace: allow a folder of the same files at ``path``; it stays readable until the new one has taken its place.

    Returns:
        the SHA-256 of the manifest, which stands for all of the content.

    Raises:
        UserError: ``path`` exists. NoRoom: the disk or the quota is full. SfumatoError: another reason.
    """
    path = Path(path)
    part, old = path.with_name(PART + path.name), path.with_name(OLD + path.name)
    contents = with_manifest(files)
    with explained(path):
        _heal(path)
        _refuse_existing(path, contents, replace)
        make_folder(path.parent)
        _remove(part)
        try:
            os.mkdir(part)
            for name, data in contents.items():
                with explained(path / name):
                    _write(part / name, data)
            sync_folder(part)
            if path.exists():
                os.rename(path, old)
            os.rename(part, path)
            sync_folder(path.parent)
        except BaseException:
            _remove_quietly(part)
            with contextlib.suppress(OSError):
                _heal(path)
            raise
        _remove(old)
    return hashlib.sha256(contents[MANIFEST]).hexdigest()


def read_folder(path: str | Path, names: Collection[str] | None = None) -> dict[str, bytes]:
    """Read a folder that :func:`write_folder` wrote, verifying all of it.

    Files whose name begins with a dot are the desktop's business and not looked at.

    Args:
        path: the folder.
        names: exactly the files that it must hold; None: whatever its manifest names.

    Returns:
        name -> content, read into memory (never a map of a file that may shrink).

    Raises:
        DamagedError: a file missing, cut, changed, one too many, a link, or not a file.
        UserError: no such folder, or a format version that this sfumato does not know.
        SfumatoError: the operating system does not let us read.
    """
    path = Path(path)
    with explained(path, "read"), _opened(path) as folder:
        records = _records(_read(folder, path / MANIFEST), path / MANIFEST)
        present = {name for name in os.listdir(folder) if not name.startswith(".")} - {MANIFEST}
        for name in sorted(set(names if names is not None else records) | present | set(records)):
            if name not in records or (names is not None and name not in names):
                raise DamagedError(f"{shown(path / name)} is a file too many. Move it out of the folder.")
            if name not in present:
                raise DamagedError(f"{shown(path / name)} is missing. Use an intact copy of the folder.")
        return {name: _verified(folder, path / name, record) for name, record in records.items()}


def read_foreign(path: str | Path, most: int) -> bytes:
    """Read one regular file that something else wrote, never through a link.

    Args:
        path: the file.
        most: the largest number of bytes that is read.

    Raises:
        DamagedError: missing, a link, not a file, or larger.
    """
    path = Path(path)
    with explained(path, "read"), _opened(path.parent) as folder:
        size = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_size
        if size > most:
            raise DamagedError(f"{shown(path)} should have at most {most:,} bytes; it has {size:,}. Use the original.")
        return _read(folder, path, size)


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return ``files`` in the order in which they are written: the manifest last."""
    for name in files:
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"'{name}' cannot be the name of a file in a folder")
    manifest = {
        "format_version": FORMAT_VERSION,
        "library": "sfumato",
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    return dict(files) | {MANIFEST: strict_json.dump(manifest | {"sha256": _digest(manifest)})}


def discard(path: Path) -> None:
    """Remove a folder so that after a crash it is complete or gone, never a rest under its name."""
    part = path.with_name(PART + path.name)
    with explained(path, "removed"):
        _remove(part)
        os.rename(path, part)
        sync_folder(path.parent)
        _remove(part)


def sweep(parent: str | Path) -> None:
    """Remove what interrupted writers left in ``parent``; a folder caught in being replaced gets its name back."""
    parent = Path(parent)
    if not parent.is_dir():
        return
    with explained(parent):
        for name in sorted(os.listdir(parent)):
            if name.startswith(OLD):
                _heal(parent / name.removeprefix(OLD))
                _remove(parent / name)
            elif name.startswith(PART):
                _remove(parent / name)


def make_folder(path: Path) -> None:
    """Make ``path`` and its missing parents durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with explained(path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network disks have no such call for folders
            raise
    finally:
        os.close(folder)


def sync_file(descriptor: int) -> None:
    """Make the content of an open file durable."""
    os.fsync(descriptor)


@contextlib.contextmanager
def explained(path: str | Path, doing: str = "written") -> Iterator[None]:
    """Turn an ``OSError`` inside the block into one sentence about ``path``."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no code')})"
        cause, cure = _CAUSES.get(error.errno or 0, (reason, "Check the disk and the folder."))
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise (NoRoom if full else SfumatoError)(f"{shown(path)} could not be {doing}: {cause}. {cure}") from error


def shown(path: str | Path) -> str:
    """Return ``path`` as a person in the working folder would write it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def _write(path: Path, data: bytes) -> None:
    """Make a new file with the rights that the umask leaves, and its content durable (its name not yet)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        sync_file(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a folder, or the old one that waits while it is replaced."""
    old = path.with_name(OLD + path.name)
    place = old if not os.path.lexists(path) and old.is_dir() else path
    try:
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise UserError(f"{shown(path)} does not exist. Check the name.") from None
    except NotADirectoryError:
        raise UserError(f"{shown(path)} is not a folder. Give the folder that sfumato wrote.") from None
    try:
        yield folder
    finally:
        os.close(folder)


def _read(folder: int, path: Path, size: int | None = None) -> bytes:
    """Read one regular file inside an open folder; ``size`` is what it must have, None for a manifest's limit."""
    try:
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        what = "is missing" if error.errno == errno.ENOENT else "is a link, which is not followed"
        raise DamagedError(f"{shown(path)} {what}. Use an intact copy of the folder.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{shown(path)} is not a regular file. Use an intact copy of the folder.")
        limit = strict_json.MAX_BYTES if size is None else size
        if status.st_size > limit or (size is not None and status.st_size < size):
            raise DamagedError(
                f"{shown(path)} should have {'at most ' if size is None else ''}{limit:,} bytes; it has "
                f"{status.st_size:,}. Use an intact copy of the folder."
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedError(f"{shown(path)} cannot be read: the disk reports a fault. Use a copy.") from error
    finally:
        os.close(descriptor)


def _verified(folder: int, path: Path, record: Mapping[str, Any]) -> bytes:
    data = _read(folder, path, record["bytes"])
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise DamagedError(f"{shown(path)} has changed since it was written. Use an intact copy of the folder.")
    return data


def _records(data: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Return name -> {bytes, sha256} of a manifest, trusted only when its own SHA-256 fits."""
    damaged = DamagedError(f"{shown(path)} is damaged. Use an intact copy of the folder.")
    try:
        manifest = strict_json.parse(data, shown(path))
        canonical = strict_json.dump(manifest)
    except (UserError, ValueError):
        raise damaged from None
    if not isinstance(manifest, dict) or data != canonical:
        raise damaged
    if manifest.pop("sha256", None) != _digest(manifest) or manifest.get("library") != "sfumato":
        raise damaged
    found = manifest.get("format_version")
    if type(found) is not int or found != FORMAT_VERSION:
        raise UserError(
            f"{shown(path)} has the format version {found}; this sfumato reads {FORMAT_VERSION}. "
            "Use the sfumato that wrote it."
        )
    records = manifest.get("files")
    if not isinstance(records, dict) or not all(_is_record(name, record) for name, record in records.items()):
        raise damaged
    return records


def _is_record(name: str, record: Any) -> bool:
    return (
        bool(_NAME.fullmatch(name))
        and name != MANIFEST
        and isinstance(record, dict)
        and set(record) == {"bytes", "sha256"}
        and type(record["bytes"]) is int
        and record["bytes"] >= 0
        and isinstance(record["sha256"], str)
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(strict_json.dump(dict(manifest))).hexdigest()


def _refuse_existing(path: Path, contents: Mapping[str, bytes], replace: bool) -> None:
    if not os.path.lexists(path):
        return
    if not replace:
        raise UserError(f"{shown(path)} exists. Choose another name, or ask for it to be replaced.")
    present = {name for name in os.listdir(path) if not name.startswith(".")} if path.is_dir() else {path.name}
    foreign = sorted(present - set(contents))
    if foreign or path.is_symlink():
        raise UserError(f"{shown(path)} holds more than would be replaced ({', '.join(foreign[:3])}). Move it away.")


def _heal(path: Path) -> None:
    """Give a folder its name back if its replacement was interrupted; remove the old one if it was not."""
    old = path.with_name(OLD + path.name)
    if not os.path.lexists(old):
        return
    if os.path.lexists(path):
        _remove(old)
    else:
        os.rename(old, path)
        sync_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        _remove(path)
