"""How long it takes until something happens: the command's help, the import of the library, and torch's own.

    python benchmarks/start.py

Every number is the median of cold processes, in turns, so that all see the same machine. ``import`` lines are whole
processes less the empty one; ``ready`` is what a training needs, every name of the library touched.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from certificate import certificate, write_result

ROUNDS = 15
GOALS = {"help_seconds": 0.3, "import_adds_to_torch_seconds": 0.2}
TOUCH = "import sfumato; [getattr(sfumato, name) for name in sfumato.__all__]"


def commands() -> dict[str, list[str]]:
    """Return name -> what is started."""
    here = Path(sys.executable).with_name("sfumato")
    command = str(here) if here.exists() else shutil.which("sfumato") or "sfumato"
    python = [sys.executable, "-c"]
    return {
        "empty": [*python, "pass"],
        "help": [command, "--help"],
        "train_help": [command, "train", "--help"],
        "alone": [command],
        "mistake": [command, "train", "nowhere/"],
        "import_sfumato": [*python, "import sfumato"],
        "import_torch": [*python, "import torch"],
        "import_torch_and_sfumato": [*python, "import torch, sfumato"],
        "ready": [*python, f"import torch; {TOUCH}"],
    }


def main() -> None:
    what = commands()
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for round_number in range(ROUNDS + 1):
        for name, words in what.items():
            begin = time.perf_counter()
            subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if round_number:  # the first one reads files from the disk
                seconds[name].append(time.perf_counter() - begin)
    table = {
        name: {"median": statistics.median(found), "min": min(found), "max": max(found), "rounds": len(found)}
        for name, found in seconds.items()
    }
    pairs = zip(seconds["import_torch_and_sfumato"], seconds["import_torch"], strict=True)
    result = {
        "goals": GOALS,
        "help_seconds": table["help"]["median"],
        "import_adds_to_torch_seconds": statistics.median(both - torch for both, torch in pairs),
        "import_alone_seconds": table["import_sfumato"]["median"] - table["empty"]["median"],
        "processes": table,
    }
    for name, value in result.items():
        print(name, value)
    write_result("start", {**certificate(recipe="cold processes, files in the page cache", seeds=[]), **result})


if __name__ == "__main__":
    main()
