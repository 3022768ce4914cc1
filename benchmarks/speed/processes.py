"""The orchestrator's side of a worker process, see ``worker.py``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"


class Unable(Exception):
    """A peer cannot do a workload, or its process ended."""


class Process:
    """A running peer that has done its first epoch.

    Args:
        python: the interpreter of its environment.
        peer: its name.
        workload: the name of the workload.
        data: the npz file.
        seed: of its weights, order and noise.
        folder: where its log and its caches go, and where it runs.

    ``first_step`` is the time from its start to its first step, seconds.

    Raises:
        Unable: with the reason.
    """

    def __init__(self, python: Path, peer: str, workload: str, data: Path, seed: int, folder: Path) -> None:
        self.peer, self.log = peer, folder / f"{peer}-{workload}-{seed}.log"
        command = [str(python), str(WORKER), peer, workload, str(data), str(seed)]
        caches = {name: str(folder / "caches" / name) for name in ("SFUMATO_CACHE", "TORCHINDUCTOR_CACHE_DIR")}
        environment = {**os.environ, **caches, "JAX_PLATFORMS": "cpu"}
        begin = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=folder,
            )
        self._write({"do": "epochs", "count": 1})
        self._read()
        self.first_step = time.perf_counter() - begin
        self._read()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            Unable: the process ended.
        """
        self._write({"do": do, **arguments})
        return self._read()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _write(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has said why it cannot, or its log has
            print(json.dumps(request), file=self.process.stdin, flush=True)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = [text for text in self.log.read_text().splitlines() if text.strip()]
            raise Unable(f"its process ended: {said[-1].strip() if said else 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        if "cannot" in answer:
            raise Unable(answer["cannot"])
        return answer
