"""Every address of the route table, with every combination of token, Host, Origin and method, gives only 4xx."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_helpers import HOST, PORT, application, ask, call, image_model, saved

from sfumato.app.guard import Guard, House

TOKEN = "a-token-that-is-long-enough"
RIGHT = {"host": HOST, "authorization": f"Bearer {TOKEN}"}
TOKENS = [None, "", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}"]
HOSTS = [None, "evil.example", "127.0.0.1", f"localhost:{PORT + 1}", f"localhost.evil.example:{PORT}"]
ORIGINS = ["null", "http://evil.example", f"http://localhost.evil.example:{PORT}", f"file://{HOST}", ""]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
NAMES = ["/../../etc/passwd", "/static/..%2f..%2fconfig.json", "/static/../main.py", "//evil.example/", "/static/",
         "/explorer", "/api/encode/", "/runs", "/model/config.json", "/static/index.html\x00.js"]  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    app: Guard = application(saved(tmp_path_factory.mktemp("routes"), image_model()), house=House(PORT, token=TOKEN))
    return app


def routes(guarded: Guard) -> Iterator[tuple[str, set[str]]]:
    app: Any = guarded.app
    for route in app.routes:
        yield route.path, route.methods


def test_the_table_is_whole(guarded: Guard) -> None:
    paths = [path for path, _ in routes(guarded)]
    assert {"/", "/openapi.json", "/api/score", "/explorer/decode", "/static/main.js"} <= set(paths)
    assert len(paths) > 25


def wrong_requests(guarded: Guard) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    """Yield method, path and headers; each of the four may be the only thing wrong, or not."""
    for path, methods in routes(guarded):
        for method in METHODS:
            for key, values in (("authorization", TOKENS), ("host", HOSTS), ("origin", ORIGINS)):
                yield from ((method, path, {**RIGHT, key: value}) for value in values)
            if method not in methods:
                yield method, path, dict(RIGHT)
        for method, a, b, c in itertools.product(METHODS[:3], TOKENS[:2], HOSTS[:2], ORIGINS[:2]):
            yield method, path, {"authorization": a, "host": b, "origin": c}


def test_only_the_right_request_gets_through(guarded: Guard) -> None:
    async def run() -> int:
        asked = 0
        for method, path, headers in wrong_requests(guarded):
            body = b"" if method == "POST" else None
            answer = await ask(guarded, method, path, body, headers=headers)
            assert 400 <= answer.status < 500, (method, path, headers)
            assert len(answer.error) < 300
            asked += 1
        return asked

    assert asyncio.run(run()) > 4_000


def test_the_right_request_does(guarded: Guard) -> None:
    for path, methods in routes(guarded):
        if "GET" in methods and path != "/explorer/atlas.png":
            answer = call(guarded, "GET", path, headers=RIGHT)
            assert answer.status in (200, 409), (path, answer.body)


@pytest.mark.parametrize("path", NAMES)
def test_no_path_of_a_request_is_looked_up(guarded: Guard, path: str) -> None:
    answer = call(guarded, "GET", path, headers=RIGHT)
    assert answer.status == 404
    assert "location" not in answer.headers


def test_an_application_that_redirects_is_found_out(guarded: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    router = guarded.app.router  # type: ignore[attr-defined]
    monkeypatch.setattr(router, "redirect_slashes", True)
    assert call(guarded, "GET", "/api/model/", headers=RIGHT).status == 307
    monkeypatch.undo()
    assert call(guarded, "GET", "/api/model/", headers=RIGHT).status == 404


def test_assets_are_read_from_the_package_and_nothing_else_is(guarded: Guard) -> None:
    static = Path(__file__).parents[2] / "src/sfumato/app/static"
    served = {path.removeprefix("/static/") for path, _ in routes(guarded) if path.startswith("/static/")}
    assert served == {item.name for item in static.iterdir()} - {"index.html"}
    for item in static.iterdir():
        assert len(item.read_text().splitlines()) < 500
        assert "http://" not in item.read_text().replace("http://www.w3.org/2000/svg", "")
