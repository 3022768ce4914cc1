"""What the tests of the service share: an ASGI client, tiny models, and a server in a thread."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

from sfumato.app.application import build
from sfumato.app.guard import House, Limits
from sfumato.app.server import Place, place, serve
from sfumato.app.watching import watch
from sfumato.data import Levels, Standardise
from sfumato.io.folder import save_model
from sfumato.likelihoods import DiscretizedLogistic, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import ClassConditional, StandardNormal

PORT = 8421
HOUSE = House(PORT)
HOST = f"127.0.0.1:{PORT}"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


def headers_of(body: bytes | None, kind: str | None, more: dict[str, str | None] | None) -> list[tuple[bytes, bytes]]:
    given: dict[str, str | None] = {"host": HOST}
    if body is not None:
        given["content-length"] = str(len(body))
    if kind is not None:
        given["content-type"] = kind
    given |= more or {}
    return [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value is not None]


async def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | None = None,
    kind: str | None = None,
    headers: dict[str, str | None] | None = None,
    raw: list[tuple[bytes, bytes]] | None = None,
    pieces: list[Any] | None = None,
) -> Answer:
    """Ask an ASGI application; ``pieces`` are the messages of a body that comes in its own way."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": raw if raw is not None else headers_of(body, kind, headers),
        "server": ("127.0.0.1", PORT),
        "client": ("127.0.0.1", 50_000),
    }
    messages = iter(pieces or [{"type": "http.request", "body": body or b"", "more_body": False}])
    sent: list[Any] = []

    async def receive() -> Any:
        found = next(messages, {"type": "http.disconnect"})
        return await found() if callable(found) else found

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0].get("headers", [])}
    return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


def call(app: Any, method: str, path: str, body: Any = None, kind: str | None = None, **more: Any) -> Answer:
    """Ask once; a body that is no bytes becomes json."""
    if body is not None and not isinstance(body, bytes):
        body, kind = json.dumps(body).encode(), kind or "application/json"
    return asyncio.run(ask(app, method, path, body, kind, **more))


def table_model(classes: int = 0, seen: bool = False) -> PackagedModel:
    """Rows of three numbers, two latent dimensions."""
    torch.manual_seed(1)
    posterior = DiagonalGaussian(mean=MLP((3,), (2,), (8,)), log_variance=MLP((3,), (2,), (8,)))
    decoder: Any = MLP((2 + classes * seen,), (1, 3), (8,))
    prior: Any = ClassConditional(classes, 2) if classes else StandardNormal(2)
    vae = VAE(prior, posterior, WithLabel(decoder, classes) if seen else decoder, Gaussian((3,), "fixed"))
    names = tuple(f"class {number}" for number in range(classes))
    return PackagedModel(vae, Standardise((3,)), names).eval()


def image_model(channels: int = 1) -> PackagedModel:
    """Images of 4x4, three latent dimensions, two classes with names that are markup."""
    torch.manual_seed(2)
    shape = (channels, 4, 4)
    posterior = DiagonalGaussian(mean=MLP(shape, (3,), (8,)), log_variance=MLP(shape, (3,), (8,)))
    likelihood = DiscretizedLogistic(shape)
    decoder = MLP((3,), likelihood.parameter_shape, (8,))
    names = ("<img src=x onerror=alert(1)>", "=1+1")
    return PackagedModel(VAE(ClassConditional(2, 3), posterior, decoder, likelihood), Levels(shape), names).eval()


def saved(folder: Path, packaged: PackagedModel) -> Path:
    """Write a model folder."""
    save_model(folder / "model", packaged, card={"data": "tiny"})
    return folder / "model"


def application(path: Path, *, page: bool = True, house: House = HOUSE, limits: Limits | None = None) -> Any:
    """Return the application of a folder."""
    return build(watch(path, 200), house, page=page, limits=limits or Limits())


@contextmanager
def served(app_of: Any, **where: Any) -> Iterator[Place]:
    """Serve in a thread, as the command does; ``app_of`` makes the application for a place."""
    bound = place(port=0, **where)
    ready = threading.Event()
    servers: list[uvicorn.Server] = []
    original = uvicorn.Server.__init__

    def remember(self: uvicorn.Server, config: uvicorn.Config) -> None:
        original(self, config)
        servers.append(self)

    uvicorn.Server.__init__ = remember  # type: ignore[method-assign]
    try:
        thread = threading.Thread(target=serve, args=(app_of(bound), bound, ready.set), daemon=True)
        thread.start()
        assert ready.wait(20)
        yield bound
    finally:
        uvicorn.Server.__init__ = original  # type: ignore[method-assign]
        servers[0].should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def mutant(module: ModuleType, before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module with one line of it changed."""
    source, name = inspect.getsource(module), f"mutant_of_{module.__name__.rpartition('.')[2]}"
    assert source.count(before) == 1, before
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(source.replace(before, after), name, "exec"), made.__dict__)
    return made


def bars(n: int = 60, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images of three classes: a bright bar in one of three places."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = generator.integers(0, 20, (n, side, side))
    for number, where in enumerate(y):
        x[number, 2 * where + 1 : 2 * where + 3] += generator.integers(120, 230)
    return x.astype(np.uint8), y
