"""Run the proofs: ``python -m proofs --seconds 3600 --seed 0 [--only T2 ...] [--full] [--mutants] [--write]``.

Each runs in a process of its own, two at a time, within its share of the time. One line a proof; the exit code is 1
when one of them found a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from proofs.catalogue import CATALOGUE, proof
from proofs.proof import Budget, turned_red, workspace
from proofs.table import write_page, write_results

AT_ONCE = min(2, len(os.sched_getaffinity(0)))
LOOKING = 90.0  # seconds at least for a planted error, which ends at the first failure
PATIENCE = 4.0  # times its share: then a proof that hangs is ended


def prove(number: str, seconds: float, seed: int, full: bool, mutants: bool) -> dict[str, Any]:
    """Return what a proof found, ready for json."""
    module, begin = proof(number), time.monotonic()
    found = module.run(Budget(module.AIM, float("inf") if full else seconds), seed).plain()
    red: dict[str, bool] = {}
    for name in module.mutants() if mutants else ():
        said = turned_red(module, name, Budget(module.AIM, max(seconds, LOOKING)), seed)
        if not said.startswith("NOT PROVEN HERE"):
            red[name] = bool(said)
    return found | {"aim": module.AIM, "seconds": round(time.monotonic() - begin, 1), "mutants": red}


def line(number: str, found: dict[str, Any]) -> str:
    """Return the one line of a proof."""
    missed = [name for name, red in found["mutants"].items() if not red]
    words = f"{number:4} {found['cases']:>7,} cases  {found['fired']:>7,} fired  {len(found['failures']):>3} failures"
    words += f"  {found['seconds']:>6.0f} s  {CATALOGUE[number].about}"
    words += f"  [{found['note']}]" if found["note"] else ""
    words += f"  MUTANTS NOT FOUND: {', '.join(missed)}" if missed else ""
    return "\n     ".join([words, *found["failures"][:5]])


def _child(number: str, place: Path, arguments: argparse.Namespace, seconds: float) -> int:
    """Start a proof in a process of its own and return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        torch.set_num_threads(1)
        try:
            found = prove(number, seconds, arguments.seed, arguments.full, arguments.mutants)
        except Exception as error:
            traceback.print_exc()
            found = _broken(f"the proof itself ended: {type(error).__name__}: {error}")
        (place / "part").with_name(f"{number}.part").write_text(json.dumps(found))
        os.rename(place / f"{number}.part", place / f"{number}.json")
    finally:
        sys.stdout.flush()
        os._exit(0)


def _broken(sentence: str) -> dict[str, Any]:
    return {"cases": 0, "fired": 0, "failures": [sentence], "note": "", "aim": 0, "seconds": 0.0, "mutants": {}}


def _run_all(arguments: argparse.Namespace, numbers: list[str]) -> dict[str, dict[str, Any]]:
    shares = {number: CATALOGUE[number].share for number in numbers}
    unit = arguments.seconds * min(AT_ONCE, len(numbers)) / sum(shares.values())
    waiting = sorted(numbers, key=lambda number: -shares[number])
    working: dict[int, tuple[str, float]] = {}
    found: dict[str, dict[str, Any]] = {}
    with workspace(memory=False) as place:
        while waiting or working:
            while waiting and len(working) < AT_ONCE:
                number = waiting.pop(0)
                seconds = unit * shares[number]
                looking = LOOKING * len(proof(number).mutants()) * arguments.mutants
                limit = float("inf") if arguments.full else time.monotonic() + PATIENCE * seconds + looking + 300
                working[_child(number, place, arguments, seconds)] = (number, limit)
            for pid, (number, limit) in list(working.items()):
                ended = os.waitpid(pid, os.WNOHANG)[0]
                if not ended and time.monotonic() > limit:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    ended = pid
                if ended:
                    del working[pid]
                    file = place / f"{number}.json"
                    found[number] = json.loads(file.read_text()) if file.exists() else _broken("it did not end in time")
                    print(line(number, found[number]), flush=True)
            time.sleep(0.1)
    return {number: found[number] for number in CATALOGUE if number in found}


def main() -> int:
    """Run the proofs that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m proofs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all of them, on two cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(CATALOGUE), default=list(CATALOGUE), metavar="T1")
    parser.add_argument("--full", action="store_true", help="up to the aims, however long it takes")
    parser.add_argument("--mutants", action="store_true", help="also plant the errors that must turn them red")
    parser.add_argument("--write", action="store_true", help="write the results and the page that shows them")
    arguments = parser.parse_args()
    found = _run_all(arguments, arguments.only)
    if arguments.write:
        write_results(found, arguments.seconds, arguments.seed)
        write_page()
    missed = [name for one in found.values() for name, red in one["mutants"].items() if not red]
    return int(bool(missed) or any(one["failures"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
