"""T24: every address with any method, token, Host and Origin of which one is wrong gives only 4xx, and sets nothing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from app_helpers import application, call, image_model, saved
from test_app_routes import HOSTS, METHODS, ORIGINS, PORT, RIGHT, TOKEN, TOKENS, routes

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.app import guard

AIM, SHORT = 20_000, 120
ALIKE = [f"localhost.evil.example:{PORT}", f"evil-localhost:{PORT}", f"evil.127.0.0.1:{PORT}"]
HEADERS = {
    "authorization": TOKENS,
    "host": [*HOSTS, *ALIKE],
    "origin": ORIGINS,
    "sec-fetch-site": ["cross-site", "same-site", ""],
}


def run(budget: Budget, seed: int) -> Result:
    """Draw an address, a method, and what is wrong; now and then nothing is, and the answer must come."""
    dice, result = random.Random(seed), Result()
    with workspace() as place:
        guarded = application(saved(place, image_model()), house=guard.House(PORT, token=TOKEN))
        table = [(path, methods) for path, methods in routes(guarded) if path != "/explorer/atlas.png"]
        while budget.open(result.cases):
            path, methods = dice.choice(table)
            method = dice.choice(sorted(methods) if dice.random() < 0.7 else METHODS)
            wrong = dice.sample(list(HEADERS), dice.choice((0, 1, 1, 1, 1, 2, 3, 4)))
            headers = {**RIGHT, **{name: dice.choice(HEADERS[name]) for name in wrong}}
            right = not wrong and method in methods
            with result.case(f"{method} {path} {headers}"):
                answer = call(guarded, method, path, b"" if method == "POST" else None, headers=headers)
                result.fired += not right
                if right and method == "GET":
                    assert answer.status in (200, 409), f"status {answer.status}, though nothing is wrong"
                elif not right:
                    assert 400 <= answer.status < 500, f"status {answer.status}"
                    assert "set-cookie" not in answer.headers, "a cookie was set"
                    assert not [name for name in answer.headers if name.startswith("access-control")], "others may read"
    return result


class Beginnings(frozenset[str]):
    """Names of which the beginning is enough."""

    def __contains__(self, item: object) -> bool:
        return any(str(item).startswith(name.partition(":")[0]) for name in self)


class Endings(frozenset[str]):
    """Names of which the end is enough."""

    def __contains__(self, item: object) -> bool:
        return any(str(item).endswith(name) for name in self)


def trusts(kind: type[frozenset[str]]) -> Callable[[pytest.MonkeyPatch], None]:
    """Believe a Host that is nearly ours."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = guard.House.hosts.fget  # type: ignore[attr-defined]
        patch.setattr(guard.House, "hosts", property(lambda self: kind(right(self))))

    return mutate


def takes_part_of_a_token(patch: pytest.MonkeyPatch) -> None:
    """Compare as many letters as were given."""
    patch.setattr(guard, "same", lambda given, expected: bool(given) and expected.startswith(given))


def lets_any_origin_in(patch: pytest.MonkeyPatch) -> None:
    """Do not look at the page that asks."""

    class All(frozenset[str]):
        def __contains__(self, item: object) -> bool:
            return True

    patch.setattr(guard.House, "origins", property(lambda self: All()))


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {
        "a Host check that trusts a beginning": trusts(Beginnings),
        "a Host check that trusts an end": trusts(Endings),
        "a part of a token": takes_part_of_a_token,
        "any Origin": lets_any_origin_in,
    }
