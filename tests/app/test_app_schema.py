"""schemathesis drives the service by its own OpenAPI document; nothing it finds may be wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app_helpers import application, saved, served, table_model


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path, table_model(classes=2, seen=True))
    with served(lambda bound: application(folder, page=False, house=bound.house)) as bound:
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{bound.address}openapi.json", "--seed", "1",
             "--max-examples", "10", "--generation-database", "none", "--suppress-health-check", "all",
             "--request-timeout", "20", "--no-color", "--phases", "examples,coverage,fuzzing"],
            capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6_000:]
    assert "9 / 9" in run.stdout or "selected" in run.stdout
