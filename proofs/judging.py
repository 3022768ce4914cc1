"""A plugin of pytest that judges mutants of the source by the tests that reach them, for T28.

First all tests run once in a fork, each line of the mutated files that they execute is noted, and how long they take.
Then each mutant is put into a fork, and the tests that reach it run there, the quick ones first, until one fails. What
an import executes is judged in a process of its own, which imports a copy of the source.

The environment says what is asked: SFUMATO_JUDGE is a folder with ``asked.json``; what is found is appended to
``found.jsonl``, one line a mutant.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proofs import ROOT
from proofs.source_mutants import SOURCE, Mutant, is_imported, mutant_of, put_in, sites

PATIENCE = 30.0  # seconds more than what the tests took before
Reached = dict[str, tuple[float, frozenset[tuple[str, int]]]]  # test -> its seconds, (file, line)


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Judge until the time is over."""
    place = Path(os.environ["SFUMATO_JUDGE"])
    asked = json.loads((place / "asked.json").read_text())
    if session.testsfailed:
        return True
    reached = _reached(session.items, asked["files"], place)
    judge = _Judge(session.items, reached, place)
    dice, skipped = random.Random(asked["seed"]), set(asked["harmless"])
    waiting = {file: list(sites(file)) for file in asked["files"]}
    for numbers in waiting.values():
        dice.shuffle(numbers)
    count, end = 0, time.monotonic() + asked["seconds"] - (time.time() - asked["begin"])
    with (place / "found.jsonl").open("a", buffering=1) as found:
        while count < asked["cases"] and time.monotonic() < end and any(waiting.values()):
            file = max(waiting, key=lambda name: len(waiting[name]))
            mutant = mutant_of(file, waiting[file].pop())
            if mutant.key in skipped:
                continue
            count, begin = count + 1, time.monotonic()
            by = judge(mutant)
            said = {"mutant": str(mutant), "by": by, "seconds": round(time.monotonic() - begin, 2)}
            found.write(json.dumps(said) + "\n")
        found.write(json.dumps({"fail alone": judge.fail_alone()}) + "\n")
    return True


_REPORTS: list[pytest.TestReport] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Hear what became of a test."""
    _REPORTS.append(report)


def _run(item: pytest.Item, after: pytest.Item | None) -> list[pytest.TestReport]:
    """Run a test; what it shares with the one ``after`` it is kept."""
    _REPORTS.clear()
    item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
    return _REPORTS


def _with_next(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


def _tidied(session: pytest.Session) -> None:
    """Take down what tests share."""
    with contextlib.suppress(Exception):
        session._setupstate.teardown_exact(None)


class _Judge:
    """Finds the test that fails on a mutant."""

    def __init__(self, items: Sequence[pytest.Item], reached: Reached, place: Path) -> None:
        self.items = {item.nodeid: item for item in items}
        self.reached, self.place, self.killers = reached, place, set[str]()
        self.copy = place / "src"
        shutil.copytree(SOURCE.parent, self.copy, ignore=shutil.ignore_patterns("__pycache__"))

    def __call__(self, mutant: Mutant) -> str:
        """Return the name of a test that fails, "time" where none ends, and "" where all pass."""
        if not is_imported(mutant):
            names = self._that_reach(mutant.file, lambda line: mutant.lines[0] <= line <= mutant.lines[1])
            code, by = self._in_fork(names, lambda: put_in(mutant)) if names else (0, "")
            if code != NOT_PUT_IN:
                return by
        return self._imported(mutant, self._that_reach(mutant.file, lambda line: True))

    def _that_reach(self, file: str, fits: Callable[[int], bool]) -> list[str]:
        """Return the tests that reach some lines: those of a file together, for they share what they need."""
        found = [name for name, (_, lines) in self.reached.items() if any(f == file and fits(n) for f, n in lines)]
        cost: dict[str, float] = defaultdict(float)
        for name in found:
            cost[name.partition("::")[0]] += self.reached[name][0]
        return sorted(found, key=lambda name: (cost[name.partition("::")[0]], self.reached[name][0]))

    def _limit(self, names: Sequence[str]) -> float:
        return 3 * sum(self.reached[name][0] for name in names) + PATIENCE

    def _in_fork(self, names: Sequence[str], before: Callable[[], bool]) -> tuple[int, str]:
        reader, writer = os.pipe()

        def work() -> int:
            if not before():
                return NOT_PUT_IN
            for item, after in _with_next([self.items[name] for name in names]):
                if any(report.failed for report in _run(item, after)):
                    os.write(writer, item.nodeid.encode())
                    _tidied(item.session)
                    return FAILED
            return 0

        code = _forked(work, self._limit(names))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            by = pipe.read()
        if code == FAILED:
            self.killers.add(by)
        return code, by or ("" if code in (0, NOT_PUT_IN) else "time" if code == LATE else f"exit {code}")

    def _imported(self, mutant: Mutant, names: Sequence[str]) -> str:
        if not names:
            return ""
        path = self.copy / "sfumato" / mutant.file
        path.write_text(ast.unparse(mutant.tree))
        try:
            command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *names]
            variables = {**os.environ, "PYTHONPATH": str(self.copy)}
            done = subprocess.run(
                command, cwd=ROOT, env=variables, capture_output=True, check=False, timeout=self._limit(names) + 60
            )
        except subprocess.TimeoutExpired:
            return "time"
        finally:
            shutil.copy(SOURCE / mutant.file, path)
        return f"exit {done.returncode}" if done.returncode else ""

    def fail_alone(self) -> list[str]:
        """Return the tests that killed and fail without a mutant too, when others have not run before them."""
        return [name for name in sorted(self.killers) if self._in_fork([name], lambda: True)[0]]


FAILED, NOT_PUT_IN, LATE = 3, 4, 5


def _forked(work: Callable[[], int], limit: float) -> int:
    """Do ``work`` in a fork, in a session of its own, and return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            code = work()
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return LATE
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it left behind
    return os.waitstatus_to_exitcode(status)


def _reached(items: Sequence[pytest.Item], files: Sequence[str], place: Path) -> Reached:
    """Run all tests once in a fork and return what each of them reaches."""
    log = place / "reached.tsv"

    def work() -> int:
        writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        watch = _Watch({str(SOURCE / file): file for file in files}, writer)
        for item, after in _with_next(items):
            begin = time.monotonic()
            watch.begin(item.nodeid)
            reports = _run(item, after)
            watch.end()
            passed = "passed" if all(report.passed for report in reports) else "not"
            os.write(writer, f"{item.nodeid}\t{passed}\t{time.monotonic() - begin}\n".encode())
        return 0

    code = _forked(work, float("inf"))
    if code:
        raise RuntimeError(f"the tests could not be run in a fork: {code}")
    lines: dict[str, set[tuple[str, int]]] = defaultdict(set)
    seconds: dict[str, float] = {}
    for row in log.read_text().splitlines():
        name, what, number = row.rsplit("\t", 2)
        if what == "passed":
            seconds[name] = float(number)
        elif what != "not":
            lines[name].add((what, int(number)))
    return {name: (seconds[name], frozenset(lines[name])) for name in seconds if lines[name]}


class _Watch:
    """Notes which lines of some files are executed; in forks of the test too."""

    def __init__(self, files: dict[str, str], writer: int) -> None:
        self.files, self.writer, self.test = files, writer, ""
        self.seen: set[tuple[str, int]] = set()

    def begin(self, test: str) -> None:
        self.test, self.seen = test, set()
        threading.settrace(self._called)
        sys.settrace(self._called)

    def end(self) -> None:
        sys.settrace(None)
        threading.settrace(None)

    def _called(self, frame: Any, event: str, argument: object) -> Any:
        file = self.files.get(frame.f_code.co_filename)
        if file is None:
            return None

        def executed(frame: Any, event: str, argument: object) -> Any:
            place = (file, frame.f_lineno)
            if event == "line" and place not in self.seen:
                self.seen.add(place)
                os.write(self.writer, f"{self.test}\t{file}\t{frame.f_lineno}\n".encode())
            return executed

        return executed
