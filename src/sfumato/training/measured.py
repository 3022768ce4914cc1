"""What the search for the fastest step found, remembered between trainings in the folder for caches.

A file that is missing, damaged, or cannot be written costs a search and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from sfumato.core.errors import SfumatoError
from sfumato.core.paths import cache_folder
from sfumato.core.strict_json import parse
from sfumato.io.store import write_file


class Measured:
    """The seconds of every way to compute a step.

    Args:
        surroundings: everything that they depend on, as plain json.
    """

    def __init__(self, surroundings: Mapping[str, Any]) -> None:
        self.surroundings = dict(surroundings)
        digest = hashlib.sha256(json.dumps(self.surroundings, sort_keys=True).encode()).hexdigest()
        self.path = cache_folder() / "engine" / f"{digest[:32]}.json"

    def read(self) -> dict[str, float]:
        """Return name -> seconds, or nothing."""
        try:
            known = parse(self.path.read_bytes(), self.path.name)
        except (OSError, SfumatoError):
            return {}
        found = known.get("seconds") if isinstance(known, dict) else None
        if not isinstance(found, dict) or known.get("surroundings") != self.surroundings:
            return {}
        numbers = all(isinstance(each, float) and math.isfinite(each) and each > 0 for each in found.values())
        return found if numbers else {}

    def write(self, seconds: Mapping[str, float]) -> None:
        """Keep name -> seconds for next time."""
        content = {"surroundings": self.surroundings, "seconds": dict(seconds)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.path, json.dumps(content, indent=2).encode())
        except (OSError, SfumatoError):
            pass
