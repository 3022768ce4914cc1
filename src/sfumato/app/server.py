"""Listening: one port of this machine, and the sentences that say how to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sfumato.app.guard import LOOPBACK, House
from sfumato.core.errors import SfumatoError, UserError
from sfumato.io.store import shown

PORT = 8421
TRIED = 20
CONNECTIONS = 512  # twice 200 and more: who has just hung up counts until the loop has seen it
SECONDS_TO_ASK = 10.0
SHORTEST_TOKEN = 16
WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Place:
    """Where a server listens, already bound.

    Args:
        house: names, port and token.
        socket: bound and not yet listening.
        path: behind a proxy, the path under which it shows the service; else "/".
    """

    house: House
    socket: socket.socket
    path: str = "/"

    @property
    def address(self) -> str:
        """What to open in a browser on this machine."""
        if self.house.public is not None:
            return self.house.public[1] + self.path
        return f"http://{self.house.names[0]}:{self.house.port}/"

    @property
    def tunnel(self) -> str:
        """The command that brings it to another computer."""
        name, port = socket.gethostname(), self.house.port
        return f"ssh -L {port}:127.0.0.1:{port} {_user()}@{name}"


def place(
    *,
    host: str | None = None,
    port: int | None = None,
    token: Path | None = None,
    public: str | None = None,
    ticket: str | None = None,
) -> Place:
    """Bind a port.

    Args:
        host: the address to listen at, by default 127.0.0.1; any other needs a token.
        port: by default the first free one from 8421 on; 0: any.
        token: a file that holds the token, or None.
        public: the address under which a proxy shows it: https://hub.example/user/ada/proxy/8421/.
        ticket: see :class:`~sfumato.app.guard.House`.

    Raises:
        UserError: a host without a token, a token file that is no such, a port that is taken.
    """
    secret = None if token is None else read_token(token)
    address = host or "127.0.0.1"
    local = address in ("127.0.0.1", "localhost", "::1")
    if not local and secret is None:
        raise UserError(
            f"serving at {address} lets other computers in; expected --token FILE with it. Make one with: "
            '(umask 077; python -c "import secrets; print(secrets.token_urlsafe())" > token.txt)'
        )
    names = LOOPBACK if local else _names(address)
    outside = None if public is None else _public(public)
    bound = _bind("::1" if address == "::1" else address, port)
    number = bound.getsockname()[1]
    house = House(number, names, secret, None if outside is None else outside[:2], ticket)
    return Place(house, bound, "/" if outside is None else outside[2])


def serve(app: Any, where: Place, on_ready: Callable[[], None] | None = None) -> None:
    """Serve until interrupted.

    Args:
        app: the application.
        where: bound.
        on_ready: called once requests are answered.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32_768,
        lifespan="off",
        loop="asyncio",
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[where.socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        if on_ready is not None and server.started:
            on_ready()
        await serving

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


class Patient(H11Protocol):
    """HTTP with two limits more: how many connections there are, and how long each may take to ask."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or close it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.close()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take bytes; what is not yet a whole head must become one in time, also on a connection that was kept."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect()
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expect(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(SECONDS_TO_ASK, self.transport.close)


def read_token(path: Path) -> str:
    """Return the token in a file that nobody else may read.

    Raises:
        UserError: there is none, it is short or odd, or others may read it.
    """
    try:
        with path.expanduser().open("rb") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise UserError(
                    f"others may read {shown(path)}, the token. Keep it to yourself: chmod 600 {shown(path)}"
                )
            text = stream.read(4_096).decode("ascii", "replace").strip()
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({error.strerror}). Give a file that holds a token.") from None
    if not re.fullmatch(r"[A-Za-z0-9_.~-]+", text) or len(text) < SHORTEST_TOKEN:
        raise UserError(
            f"{shown(path)} should hold one token of at least {SHORTEST_TOKEN} letters, digits, - and _; it does not. "
            'Make one with: (umask 077; python -c "import secrets; print(secrets.token_urlsafe())" > token.txt)'
        )
    return text


def new_ticket() -> str:
    """Return a secret for one start of the service."""
    return secrets.token_urlsafe(18)


def _bind(address: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for number in [port] if port is not None else range(PORT, PORT + TRIED):
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by which asyncio knows to send at once
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((address, number))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            if port is not None or error.errno not in (98, 48):
                reason = error.strerror or str(error)
                kind = UserError if port is not None else SfumatoError
                raise kind(
                    f"port {number} of {address} cannot be had ({reason}). Choose another --port or --host."
                ) from None
    raise UserError(f"ports {PORT} to {PORT + TRIED - 1} are all taken. Choose another with --port.")


def _names(address: str) -> tuple[str, ...]:
    """Return what this machine may be called from outside."""
    own = [socket.gethostname().lower(), *LOOPBACK]
    if address in WILDCARDS:
        found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
        own += [text for text in found if re.fullmatch(r"[0-9.]+", text)]
        return tuple(dict.fromkeys(own))
    return tuple(dict.fromkeys([f"[{address}]" if ":" in address else address.lower(), *own]))


def _public(text: str) -> tuple[str, str, str]:
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise UserError(f"--public should be an address like https://hub.example/proxy/8421/; got '{text[:80]}'.")
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    return parts.netloc.lower(), f"{parts.scheme}://{parts.netloc.lower()}", path


def _user() -> str:
    with contextlib.suppress(Exception):
        return psutil.Process().username()
    return "you"
