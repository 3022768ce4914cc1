"""The results of the proofs as a file with a birth certificate, and the page of the docs that is made from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from proofs import ROOT
from proofs.catalogue import CATALOGUE
from proofs.short_forms import SHORT_FORMS

PAGE = ROOT / "docs" / "reliability.md"
RESULT = ROOT / "benchmarks" / "results" / "reliability.json"
HEAD = """# Reliability

What is promised, how each promise was tried, and what is *not* promised. The table is written by `python -m proofs
--write` from `benchmarks/results/reliability.json`; nothing in it is typed by hand. Try it yourself with `make hard`
(an hour on two cores; `HARD=full make hard` goes on to the aims, however long it takes).

## What is promised

* **A training that was interrupted goes on bit for bit**, on the same machine with the same versions: weights,
  averages, moments, schedule, order of the data, noise, metrics. By a signal, a kill, a power cut, a full disk.
* **What was announced as saved is there**, whole, or is named as damaged and the one before is used. A checkpoint, a
  model folder and a file are complete or absent at every moment.
* **A step that goes wrong costs itself** and nothing else. Nothing that is not finite is kept as good.
* **A file holds data, never a program.** Loading a model runs nothing, opens nothing for writing, asks no network.
* **What cannot be read gets one sentence**: what was expected, what came, what to do; exit code 2.
"""
NOT_PROMISED = """
## What is not promised

* Bit-exactness on another machine, version of torch, number of threads, device or number of processes. A resumed run
  says so ("bit-exact not promised: ..."); batches and schedules are still the same.
* A disk that lies: one that says "synced" and has not written. No program can tell.
* A memory that flips bits in the only process. Several processes compare their weights and find it; one has nobody
  to compare with.
* Two computers that write to one run folder over a network disk whose locks do nothing.
* Files that a person, or another program, changes on purpose together with their manifest: the sums find accidents,
  they are no signature. Load models from people you trust, for what they compute; what they can *do* is in
  `SECURITY.md`.
* That a proof has met every case. The columns say how many it has; the seed repeats them.
"""


def write_results(found: Mapping[str, Mapping[str, Any]], seconds: float, seed: int) -> None:
    """Put what was found into the result file; proofs that did not run now keep what they had."""
    sys.path.append(str(ROOT / "benchmarks"))
    from certificate import certificate, write_result

    mark = certificate(recipe=f"python -m proofs --seconds {seconds:g} --seed {seed}", seeds=[seed])
    before = json.loads(RESULT.read_text())["proofs"] if RESULT.exists() else {}
    birth = {"commit": mark["commit"], "budget_seconds": seconds, "seed": seed}
    proofs = before | {number: {**one, **birth} for number, one in found.items()}
    write_result("reliability", {**mark, "proofs": {name: proofs[name] for name in CATALOGUE if name in proofs}})


def write_page() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(RESULT.read_text())))


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        HEAD,
        "## How it was tried",
        "",
        f"{machine['processor']}, {machine['cores']} cores, Python {versions['python']}, torch {versions['torch']}. "
        "A *case* is one try; *fired* counts the kills that killed, the faults that were met, the damages that "
        "were made. *Aim* is the number of the full run. A planted error is a mutant of sfumato that it must find.",
        "",
        "| | proof | cases | fired | failures | aim | planted errors found | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for number, one in result["proofs"].items():
        red = one["mutants"].values()
        errors = f"{sum(red)} of {len(red)}" if red else "not planted"
        cells = [number, CATALOGUE[number].about, f"{one['cases']:,}", f"{one['fired']:,}", len(one["failures"])]
        lines.append("| " + " | ".join(map(str, [*cells, f"{one['aim']:,}", errors, f"{one['seconds']:.0f}"])) + " |")
    missing = [number for number in CATALOGUE if number not in result["proofs"]]
    lines += ["", *(f"* {number}: {one['note']}" for number, one in result["proofs"].items() if one["note"])]
    lines += [
        f"* {number} found: {failure}" for number, one in result["proofs"].items() for failure in one["failures"][:3]
    ]
    if missing:
        lines.append(f"* Not run yet: {', '.join(missing)}.")
    forms = sum(map(len, SHORT_FORMS.values()))
    lines += ["", f"Their short forms, {forms} tests, run with every `make test`; `proofs/short_forms.py` names them."]
    return "\n".join(lines) + "\n" + NOT_PROMISED
