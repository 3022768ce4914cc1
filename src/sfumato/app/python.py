"""The explorer and the service from Python: a process of its own beside the notebook, ended with it."""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import webbrowser
from html import escape
from pathlib import Path
from typing import Any, Self

from sfumato.core.errors import SfumatoError, UserError

HEIGHT = 760


class Service:
    """A service that runs, in a process of its own.

    Args:
        process: that serves.
        address: where it answers.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        atexit.register(self.close)

    def __repr__(self) -> str:
        state = "running" if self.process.poll() is None else "ended"
        return f"{type(self).__name__}({self.address}, {state})"

    def close(self) -> None:
        """End it; twice is no mistake."""
        atexit.unregister(self.close)
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class Explorer(Service):
    """An explorer that runs, in a process of its own.

    Args:
        process: that serves.
        address: what to open in a browser.
        frame: the same with a ticket, which lets a notebook on this machine show it inline.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, frame: str) -> None:
        super().__init__(process, address)
        self.frame = frame

    def _repr_html_(self) -> str:
        url = escape(self.frame, quote=True)
        return (
            f'<iframe src="{url}" width="100%" height="{HEIGHT}" style="border:0" title="sfumato explorer"></iframe>'
            f'<p><a href="{escape(self.address, quote=True)}">{escape(self.address)}</a></p>'
        )


def explore(run: Any, port: int | None = None, open: bool | None = None, points: int = 5_000) -> Explorer:
    """Open the explorer of a run: inline in a notebook, in a tab of the browser elsewhere.

    Args:
        run: the folder of a run, also of one that still trains, or a model folder; or what ``train`` returned.
        port: by default the first free one from 8421 on; 0: any.
        open: a tab of the browser; None: where this is no notebook.
        points: how many training examples the map shows at most.

    Returns:
        the explorer; ``close`` it, or use it in a ``with``. It ends with this Python.

    Raises:
        UserError: not a run, or a port that is taken.
    """
    process, found = _started(run, {"what": "explorer", "port": port, "points": points})
    explorer = Explorer(process, found["address"], found["frame"])
    if open or (open is None and not _in_notebook()):
        webbrowser.open(explorer.address)
    return explorer


def serve(run: Any, port: int | None = None) -> Service:
    """Serve encode, decode, sample, reconstruct and score of a run over HTTP, for programs on this machine.

    Args:
        run: the folder of a run, or a model folder; or what ``train`` returned.
        port: by default the first free one from 8421 on; 0: any.

    Returns:
        the service; ``close`` it, or use it in a ``with``. It ends with this Python.

    Raises:
        UserError: not a run, or a port that is taken.
    """
    process, found = _started(run, {"what": "service", "port": port})
    return Service(process, found["address"])


def _started(run: Any, asked: dict[str, Any]) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Return the process that serves what was asked for, and where."""
    path = Path(getattr(run, "path", run))
    command = [sys.executable, "-m", "sfumato.app.child"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"run": str(path.absolute()), **asked}) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    ended = {"error": f"the {asked['what']} ended before it began.", "exit_code": 1}
    found: dict[str, Any] = json.loads(line) if line else ended
    if "error" in found:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        raise (UserError if found["exit_code"] == 2 else SfumatoError)(found["error"])
    return process, found


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
