"""Runs the claims: seeds in as many processes as there are cores, one torch thread each; goes on where it stopped.

    FOLDER/setting.json                     what every number follows from
    FOLDER/measured/05-noise-adapts-2.json  claim 5, seed 2: written when it is measured
    FOLDER/claims.json                      results of all claims that are finished, with every seed's numbers
    FOLDER/article.md, article.zh.md, images/claims/*.png

A seed does its claims one after the other and trains what several of them need only once. The seeds of a process train
at once where that is faster. What was measured is never
measured again; conclusions, figures and pages are made anew each time, which costs nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sfumato.claims.bench import Bench, Material
from sfumato.claims.catalogue import CLAIMS
from sfumato.claims.claim import Claim, Seeds, Setting, checked_measurement, find_claims, plain
from sfumato.claims.meeting import Meeting, Seat
from sfumato.claims.pages import write_pages
from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.io import store

Tell = Callable[[str, int, int], None]
LOOK_EVERY = 0.5


def run_claims(
    setting: Setting,
    folder: Path,
    *,
    only: Sequence[int] | None = None,
    force: bool = False,
    workers: int | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure what is not measured yet, conclude, draw, and write the pages.

    Args:
        setting: how much is spent.
        folder: where everything goes; may hold a part of the same.
        only: the numbers of the claims; None: all.
        force: measure these claims again.
        workers: processes; None: one for each core, and no more than there are seeds.
        tell: called as tell("claims", measurements done, of) when one more is there.

    Returns:
        what is in ``claims.json``.

    Raises:
        UserError: no such claim, or the folder holds results of another setting.
    """
    claims = find_claims(CLAIMS, only)
    _take_folder(folder, setting)
    if force:
        for claim in claims:
            for seed in range(setting.seeds):
                measured_path(folder, claim, seed).unlink(missing_ok=True)
    jobs = {
        seed: [claim.number for claim in claims if not measured_path(folder, claim, seed).exists()]
        for seed in range(setting.seeds)
    }
    jobs = {seed: numbers for seed, numbers in jobs.items() if numbers}
    if jobs:
        _measure(setting, folder, jobs, workers or min(len(jobs), cores()), tell)
    return conclude(setting, folder)


def conclude(setting: Setting, folder: Path) -> dict[str, Any]:
    """Decide about every claim whose seeds are all measured; write ``claims.json``, figures and pages."""
    finished = {}
    for number, claim in CLAIMS.items():
        paths = [measured_path(folder, claim, seed) for seed in range(setting.seeds)]
        if all(path.exists() for path in paths):
            finished[number] = [_read(path) for path in paths]
    summary = {
        "setting": setting.to_dict(),
        "claims": {str(number): summarise(CLAIMS[number], rows) for number, rows in finished.items()},
    }
    store.write_file(folder / "claims.json", _json(summary))
    write_pages(summary, folder)
    return summary


def summarise(claim: Claim, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a claim's result with every seed's numbers and their units, for json."""
    seeds = Seeds([row["measured"] for row in rows])
    return {
        **claim.conclude(seeds).to_dict(),
        "name": claim.name,
        "statements": list(claim.statements),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "units": dict(claim.units),
        "seeds": [row["measured"] for row in rows],
    }


def measured_path(folder: Path, claim: Claim, seed: int) -> Path:
    """Return where one seed's measurement of a claim lies."""
    return folder / "measured" / f"{claim.file}-{seed}.json"


def measure_seeds(
    setting: Setting, folder: Path, jobs: Mapping[int, Sequence[int]], after: Callable[[], None] | None = None
) -> None:
    """Measure claims with several seeds, on one thread, and write each when it is there; then call ``after``.

    Args:
        setting: how much is spent.
        folder: where the measurements go.
        jobs: seed -> the numbers of the claims.
        after: called after each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        material = _material(setting)
        Meeting([partial(_measure_seed, material, folder, seed, jobs[seed], after) for seed in jobs]).run()
    finally:
        torch.set_num_threads(threads)


def _measure_seed(
    material: Material, folder: Path, seed: int, numbers: Sequence[int], after: Callable[[], None] | None, seat: Seat
) -> None:
    bench = Bench(material, seed, seat.fit)
    for number in numbers:
        claim = CLAIMS[number]
        begin = time.thread_time() + seat.seconds
        measured = plain(checked_measurement(claim, claim.measure(bench)))
        seconds = round(time.thread_time() + seat.seconds - begin, 2)
        row = {"claim": number, "seed": seed, "seconds": seconds, "measured": measured}
        store.write_file(measured_path(folder, claim, seed), _json(row))
        if after is not None:
            after()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_materials: dict[Setting, Material] = {}


def _material(setting: Setting) -> Material:
    """Return the data and the judge of this process."""
    if setting not in _materials:
        _materials.clear()
        _materials[setting] = Material(setting)
    return _materials[setting]


def _measure(setting: Setting, folder: Path, jobs: dict[int, list[int]], workers: int, tell: Tell | None) -> None:
    paths = [measured_path(folder, CLAIMS[number], seed) for seed, numbers in jobs.items() for number in numbers]

    def look() -> None:
        if tell is not None:
            tell("claims", sum(path.exists() for path in paths), len(paths))

    Material(setting).dataset  # noqa: B018 - a mistake in the data is told before any process is started
    if workers == 1:
        measure_seeds(setting, folder, jobs, look)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        running: set[Future[None]] = {
            pool.submit(measure_seeds, setting, folder, dict(list(jobs.items())[first::workers]))
            for first in range(min(workers, len(jobs)))
        }
        try:
            while running:
                done, running = wait(running, LOOK_EVERY, "FIRST_EXCEPTION")
                look()
                for future in done:
                    future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _take_folder(folder: Path, setting: Setting) -> None:
    """Make the folder, or see that it is of the same setting."""
    path = folder / "setting.json"
    if path.exists():
        if _read(path) != setting.to_dict():
            raise UserError(
                f"{store.shown(folder)} holds results of another setting. Choose another folder: --out {folder}-2."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{store.shown(folder)} exists and holds no claims. Choose another folder with --out.")
    with store.explained(folder):
        store.make_folder((folder / "measured").absolute())
    store.write_file(path, _json(setting.to_dict()))


def _read(path: Path) -> Any:
    return strict_json.parse(path.read_bytes(), path.name)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
