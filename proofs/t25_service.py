"""T25: hostile bodies, wrong lengths and pieces, again and again: no 5xx, one sentence each, bounded memory.

What needs a server is a test already, and run here too: schemathesis, two hundred connections, those who do not ask.
"""

from __future__ import annotations

import random
from typing import Any

import psutil
import pytest
from app_helpers import HOST, application, call, image_model, saved
from test_app_routes import routes

from proofs.mutating import IMAGES, mutated, seeds
from proofs.proof import Budget, Mutants, Result, workspace
from proofs.pytests import pytest_run
from sfumato.app import guard

AIM, SHORT = 20_000, 60
TESTS = ("tests/app/test_app_schema.py", "tests/app/test_app_service.py", "tests/app/test_app_server.py")
KINDS = ("application/json", "application/x-npz", "image/png", "text/csv", "multipart/form-data", "", "x" * 300)
PIECES = [
    b'{"samples": 3}',
    b'{"samples": 1e99}',
    b"[]",
    b'{"x": [[0.1, NaN]]}',
    b'{"class": "=1+1"}',
    b"\xff" * 100,
    b"",
]
WARM, ROOM = 300, 150e6


def run(budget: Budget, seed: int) -> Result:
    """Ask; then run the tests, unless only some cases are wanted."""
    dice, result = random.Random(seed), Result()
    process, before = psutil.Process(), 0
    with workspace() as place:
        app = application(saved(place, image_model()))
        paths = [path for path, methods in routes(app) if "POST" in methods]
        bodies = [each for suffix in ("npz", "json", "npy", *IMAGES) for each in seeds(place)[suffix]]
        while budget.open(result.cases):
            with result.case(f"request {result.cases}, seed {seed}"):
                _ask(app, dice.choice(paths), dice, bodies)
                result.fired += 1
            if result.cases == WARM:
                before = process.memory_info().rss
        grown = process.memory_info().rss - before if before else 0
        result.require(grown < ROOM, f"it took {grown / 1e6:.0f} MB more after {WARM} requests")
    if budget.cases < AIM:
        return result
    for name in TESTS:
        ran = pytest_run([name])
        result.cases, result.fired = result.cases + ran.passed + ran.failed, result.fired + ran.passed
        result.require(not ran.failed, f"{name}: {ran.said}")
        result.note += f"{name}: {ran.skipped} skipped. " * bool(ran.skipped)
    return result


def _ask(app: Any, path: str, dice: random.Random, bodies: list[bytes]) -> None:
    """Send a body that is wrong somehow."""
    body = dice.choice((dice.choice(PIECES), mutated(dice.choice(bodies), dice)))
    kind = dice.choice(KINDS)
    length = dice.choice((len(body), len(body), len(body), 17_000_000, 10**14, len(body) + 1, max(0, len(body) - 1)))
    raw = [(b"host", HOST.encode()), (b"content-length", str(length).encode()), (b"content-type", kind.encode())]
    cut = dice.randint(0, len(body))
    pieces = [
        {"type": "http.request", "body": body[:cut], "more_body": True},
        {"type": "http.request", "body": body[cut:], "more_body": length > len(body)},
    ]
    answer = call(app, "POST", path, raw=raw, pieces=pieces)
    assert answer.status < 500, f"status {answer.status} of {path}: {answer.body[:200]!r}"
    assert b"Traceback" not in answer.body, "a traceback"
    if length > 16_000_000:
        assert answer.status == 413, f"status {answer.status} of {length:,} bytes"
    elif length and length != len(body):  # of a body that was said to be none, a server in front passes nothing on
        assert answer.status == 400, f"status {answer.status} of {len(body)} bytes that were to be {length}"
    if answer.status >= 400:
        assert "\n" not in answer.error, f"no sentence: {answer.error}"
        assert answer.error.endswith("."), f"no sentence: {answer.error}"


def no_limits(patch: pytest.MonkeyPatch) -> None:
    """Read bodies of any length."""
    right = guard.Guard.check
    patch.setattr(guard.Guard, "check", lambda self, scope: _without_limit(self, right, scope))


def _without_limit(one: guard.Guard, right: Any, scope: Any) -> int:
    limits, one.limits = one.limits, guard.Limits(body=10**18)
    try:
        return int(right(one, scope))
    finally:
        one.limits = limits


def speaks(patch: pytest.MonkeyPatch) -> None:
    """Let errors say where in our files they came from."""
    right = guard.error_messages

    def messages(refusal: guard.Refused) -> Any:
        refusal.sentence += "\nTraceback (most recent call last)"
        return right(refusal)

    patch.setattr(guard, "error_messages", messages)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"bodies of any length": no_limits, "errors with a traceback": speaks}
