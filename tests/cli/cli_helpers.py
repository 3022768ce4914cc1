"""What the tests of the command line share: a command's result, a process of its own, a listing."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from training_helpers import Child

from sfumato.cli.main import run
from sfumato.verbs import listeners

STEPS = ["--steps", "20", "--latent-dim", "3"]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


def environment() -> dict[str, str]:
    """Return the environment of a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


@contextmanager
def rare_evaluations() -> Iterator[None]:
    """Let trainings be evaluated and saved four times, not 25 times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(import_module("sfumato.recipes.plan")), "EVALUATIONS", 4)
        yield


@contextmanager
def short_reports() -> Iterator[None]:
    """Let something stand where the report stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listeners, "write_report", lambda path, **content: Path(path).write_text("<html>"))
        yield


class Started:
    """A command in a fork of this process, which has imported what a new interpreter would import for seconds.

    Args:
        arguments: of the command.
        folder: where it runs.
        terminal: an open file that is its standard output and error; without one they are kept.
        fresh: do begin a new interpreter, as a user does.
        variables: what it sees besides.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        terminal: int | None = None,
        fresh: bool = False,
        **variables: str,
    ) -> None:
        self._said = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - read when it has ended

        def work() -> int:
            os.environ.update(variables)
            PartialState._reset_state()  # a process that begins has met nobody
            os.chdir(folder)
            for number, file in enumerate(self._said, 1):
                os.dup2(file.fileno() if terminal is None else terminal, number)
            if fresh:
                os.execve(sys.executable, [sys.executable, "-m", "sfumato", *arguments], environment())
            with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                return run(arguments)

        self._child: Any = Child(work)  # type: ignore[no-untyped-call]
        self.poll, self.send_signal, self.kill = self._child.poll, self._child.kill, self._child.kill

    def communicate(self, timeout: float = 200) -> tuple[int, str, str]:
        """Wait for its end; return its exit code and what it said on standard output and error."""
        code = self._child.wait(timeout)
        said = []
        for file in self._said:
            with file:
                file.seek(0)
                said.append(file.read())
        return code, *said


def tree(folder: Path) -> set[str]:
    """Return everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
