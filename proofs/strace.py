"""Kills and errors at a chosen system call of a process, by strace: the program knows nothing of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training_helpers import Child

CALLS = (
    "openat,read,write,pread64,lseek,close,fstat,newfstatat,statfs,getdents64,fsync,fdatasync,ftruncate,flock,"
    "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir"
)


@dataclass(frozen=True)
class Call:
    """One system call of a process: the ``number``-th, from 1, of its ``name``; strace counts each name by itself."""

    name: str
    number: int


@dataclass(frozen=True)
class Traced:
    """How a traced process ended.

    Args:
        code: its exit code, negative for a signal.
        calls: those of :data:`CALLS` that it made.
        injected: whether the injection happened.
    """

    code: int
    calls: tuple[Call, ...]
    injected: bool


def why_not() -> str:
    """Return why no process can be traced here, or ''."""
    if shutil.which("strace") is None:
        return "NOT PROVEN HERE: this system has no strace"
    try:
        traced(lambda: None)
    except RuntimeError as error:
        return f"NOT PROVEN HERE: {error}"
    return ""


def traced(work: Callable[[], object], call: Call | None = None, injection: str = "signal=SIGKILL") -> Traced:
    """Do ``work`` in a child with an injection at one of its system calls about files.

    Args:
        work: what the child does.
        call: where; None: nowhere.
        injection: as strace writes it: "signal=SIGKILL", "error=EIO".

    Raises:
        RuntimeError: the child could not be traced.
    """
    reader, writer = os.pipe()

    def waits() -> int:
        os.read(reader, 1)  # the first call that is seen
        work()
        return 0

    child = Child(waits)
    log = Path(f"/tmp/sfumato-strace-{os.getpid()}-{child.pid}")
    command = ["strace", "-f", "-qq", "-o", str(log), "-p", str(child.pid), "-e", f"trace={CALLS}"]
    if call is not None:
        command += ["-e", f"inject={call.name}:{injection}:when={call.number + (call.name == 'read')}"]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _attached(child.pid, tracer)
        os.write(writer, b"x")
        code = child.wait()
        tracer.wait(60)
        lines = log.read_text(errors="replace").splitlines()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        tracer.kill()
        tracer.communicate()
        log.unlink(missing_ok=True)
        os.close(reader)
        os.close(writer)
    names = [found[1] for found in (re.match(r"\d+ +(\w+)\(", line) for line in lines) if found][1:]
    calls = tuple(Call(name, names[: place + 1].count(name)) for place, name in enumerate(names))
    return Traced(code, calls, code == -signal.SIGKILL or any("INJECTED" in line for line in lines))


def _attached(pid: int, tracer: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > end:
            reason = (tracer.stderr.read() if tracer.stderr else "").strip()
            raise RuntimeError(f"strace could not attach ({reason[-200:]})")
        time.sleep(0.005)
    time.sleep(0.02)
