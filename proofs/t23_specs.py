"""T23: attacks in the specification of a model, under an audit hook: nothing imported, run, connected or written."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from typing import Any

import pytest
from io_helpers import in_memory, tiny_spec

from proofs import ROOT
from proofs.proof import Budget, Mutants, Result
from sfumato.core import spec as spec_module
from sfumato.core.errors import UserError
from sfumato.io import folder as folder_module
from sfumato.io.folder import load_model

AIM, SHORT = 5_000, 700
WORDS = ("os.system", "eval", "__class__", "__init__", "spec_kind", "Tiny", "tiny", "nn.Linear", "../Tiny", "Tіny", "")
KEYS = (
    "class",
    "__class__",
    "__init__",
    "_arguments",
    "spec_kind",
    "part",
    "width",
    "flag",
    "scale",
    "scratch",
    "kind",
)
VALUES: tuple[Any, ...] = (
    *WORDS, None, True, -1, 0, 10**30, 65_537, 2**62, 1.5, -0.0, 1e308, [], [[]], {}, {"class": "Tiny"}, "x" * 5_000,
)  # fmt: skip


def run(budget: Budget, seed: int) -> Result:
    """Look at the known names in a process with a watch, then build random trees here, with a watch too."""
    result, dice = Result(), random.Random(seed)
    _watched(result)
    events: list[str] = []
    watching = [True]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and event.startswith(("os.system", "subprocess.", "socket.", "pickle.", "os.exec", "ctypes.")):
            events.append(event)

    sys.addaudithook(watch)
    while budget.open(result.cases):
        tree = _mutated(tiny_spec(), dice)
        with result.case(json.dumps(tree)[:150]), in_memory(tree):
            try:
                load_model("model", kind="tiny")
            except UserError as error:
                result.fired += 1
                text = str(error)
                if "\n" in text or not text.endswith((".", "?")):
                    raise AssertionError(f"no sentence: {text}") from error
    watching.clear()
    result.require(not events, f"happened while loading: {events[:5]}")
    return result


def _watched(result: Result) -> None:
    """Load hostile and good models in a process of its own; see ``tests/io/io_watch.py``."""
    script = ROOT / "tests" / "io" / "io_watch.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    with result.case("the watch", 0):
        report = json.loads(done.stdout)
        result.cases, result.fired = report["names"], report["names"] - len(report["not refused"])
        result.require(not report["not refused"], f"not refused: {report['not refused'][:5]}")
        result.require(not report["forbidden"], f"happened while loading: {report['forbidden'][:5]}")
        result.require(bool(report["seen by the watch"]), "the watch saw nothing at all")


def _mutated(tree: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    spots = [tree, tree["part"]]
    for _ in range(dice.randint(1, 3)):
        spot = dice.choice(spots)
        key = dice.choice(KEYS)
        if dice.random() < 0.2:
            spot.pop(key, None)
        elif dice.random() < 0.3:
            spot["class"] = dice.choice(WORDS)
        else:
            spot[key] = dice.choice(VALUES)
    return tree


def walks(patch: pytest.MonkeyPatch) -> None:
    """Look a name up in Python when the room does not have it, and call it."""
    right = spec_module.from_spec

    def from_spec(tree: Any, kind: str, where: str = "config") -> Any:
        name = tree.get("class") if isinstance(tree, dict) else None
        if name == "os.system":
            return importlib.import_module("os").system("true")
        return right(tree, kind, where)

    patch.setattr(spec_module, "from_spec", from_spec)
    patch.setattr(folder_module, "from_spec", from_spec)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"names that are looked up elsewhere": walks}
