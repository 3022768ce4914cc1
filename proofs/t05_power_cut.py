"""T5: power cuts on a real ext4: the image under a mounted disk is copied while it is written; the copy is loaded."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from io_crash import no_file_sync, no_folder_sync
from io_helpers import is_right, save
from training_helpers import Child

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.io.checkpoints import Checkpoints

AIM, SHORT = 1_000, 12
OPTIONS = "loop,noauto_da_alloc"  # without ext4's own guess that a rename wants its file to be whole


def run(budget: Budget, seed: int) -> Result:
    """Write checkpoints without end, and cut now and then. The moments are the machine's; the seed changes nothing."""
    result, lost = Result(), 0
    with workspace() as place:
        disk = place / "disk"
        disk.mkdir()
        image = place / "image"
        image.write_bytes(b"")
        os.truncate(image, 8 << 20)
        made = _do("mkfs.ext4", "-q", "-F", "-b", "1024", "-J", "size=1", str(image))
        mounted = made or _do("mount", "-o", OPTIONS, str(image), str(disk))
        if mounted:
            result.note = f"NOT PROVEN HERE: a disk in a file could not be mounted ({mounted})"
            return result
        try:
            lost = _cuts(budget, result, disk, image, place)
        finally:
            while os.path.ismount(disk) and not _do("umount", str(disk)):
                pass
    result.note = f"{lost} copies were not of one moment and are not counted; ext4, {OPTIONS}"
    return result


def _cuts(budget: Budget, result: Result, disk: Path, image: Path, place: Path) -> int:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def writes() -> int:
        step = 0
        while True:
            step += 3
            save(disk / "checkpoints", step)
            os.write(writer, step.to_bytes(8, "little"))

    child, unstable, announced = Child(writes), 0, 0
    try:
        while budget.open(result.cases):
            if result.cases % 2:
                time.sleep(0.03)
                data = os.read(reader, 1 << 20) if _ready(reader) else b""
            else:  # the moment after an announcement
                while _ready(reader):
                    os.read(reader, 1 << 20)
                data = os.read(reader, 1 << 20) if _ready(reader, 10) else b""
            child.kill(signal.SIGSTOP)
            announced = int.from_bytes(data[-8:], "little") if data else announced
            copy = _copied(image, place / "copy")
            child.kill(signal.SIGCONT)
            assert child.poll() is None, "the writer ended"
            if copy is None:
                unstable += 1
                continue
            with result.case(f"cut {result.cases + 1}, step {announced} was announced"):
                _load(copy, place / "look", announced)
                result.fired += 1
    finally:
        child.kill()
        child.wait()
        os.close(reader)
        os.close(writer)
    return unstable


def _ready(reader: int, seconds: float = 0) -> bool:
    return bool(select.select([reader], [], [], seconds)[0])


def _copied(image: Path, copy: Path) -> Path | None:
    """Return a copy of what the disk holds at one moment: two copies after each other are the same."""
    before = image.read_bytes()
    for _ in range(20):
        after = image.read_bytes()
        if after == before:
            copy.write_bytes(after)
            return copy
        before = after
    return None


def _load(copy: Path, look: Path, announced: int) -> None:
    look.mkdir(exist_ok=True)
    problem = _do("mount", "-o", "loop", str(copy), str(look))
    assert not problem, problem
    try:
        checkpoints = Checkpoints(look / "checkpoints")
        found = checkpoints.latest()
        assert (found.step if found else 0) >= announced, f"an announced checkpoint is lost: {checkpoints.warnings}"
        assert found is None or is_right(found), "a wrong checkpoint was accepted"
        assert not checkpoints.warnings, checkpoints.warnings
    finally:
        _do("umount", str(look))


def _do(*command: str) -> str:
    """Run a command; return what it complains of, or ''."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a writer without fsync": no_file_sync, "without fsync of the folder": no_folder_sync}
