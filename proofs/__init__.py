"""The long proofs of reliability, T1 to T29: ``python -m proofs`` (``make hard``).

Each is a small module with ``run(budget, seed) -> Result`` and ``mutants()``: errors planted on purpose, each of which
must turn it red. Its short form runs with the tests; :mod:`proofs.short_forms` says where.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the proofs inject and compare with is what the tests inject and compare with.
with (ROOT / "pyproject.toml").open("rb") as _file:
    _FOLDERS = tomllib.load(_file)["tool"]["pytest"]["ini_options"]["pythonpath"]
for _folder in _FOLDERS:
    if str(ROOT / _folder) not in sys.path:
        sys.path.append(str(ROOT / _folder))
