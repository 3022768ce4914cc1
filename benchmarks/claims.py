"""The article's claims: run all, and put pages, figures and the certified results where the documentation has them.

    python benchmarks/claims.py [FOLDER]

goes on with FOLDER (by default runs/claims-quick) where it stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from certificate import certificate, write_result
from sfumato.verbs.claims import claims

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/claims-quick")
    fresh, begin = not folder.exists(), time.monotonic()
    summary = claims(folder, quick=True, docs=DOCS, tell=lambda part, done, of: print(part, done, of, flush=True))
    wall = round(time.monotonic() - begin, 1) if fresh else None  # of all, not of what was left to do
    core = round(sum(claim["seconds"] for claim in summary["claims"].values()), 1)
    seeds = range(summary["setting"]["seeds"])
    result = {
        **certificate(recipe="sfumato claims --quick", seeds=seeds),
        "wall_seconds": wall,
        "core_seconds": core,
        **summary,
    }
    write_result("claims_quick", result)


if __name__ == "__main__":
    main()
