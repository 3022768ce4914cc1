"""T27: train, report, load, encode without a network: it works, and nothing but loopback is connected to."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from proofs.proof import Budget, Mutants, Result, workspace

AIM, SHORT = 5, 0
SCRIPT = """
import os, sys
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append(f"{event} {args[1:] if event == 'socket.connect' else args}")
sys.addaudithook(watch)
LOUD
from sfumato.cli.main import run
commands = [
    ["inspect", "x.npz"],
    ["train", "x.npz", "--steps", "12", "--latent-dim", "2", "--out", "run", "--quiet"],
    ["report", "run"],
    ["info", "run"],
    ["evaluate", "run"],
    ["sample", "run", "-n", "4", "-o", "s.png"],
    ["encode", "run", "-o", "z.npz"],
    ["doctor"],
]
codes = [run(command) for command in commands]
import sfumato
sfumato.load("run/model").sample(2)
print("CODES", codes, "ASKED", asked, file=sys.stderr)
sys.exit(max(codes) or bool([each for each in asked if "127.0.0.1" not in each and "::1" not in each]))
"""


def run(budget: Budget, seed: int) -> Result:
    """Do it in a namespace that has nothing but loopback, and, where none can be made, with a watch alone."""
    result = Result()
    can = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    before = ["unshare", "-rn"] if can.returncode == 0 else []
    result.note = "" if before else f"no namespace could be made ({can.stderr.strip()}): watched only"
    with workspace() as place:
        while budget.open(result.cases):
            folder = place / str(result.cases)
            folder.mkdir()
            dice = np.random.default_rng(seed + result.cases)
            np.savez(folder / "x.npz", x=dice.integers(0, 256, (80, 8, 8)).astype(np.uint8), y=np.arange(80) % 3)
            with result.case(f"run {result.cases}"):
                _whole(folder, before)
                result.fired += 1
    return result


def _whole(folder: Path, before: list[str]) -> None:
    script = textwrap.dedent(SCRIPT).replace("LOUD", LOUD)
    done = subprocess.run(
        [*before, sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr.strip()[-350:]
    for name in ("run/report.html", "run/model/config.json", "s.png", "z.npz"):
        assert (folder / name).stat().st_size > 0, f"{name} is empty"


LOUD = ""


def asks(patch: pytest.MonkeyPatch) -> None:
    """Ask for a newer version at the start."""
    patch.setattr(
        sys.modules[__name__],
        "LOUD",
        "import contextlib, socket\n"
        "with contextlib.suppress(OSError): socket.create_connection(('192.0.2.1', 80), 0.1)",
    )


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"a program that asks for news": asks}
