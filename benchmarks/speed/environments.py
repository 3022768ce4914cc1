"""One virtual environment for each peer, made once and found again.

torch comes with the versions of the repository's constraints.txt, which pins it: where pip finds a CPU build of that
version it is small, elsewhere name an index of CPU builds in pip's own configuration. sfumato and the usual script run
in the environment that the benchmark itself runs in.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


@dataclass(frozen=True)
class Environment:
    """What a peer needs.

    Args:
        requirements: for pip; none: the benchmark's own environment.
        constrained: whether the repository's constraints hold.
        imports: what must be importable at the end.
    """

    requirements: tuple[str, ...] = ()
    constrained: bool = True
    imports: str = "numpy"


ENVIRONMENTS = {
    "sfumato": Environment(),
    "pythae": Environment(("pythae", "torch"), imports="pythae.models"),
    "jax": Environment(("jax", "flax", "optax", "numpy"), constrained=False, imports="flax.linen"),
    "script": Environment(),
    "disent": Environment(("disent", "torch"), imports="torch"),
    "autoencoders": Environment(("autoencoders[torch]", "torch"), imports="autoencoders.models.vae"),
}


class NotInstalled(Exception):
    """A peer's environment cannot be made."""


def interpreter(peer: str, folder: Path) -> Path:
    """Return the Python of a peer's environment, which is made when it is not there.

    Args:
        peer: its name.
        folder: where the environments are.

    Raises:
        NotInstalled: with the last line that pip or the import said.
    """
    wanted = ENVIRONMENTS[peer]
    if not wanted.requirements:
        return Path(sys.executable)
    python = folder / peer / "bin" / "python"
    complete = folder / peer / "complete"
    if not complete.exists():
        run([sys.executable, "-m", "venv", str(folder / peer)])
        constraints = ["-c", str(CONSTRAINTS)] if wanted.constrained else []
        print(f"installing {peer}", flush=True)
        run([str(python), "-m", "pip", "install", "--quiet", *constraints, *wanted.requirements])
        run([str(python), "-c", f"import {wanted.imports}"])
        complete.touch()
    return python


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        NotInstalled: it failed.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise NotInstalled(said[-1].strip() if said else f"{command[0]} ended with {done.returncode}")
