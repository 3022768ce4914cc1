"""Talk that nobody hears any more: the work goes on."""

from __future__ import annotations

import os
import pty

import pytest
from rich.console import Console

from sfumato.cli.printing import Talk


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_closed_pipe_or_terminal_is_silence(kind: str) -> None:
    ours, theirs = pty.openpty() if kind == "terminal" else os.pipe()
    with os.fdopen(theirs, "w") as stream:
        os.close(ours)
        console = Console(file=Talk(stream))  # type: ignore[arg-type]
        for _ in range(3):
            console.print("is anybody there?")
        assert os.readlink(f"/proc/self/fd/{theirs}") == os.devnull


def test_what_is_heard_is_said() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as stream:
        Console(file=Talk(stream)).print("hello")  # type: ignore[arg-type]
    with os.fdopen(ours) as reader:
        assert reader.read() == "hello\n"
