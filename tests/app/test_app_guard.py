"""The law of the service, rule by rule; and every rule has a mutant of the guard that breaks its test."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
from app_helpers import HOST, PORT, ask, call, mutant

from sfumato.app import guard
from sfumato.app.guard import Guard, House, Limits

TOKEN = "correct-horse-battery-staple"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the body."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"text/plain"), (b"access-control-allow-origin", b"no")][:1]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body + scope["path"].encode()})


Case = tuple[str, int, dict[str, Any]]
CASES: list[Case] = [
    ("another method", 405, {"method": "DELETE"}),
    ("no host", 421, {"headers": {"host": None}}),
    ("another host", 421, {"headers": {"host": f"evil.example:{PORT}"}}),
    ("a host without port", 421, {"headers": {"host": "localhost"}}),
    ("another port", 421, {"headers": {"host": "127.0.0.1:80"}}),
    ("two hosts", 421, {"raw": [(b"host", HOST.encode()), (b"host", HOST.encode())]}),
    ("another origin", 403, {"headers": {"origin": "http://evil.example"}}),
    ("origin null", 403, {"headers": {"origin": "null"}}),
    ("https of ours", 403, {"headers": {"origin": f"https://127.0.0.1:{PORT}"}}),
    ("two origins", 403, {"raw": [(b"host", HOST.encode()), *[(b"origin", f"http://{HOST}".encode())] * 2]}),
    ("from another site", 403, {"headers": {"sec-fetch-site": "cross-site"}}),
    ("from the same site", 403, {"headers": {"sec-fetch-site": "same-site"}}),
    ("a long address", 414, {"path": "/" + "a" * 3_000}),
    ("a long query", 414, {"path": "/?a=" + "a" * 3_000}),
    ("a body in parts", 411, {"method": "POST", "headers": {"transfer-encoding": "chunked", "content-length": "0"}}),
    ("no length", 411, {"method": "POST"}),
    ("a length in words", 400, {"method": "POST", "headers": {"content-length": "ten"}}),
    ("a negative length", 400, {"method": "POST", "headers": {"content-length": "-1"}}),
    ("a length of another script", 400, {"method": "POST", "headers": {"content-length": "\u00b2"}}),
    ("too long a body", 413, {"method": "POST", "headers": {"content-length": "17000000"}}),
    ("GET with a body", 400, {"body": b"hello"}),
    ("more than it said", 400, {"method": "POST", "body": b"hello", "headers": {"content-length": "3"}}),
    ("less than it said", 400, {"method": "POST", "headers": {"content-length": "3"}, "pieces": [
        {"type": "http.request", "body": b"he", "more_body": True}]}),
]  # fmt: skip


def refused(module: ModuleType, case: Case) -> tuple[int, int]:
    """Return the status that came, and that was expected."""
    _, expected, given = case
    app = module.Guard(echo, module.House(PORT))
    given = {"method": "GET", "path": "/x", **given}
    return call(app, given.pop("method"), given.pop("path"), **given).status, expected


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_request_that_breaks_a_rule_is_refused(case: Case) -> None:
    found, expected = refused(guard, case)
    assert found == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
def test_our_own_page_is_served(host: str) -> None:
    name = f"{host}:{PORT}"
    for headers in (
        {},
        {"origin": f"http://{name.lower()}", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ):
        answer = call(Guard(echo, House(PORT)), "POST", "/x", b"hello", headers={"host": name, **headers})
        assert (answer.status, answer.body) == (200, b"hello/x")


def closed(module: ModuleType) -> bool:
    """Whether every answer, also a refusal, has the headers that close the page, and none that opens it."""
    found = []
    for path in ("/x", "/" + "a" * 3_000):
        headers = call(module.Guard(echo, module.House(PORT)), "GET", path).headers
        policy = headers["content-security-policy"]
        found.append(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"))
        found.append("unsafe" not in policy and "frame-ancestors 'none'" in policy)
        found.append(headers.get("x-content-type-options") == "nosniff")
        found.append(headers.get("cache-control") == "no-store")
        found.append(not [name for name in headers if name.startswith("access-control")])
    return all(found)


def test_every_answer_carries_the_headers_that_close_the_page() -> None:
    assert closed(guard)


def test_an_answer_may_say_how_it_is_stored() -> None:
    async def asset(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Cache-Control", b"no-cache")]})
        await send({"type": "http.response.body", "body": b""})

    headers = call(Guard(asset, House(PORT)), "GET", "/x").headers
    assert (headers.get("Cache-Control"), headers.get("cache-control")) == ("no-cache", None)


def token_cases(module: ModuleType) -> list[int]:
    """Return the statuses of requests with no token, wrong ones, and right ones."""
    app = module.Guard(echo, module.House(PORT, token=TOKEN))
    wrong = [
        {},
        {"authorization": "Bearer nonsense"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"cookie": f"sfumato_token_{PORT}=x"},
        {"cookie": f"sfumato_token_{PORT + 1}={TOKEN}"},
    ]
    right = [{"authorization": f"Bearer {TOKEN}"}, {"cookie": f"a=b; sfumato_token_{PORT}={TOKEN}"}]
    found = [call(app, "GET", "/x", headers=headers).status for headers in wrong + right]
    found += [call(app, "GET", f"/{path}?token={token}").status for path, token in
              (("", "wrong"), ("x", TOKEN), ("", TOKEN))]  # fmt: skip
    return found


TOKEN_STATUS = [401] * 5 + [200, 200, 401, 401, 200]


def test_without_the_token_nothing_is_answered() -> None:
    assert token_cases(guard) == TOKEN_STATUS


def test_the_token_of_the_address_becomes_a_cookie_that_scripts_do_not_see() -> None:
    app = Guard(echo, House(PORT, token=TOKEN))
    cookie = call(app, "GET", f"/?token={TOKEN}").headers["set-cookie"]
    assert cookie == f"sfumato_token_{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert "set-cookie" not in call(app, "GET", "/?token=wrong").headers
    assert "set-cookie" not in call(Guard(echo, House(PORT)), "GET", "/?token=x").headers


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(a: bytes, b: bytes) -> bool:
        seen.append(b)
        return a == b

    monkeypatch.setattr(guard.hmac, "compare_digest", spy)
    assert token_cases(guard) == TOKEN_STATUS
    assert TOKEN.encode() in seen


def test_a_frame_needs_the_ticket() -> None:
    app = Guard(echo, House(PORT, ticket="ticket-of-this-start"))
    other = {"sec-fetch-site": "cross-site"}
    page = call(app, "GET", "/?frame=ticket-of-this-start", headers=other)
    assert page.status == 200
    assert "frame-ancestors http://localhost:* http://127.0.0.1:*" in page.headers["content-security-policy"]
    for method, path in (("GET", "/?frame=wrong"), ("GET", "/"), ("GET", "/x?frame=ticket-of-this-start")):
        assert call(app, method, path, headers=other).status == 403
    assert call(app, "POST", "/?frame=ticket-of-this-start", b"", headers=other).status == 403
    assert call(Guard(echo, House(PORT)), "GET", "/?frame=None", headers=other).status == 403


def test_behind_a_proxy_its_own_name_is_ours_too() -> None:
    app = Guard(echo, House(PORT, public=("hub.example", "https://hub.example")))
    given = {"host": "hub.example", "origin": "https://hub.example"}
    assert call(app, "GET", "/x", headers=given).status == 200
    assert call(app, "GET", "/x", headers={**given, "origin": "http://hub.example"}).status == 403


def at_once(module: ModuleType, count: int) -> tuple[list[int], int]:
    """Ask ``count`` times at once; return the statuses, and how many were at work together."""
    working, most = 0, 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.01)
        working -= 1
        await echo(scope, receive, send)

    async def run() -> list[int]:
        app = module.Guard(slow, module.House(PORT))
        return [answer.status for answer in await asyncio.gather(*(ask(app, "GET", "/x") for _ in range(count)))]

    return asyncio.run(run()), most


def test_two_are_at_work_and_sixteen_wait() -> None:
    statuses, most = at_once(guard, 30)
    assert most == 2
    assert (statuses.count(200), statuses.count(429)) == (18, 12)


def in_time(module: ModuleType) -> list[int]:
    """Return the statuses of a body that never ends and of work that never does."""
    limits = module.Limits(seconds_to_send=0.02, seconds_to_work=0.02)

    async def never() -> Any:
        await asyncio.sleep(0.2)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def sleepy(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await echo(scope, receive, send)

    slow_body = module.Guard(echo, module.House(PORT), limits)
    slow_work = module.Guard(sleepy, module.House(PORT), limits)
    headers = {"content-length": "3"}
    first = asyncio.run(ask(slow_body, "POST", "/x", headers=headers, pieces=[never]))
    return [first.status, call(slow_work, "GET", "/x").status]


def test_neither_a_slow_body_nor_slow_work_holds_a_place_for_ever() -> None:
    assert in_time(guard) == [408, 503]


def after_long_work(module: ModuleType) -> list[int]:
    """Return the statuses of work that takes too long, of what is asked while it still goes on, and of what is then."""
    limits = module.Limits(working=1, seconds_to_work=0.03)
    begun: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["path"])
        if scope["path"] == "/long":
            await asyncio.sleep(0.1)
        await echo(scope, receive, send)

    async def run() -> list[int]:
        app = module.Guard(slow, module.House(PORT), limits)
        found = [(await ask(app, "GET", path)).status for path in ("/long", "/meanwhile")]
        await asyncio.sleep(0.1)
        return [*found, (await ask(app, "GET", "/then")).status, len(begun)]

    return asyncio.run(run())


def test_work_that_takes_too_long_keeps_its_place_until_it_has_ended() -> None:
    assert after_long_work(guard) == [503, 503, 200, 2]


def test_a_slow_reader_does_not_hold_a_place_at_work() -> None:
    app = Guard(echo, House(PORT), Limits(seconds_to_send=0.02, working=1, waiting=0))
    scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": [(b"host", HOST.encode())]}

    async def run() -> int:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def stuck(message: Any) -> None:
            await asyncio.sleep(10)

        reader = asyncio.ensure_future(app(scope, receive, stuck))
        await asyncio.sleep(0.01)
        status = (await ask(app, "GET", "/x")).status
        await asyncio.wait_for(reader, 1)
        return status

    assert asyncio.run(run()) == 200


def failing(module: ModuleType) -> str:
    """Return what is said about an error with a path in it."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/home/ada/secret/place.npz is broken")

    answer = call(module.Guard(broken, module.House(PORT)), "GET", "/x")
    assert answer.status == 500
    return answer.error


def test_what_goes_wrong_is_a_sentence_without_a_path(caplog: pytest.LogCaptureFixture) -> None:
    said = failing(guard)
    assert said == "this should not happen: RuntimeError. The terminal of the service says where."
    assert "secret" in caplog.text


def test_there_are_no_websockets() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(Guard(echo, House(PORT))({"type": "websocket", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def case(name: str) -> Case:
    return next(item for item in CASES if item[0] == name)


MUTANTS: list[tuple[str, str, Any]] = [
    ('if scope["method"] not in allowed.split(", "):', "if False:", case("another method")),
    ("not in self.house.hosts", "in ()", case("another host")),
    ("{*self.names} if self.port == 80 else set()", "{*self.names}", case("a host without port")),
    ("values[0].strip() if len(values) == 1 else", "values[0].strip() if values else", case("two hosts")),
    ("origin not in self.house.origins", "origin in ()", case("another origin")),
    ('headers.has("origin") and origin not in', 'origin and origin not in', case("two origins")),
    ('not in ("same-origin", "none")', 'not in ("same-origin", "none", "same-site")', case("from the same site")),
    ("> self.limits.address", "> 10**9", case("a long address")),
    ('headers.has("transfer-encoding") or', "", case("a body in parts")),
    ('or (scope["method"] == "POST" and not headers.has("content-length"))', "", case("no length")),
    ("text.isascii() and text.isdigit()", "text.lstrip('-').isascii() and text.lstrip('-').isdigit()",
     case("a negative length")),
    ("if length > self.limits.body:", "if False:", case("too long a body")),
    ('if scope["method"] != "POST" and length:', "if False:", case("GET with a body")),
    ("if sum(map(len, parts)) > length:", "if False:", case("more than it said")),
    ('if message["type"] != "http.request":', "if False:", case("less than it said")),
    ("if self.house.token is not None and not", "if False and not", "token"),
    ("same(item, self.house.token)", "same(item[:5], self.house.token[:5])", "token"),
    ('if scope["method"] == "GET" and scope["path"] == "/":', "if True:", "token"),
    ("working: int = 2", "working: int = 3", "line"),
    ("asyncio.Semaphore(self.limits.working)", "asyncio.Semaphore(99)", "line"),
    (">= self.limits.working + self.limits.waiting", ">= 10**9", "line"),
    ("asyncio.wait_for(read(), self.limits.seconds_to_send)", "read()", "time"),
    ("asyncio.timeout(seconds)", "asyncio.timeout(None)", "time"),
    ("task.add_done_callback(ended)", "task.add_done_callback(ended); working.release()", "long"),
    ("await asyncio.shield(task)", "await task", "long"),
    ('"x-content-type-options": "nosniff",', "", "closed"),
    ("default-src 'none'", "default-src 'self'", "closed"),
    ("frames=FRAMES if framed else", "frames=FRAMES if True else", "closed"),
    ("*(() if stored else (_STORING,))", "", "closed"),
    ('return f"{COOKIE}_{self.port}"', 'return COOKIE', "token"),
    ("{type(error).__name__}. The", "{error}. The", "failing"),
]  # fmt: skip


@pytest.mark.parametrize("change", MUTANTS, ids=[change[0][:40] for change in MUTANTS])
def test_a_guard_without_the_rule_is_found_out(change: tuple[str, str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, by = change
    module = mutant(guard, before, after, monkeypatch)
    if by == "token":
        assert token_cases(module) != TOKEN_STATUS
    elif by == "line":
        statuses, most = at_once(module, 30)
        assert (most, statuses.count(200)) != (2, 18)
    elif by == "time":
        assert in_time(module) != [408, 503]
    elif by == "long":
        assert after_long_work(module) != [503, 503, 200, 2]
    elif by == "closed":
        assert not closed(module)
    elif by == "failing":
        assert "secret" in failing(module)
    else:
        found, expected = refused(module, by)
        assert found != expected
