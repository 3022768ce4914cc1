"""The run folder: where everything of one training lives, its lock, and its log of metrics."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.store import DamagedError, explained, shown


class RunFolder:
    """The places of a run. Nothing is made before :meth:`create`.

    Args:
        path: the folder of the run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run = self.path / "run.json"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.report = self.path / "report.html"
        self.evaluation = self.path / "evaluation.json"
        self.metrics = Metrics(self.path / "metrics.jsonl")

    def create(self) -> RunFolder:
        """Make the folder.

        Raises:
            UserError: something is there already (an empty folder is taken).
        """
        self.refuse_existing()
        store.make_folder(self.path)
        return self

    def refuse_existing(self) -> None:
        """Raise UserError when something is there already (an empty folder is taken)."""
        if os.path.lexists(self.path) and not (self.path.is_dir() and not os.listdir(self.path)):
            raise UserError(
                f"{shown(self.path)} exists. Choose another with --out, or go on with --resume {shown(self.path)}."
            )

    def lock(self) -> RunLock:
        """Return the lock of the run, to be held (``with``) for as long as it trains."""
        return RunLock(self.path)

    def write_run(self, decisions: Mapping[str, Any]) -> None:
        """Write ``run.json``: everything that was decided."""
        data = strict_json.dump(dict(decisions))
        strict_json.parse(data, shown(self.run))  # what could not be read again is not written
        store.write_file(self.run, data)

    def read_run(self) -> dict[str, Any]:
        """Return the content of ``run.json``.

        Raises:
            UserError: no such folder. DamagedError: the file is missing or cut.
        """
        if not self.path.is_dir():
            raise UserError(f"{shown(self.path)} is not a folder. Give the folder of a run.")
        if not self.run.is_file():
            raise DamagedError(f"{shown(self.run)} is missing. Give the folder of a run, or an intact copy of it.")
        with explained(self.run, "read"):
            data = self.run.read_bytes()
        try:
            content = strict_json.parse(data, shown(self.run))
        except (UserError, ValueError) as error:
            raise DamagedError(f"{shown(self.run)} is damaged: {error}") from None
        if not isinstance(content, dict):
            raise DamagedError(f"{shown(self.run)} is not the description of a run. Use the original file.")
        return content

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Write ``evaluation.json``; a number that is not finite is written as null."""
        store.write_file(self.evaluation, strict_json.dump(finite(evaluation)))

    def read_evaluation(self) -> dict[str, Any] | None:
        """Return the content of ``evaluation.json``, or None where there is none yet."""
        if not self.evaluation.is_file():
            return None
        with explained(self.evaluation, "read"):
            content = strict_json.parse(self.evaluation.read_bytes(), shown(self.evaluation))
        return content if isinstance(content, dict) else None

    def open_checkpoints(self, keep: int = 2) -> Checkpoints:
        """Return the checkpoints of the run."""
        return Checkpoints(self.checkpoints, keep)


class Metrics:
    """A log with one line of json for each logged step, that a resumed run continues byte for byte.

    Args:
        path: the file, made with the first line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line. A number that is not finite is written as null.

        Raises:
            NoRoom: the disk is full; the file is as it was before.
        """
        line = json.dumps(finite(values), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
        with explained(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                try:
                    rest = memoryview(line.encode())
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                    if not size:  # it may be new
                        store.sync_folder(self.path.parent)
                except BaseException:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def size(self) -> int:
        """Return the length in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def position(self) -> int:
        """Return the length in bytes, made durable, to be saved in the checkpoint of the same step."""
        if not self.path.exists():
            return 0
        with explained(self.path):
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                store.sync_file(descriptor)
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)

    def truncate(self, position: int) -> None:
        """Cut the log back to what it was when a checkpoint was written.

        Raises:
            DamagedError: it is missing or shorter than that.
        """
        size = self.size()
        if size < position:
            what = f"has {size:,} bytes" if self.path.exists() else "is missing"
            raise DamagedError(
                f"{shown(self.path)} {what}; when the checkpoint was written it had {position:,} bytes. "
                "Use an intact copy of the run."
            )
        if size > position:
            with explained(self.path):
                descriptor = os.open(self.path, os.O_WRONLY)
                try:
                    os.ftruncate(descriptor, position)
                    store.sync_file(descriptor)
                finally:
                    os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Return the lines; a last one that was cut in the middle is left out, no file is no lines.

        Raises:
            DamagedError: a line before the last one is not json.
        """
        if not self.path.exists():
            return []
        with explained(self.path, "read"):
            lines = self.path.read_bytes().split(b"\n")
        result = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                value = strict_json.parse(line, "line")
            except (UserError, ValueError):
                value = None
            if not isinstance(value, dict):
                raise DamagedError(f"{shown(self.path)}, line {number}, is damaged. Use an intact copy of the run.")
            result.append(value)
        return result


class RunLock:
    """Held for the life of a training, so that a run has one writer. The system frees it when the process ends.

    Args:
        path: the folder of the run.

    Raises:
        UserError: on entering, when another process holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        with explained(self.path / ".lock"):
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise UserError(
                    f"another process is training in {shown(self.path)}. Wait for its end, or choose another --out."
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def finite(value: Any) -> Any:
    """Return ``value`` with None for every number in it that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
