"""The law of the service, in one middleware: what a request must be before anything else looks at it.

In this order, before routing: a method that reads or posts; one ``Host`` that is ours with our port (an attacker's name
that resolves to 127.0.0.1 is not); ``Origin`` absent or ours; ``Sec-Fetch-Site`` same-origin or none; the token,
compared in constant time; a short address; a body with its length said beforehand and bounded; a place in the line, of
which two are at work and sixteen wait. Only then the body is read, within its length and a time, and the work is done
within another time; work that takes longer keeps its place until it has ended. There are no CORS headers, no redirects,
no WebSockets; every answer carries a strict Content-Security-Policy and ``nosniff``, and is not stored unless it says
so. What goes wrong is one sentence of json, without a path or a traceback.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "sfumato_token"  # with our port behind it, for browsers share cookies among the ports of a name
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
METHODS = ("GET", "HEAD", "POST")
_SELF = "'self'"
POLICY = (
    f"default-src 'none'; script-src {_SELF}; style-src {_SELF}; img-src {_SELF} blob: data:; connect-src {_SELF}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
)
FRAMES = "http://localhost:* http://127.0.0.1:*"

log = logging.getLogger("sfumato.app")


@dataclass(frozen=True)
class Limits:
    """How much a request may be and take.

    Args:
        body: bytes of a body.
        address: bytes of path and query.
        working: requests at work.
        waiting: requests that wait for that.
        seconds_to_send: for a body to arrive, and for an answer to be taken.
        seconds_to_work: for an answer.
    """

    body: int = 16_000_000
    address: int = 2_048
    working: int = 2
    waiting: int = 16
    seconds_to_send: float = 20.0
    seconds_to_work: float = 60.0


@dataclass(frozen=True)
class House:
    """Under which names the service is reached, and who may.

    Args:
        port: of this service.
        names: what ``Host`` may name, without port.
        token: what every request must show; None: nothing, for 127.0.0.1 only.
        public: host and origin ("hub.example", "https://hub.example") under which a proxy shows it, or None.
        ticket: lets the first page open from another site, inside a frame of this machine; for notebooks.
    """

    port: int
    names: tuple[str, ...] = LOOPBACK
    token: str | None = None
    public: tuple[str, str] | None = None
    ticket: str | None = None

    @property
    def cookie(self) -> str:
        """The name of the cookie that keeps the token."""
        return f"{COOKIE}_{self.port}"

    @property
    def own(self) -> frozenset[str]:
        """Every name of this machine with our port."""
        bare = {*self.names} if self.port == 80 else set()
        return frozenset({f"{name}:{self.port}" for name in self.names} | bare)

    @property
    def hosts(self) -> frozenset[str]:
        """Every value of ``Host`` that is ours."""
        return self.own | ({self.public[0]} if self.public else set())

    @property
    def origins(self) -> frozenset[str]:
        """Every value of ``Origin`` that is ours."""
        return frozenset(f"http://{host}" for host in self.own) | ({self.public[1]} if self.public else set())


class Refused(Exception):
    """A request that is refused.

    Args:
        status: 4xx, or 503.
        sentence: expected, got, do.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


@dataclass
class Guard:
    """The middleware: refuses, or reads the body and lets the application answer.

    Args:
        app: what answers.
        house: names and token.
        limits: sizes and times.
        allowed: path -> its methods, for the answer to another one.
    """

    app: App
    house: House
    limits: Limits = field(default_factory=Limits)
    allowed: Mapping[str, str] = field(default_factory=dict)
    admitted: int = 0
    _working: asyncio.Semaphore | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        given = extra_headers(scope, self.house)
        try:
            length = self.check(scope)
            messages = await self._admitted(scope, receive, length)
        except Refused as refusal:
            messages = error_messages(refusal)
        for message in messages:
            if message["type"] == "http.response.start":
                own = _without(message.get("headers", ()), given)
                stored = any(name.lower() == _STORING[0] for name, _ in own)
                message["headers"] = [*own, *given, *(() if stored else (_STORING,))]
            try:
                await asyncio.wait_for(send(message), self.limits.seconds_to_send)
            except TimeoutError:
                return

    def check(self, scope: Scope) -> int:
        """Return the length of the body that will come.

        Raises:
            Refused: by one of the rules.
        """
        headers = Headers(scope)
        allowed = self.allowed.get(scope["path"], ", ".join(METHODS))
        if scope["method"] not in allowed.split(", "):
            raise Refused(405, f"expected {allowed}; got another method.", {"allow": allowed})
        if headers.one("host").lower() not in self.house.hosts:
            raise Refused(
                421, f"expected a Host of this machine with port {self.house.port}; got another. Open {self.own}."
            )
        origin = headers.one("origin")
        if headers.has("origin") and origin not in self.house.origins:
            raise Refused(403, f"expected a request from our own page; got another Origin. Open {self.own}.")
        site = headers.one("sec-fetch-site")
        if headers.has("sec-fetch-site") and site not in ("same-origin", "none") and not self._has_ticket(scope):
            raise Refused(403, f"expected a request from our own page; got one from another site. Open {self.own}.")
        if self.house.token is not None and not self._knows_token(scope, headers):
            raise Refused(
                401, "expected the token of this service; got none, or another. Send Authorization: Bearer TOKEN.",
                {"www-authenticate": "Bearer"},
            )  # fmt: skip
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > self.limits.address:
            raise Refused(414, f"expected an address of at most {self.limits.address:,} bytes; got a longer one.")
        return self._length(scope, headers)

    @property
    def own(self) -> str:
        """The address to open instead."""
        return self.house.public[1] if self.house.public else f"http://{self.house.names[0]}:{self.house.port}/"

    def _length(self, scope: Scope, headers: Headers) -> int:
        text = headers.one("content-length")
        if headers.has("transfer-encoding") or (scope["method"] == "POST" and not headers.has("content-length")):
            raise Refused(411, "expected the length of the body in Content-Length; got none. Send it in one piece.")
        if headers.has("content-length") and not (text.isascii() and text.isdigit() and len(text) < 16):
            raise Refused(400, "expected one Content-Length, a whole number of bytes; got something else.")
        length = int(text or 0)
        if scope["method"] != "POST" and length:
            raise Refused(400, f"expected a {scope['method']} request without a body; got one. Use POST.")
        if length > self.limits.body:
            raise Refused(413, f"expected at most {self.limits.body:,} bytes; got {length:,}. Send less at a time.")
        return length

    def _has_ticket(self, scope: Scope) -> bool:
        """Whether this is the first page, opened by a frame that our own Python made."""
        if self.house.ticket is None or scope["method"] != "GET" or scope["path"] != "/":
            return False
        return same(_query(scope, "frame"), self.house.ticket)

    def _knows_token(self, scope: Scope, headers: Headers) -> bool:
        assert self.house.token is not None
        given = [headers.one("authorization").removeprefix("Bearer "), cookie(headers.one("cookie"), self.house.cookie)]
        if scope["method"] == "GET" and scope["path"] == "/":
            given.append(_query(scope, "token"))
        return sum(same(item, self.house.token) for item in given) > 0  # every one is compared

    async def _admitted(self, scope: Scope, receive: Receive, length: int) -> list[Message]:
        """Find a place in the line, read the body, let the application answer; its answer is held back until whole."""
        if self.admitted >= self.limits.working + self.limits.waiting:
            raise Refused(429, "expected patience; too many requests wait already. Ask again in a second.", _RETRY)
        self.admitted += 1
        try:
            return await self._answer(scope, await self._body(receive, length))
        finally:
            self.admitted -= 1

    async def _body(self, receive: Receive, length: int) -> bytes:
        parts: list[bytes] = []

        async def read() -> None:
            more = length > 0
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "expected a whole body; the connection ended before.")
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
                if sum(map(len, parts)) > length:
                    raise Refused(400, "expected as many bytes as Content-Length says; got more.")

        try:
            await asyncio.wait_for(read(), self.limits.seconds_to_send)
        except TimeoutError:
            seconds = self.limits.seconds_to_send
            raise Refused(
                408, f"expected the body within {seconds:g} seconds; it did not come. Send it again."
            ) from None
        return b"".join(parts)

    async def _answer(self, scope: Scope, body: bytes) -> list[Message]:
        """Let the application answer, in one of few places; one that takes too long is not waited for any more."""
        if self._working is None:
            self._working = asyncio.Semaphore(self.limits.working)
        working, messages = self._working, list[Message]()
        rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else {"type": "http.disconnect"}

        async def keep(message: Message) -> None:
            messages.append(message)

        def ended(task: asyncio.Future[None]) -> None:
            working.release()
            _ = task.cancelled() or task.exception()  # looked at, also where nobody waits for it any more

        seconds = self.limits.seconds_to_work
        try:
            async with asyncio.timeout(seconds):
                await working.acquire()
                task = asyncio.ensure_future(self.app(scope, replay, keep))
                task.add_done_callback(ended)
                await asyncio.shield(task)
        except TimeoutError:
            raise Refused(
                503, f"expected an answer within {seconds:g} seconds; it takes longer. Ask for less."
            ) from None
        except Refused:
            raise
        except Exception as error:
            log.exception("a request failed")
            sentence = f"this should not happen: {type(error).__name__}. The terminal of the service says where."
            raise Refused(500, sentence) from None
        return messages


class Headers:
    """The headers of a request; one that comes twice counts as wrong, not as its first value."""

    def __init__(self, scope: Scope) -> None:
        self._all: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._all.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def has(self, name: str) -> bool:
        """Whether it came at all."""
        return name in self._all

    def one(self, name: str) -> str:
        """Return its value; nothing where it did not come, or several times."""
        values = self._all.get(name, [])
        return values[0].strip() if len(values) == 1 else ""


_RETRY = {"retry-after": "1"}
_STORING = (b"cache-control", b"no-store")


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def cookie(header: str, name: str) -> str:
    """Return the value of one cookie of a ``Cookie`` header, or nothing."""
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def extra_headers(scope: Scope, house: House) -> list[tuple[bytes, bytes]]:
    """Return the headers that every answer carries."""
    framed = house.ticket is not None and scope["path"] == "/" and same(_query(scope, "frame"), house.ticket)
    headers = {
        "content-security-policy": POLICY.format(frames=FRAMES if framed else "'none'"),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }
    shown = _query(scope, "token") if scope["path"] == "/" else ""
    if house.token is not None and shown and same(shown, house.token):
        headers["set-cookie"] = f"{house.cookie}={house.token}; Path=/; HttpOnly; SameSite=Strict"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def error_messages(refusal: Refused) -> list[Message]:
    """Return the answer that says a refusal in one sentence."""
    body = json.dumps({"error": refusal.sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    pairs = [(name.encode(), value.encode()) for name, value in {**headers, **refusal.headers}.items()]
    start = {"type": "http.response.start", "status": refusal.status, "headers": pairs}
    return [start, {"type": "http.response.body", "body": body}]


def _query(scope: Scope, name: str) -> str:
    text = (scope.get("query_string") or b"").decode("latin-1")
    try:
        values = parse_qs(text, max_num_fields=16).get(name, [])
    except ValueError:
        return ""
    return values[0] if len(values) == 1 else ""


def _without(headers: Any, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in given}
    return [(name, value) for name, value in headers if name.lower() not in names]
