"""The plan of the house, kept by machine: rooms, sizes, side effects, forbidden names."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import sfumato
from sfumato.core.spec import REGISTRY

SOURCE = Path(sfumato.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LINES = 500

HEAVY = (
    "torch",
    "numpy",
    "matplotlib",
    "accelerate",
    "PIL",
    "safetensors",
    "pandas",
    "pyarrow",
    "tensorboard",
    "sklearn",
    "narwhals",
)
EXECUTABLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.save", "torch.load", "torch.hub.load", "torch.jit.load", "eval", "exec"}
UNSAFE_YAML = {"Loader", "FullLoader", "UnsafeLoader", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}
ACCELERATE_HOME = "training/runtime.py"
ACCELERATE_STATE = {
    "save_state",
    "load_state",
    "skip_first_batches",
    "even_batches",
    "prepare_data_loader",
    "register_for_checkpointing",
}
ROOM_OF = {
    "network": "networks",
    "bottom_up": "networks.ladder",
    "top_down": "networks.ladder",
    "prior": "priors",
    "posterior": "posteriors",
    "likelihood": "likelihoods",
    "objective": "objectives",
    "schedule": "core.schedules",
    "model": "models",
    "packaged": "models",
    "preprocessing": "data",
}


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {relative(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def in_a_fresh_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_go_down_only() -> None:
    program = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SOURCE.parents[1], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imports go down only KEPT" in done.stdout


def test_no_file_holds_two_ideas() -> None:
    long = {relative(path): count for path in FILES if (count := len(path.read_text("utf-8").splitlines())) > LINES}
    assert not long, f"at most {LINES} lines: {long}"


def test_importing_the_package_is_light() -> None:
    program = f"import sys, json, sfumato; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    assert json.loads(in_a_fresh_python(program)) == []


def test_importing_every_room_changes_nothing() -> None:
    program = """
import importlib, json, logging, os, pkgutil, random, signal, warnings
import numpy, torch, matplotlib, PIL.Image
import rich.console, sklearn  # one draws a random number when it is imported, the other sets environment variables
import sfumato

def state():
    return {
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "noise": torch.get_rng_state().tolist(),
        "numpy noise": str(numpy.random.get_state()),
        "python noise": str(random.getstate()),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "logging": [repr(handler) for handler in logging.getLogger().handlers] + [logging.getLogger().level],
        "own logging": [repr(handler) for handler in logging.getLogger("sfumato").handlers],
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "settings": {key: str(value) for key, value in matplotlib.rcParams.items()},
        "pixels": PIL.Image.MAX_IMAGE_PIXELS,
        "folder": os.getcwd(),
    }

before = state()
for found in pkgutil.walk_packages(sfumato.__path__, "sfumato."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""
    assert json.loads(in_a_fresh_python(program).splitlines()[-1]) == []


def test_nothing_executable_is_read_or_written(trees: dict[str, ast.Module]) -> None:
    found = []
    for name, tree in trees.items():
        found += [f"{name}:{line} {module}" for module, line in imported(tree) if module.split(".")[0] in EXECUTABLE]
        found += [f"{name}:{line} {module}" for module, line in imported(tree) if module in FORBIDDEN_CALLS]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and dotted(node.value) == "yaml" and node.attr in UNSAFE_YAML:
                found.append(f"{name}:{node.lineno} yaml.{node.attr}")
            if not isinstance(node, ast.Call):
                continue
            if dotted(node.func) in FORBIDDEN_CALLS:
                found.append(f"{name}:{node.lineno} {dotted(node.func)}")
            for keyword in node.keywords:
                safe = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "allow_pickle" and not safe:
                    found.append(f"{name}:{node.lineno} allow_pickle")
    assert not found


def test_accelerate_lives_in_one_file_and_keeps_no_state(trees: dict[str, ast.Module]) -> None:
    homes = {
        name for name, tree in trees.items() for module, _ in imported(tree) if module.split(".")[0] == "accelerate"
    }
    assert homes <= {ACCELERATE_HOME}
    found = [
        f"{name}:{node.lineno} {word}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        for word in (getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "arg", None))
        if word in ACCELERATE_STATE
    ]
    assert not found


def registered() -> list[tuple[str, type]]:
    for room in set(ROOM_OF.values()):
        import_module(f"sfumato.{room}")
    return [
        (kind, cls)
        for kind in ROOM_OF
        for cls in REGISTRY.get(kind, {}).values()
        if cls.__module__.startswith("sfumato.")
    ]


def test_what_a_file_can_name_is_public_so_that_the_contracts_see_it() -> None:
    hidden = [
        f"{kind} {cls.__name__}"
        for kind, cls in registered()
        if cls.__name__ not in import_module(f"sfumato.{ROOM_OF[kind]}").__all__
    ]
    assert not hidden


def test_members_of_rooms_are_final() -> None:
    """One abstract level: a base for each room, final classes under it; to tweak one, wrap it."""
    assert not [cls.__name__ for _, cls in registered() if not getattr(cls, "__final__", False)]
