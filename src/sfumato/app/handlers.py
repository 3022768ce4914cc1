"""What every address shares: its work in one of few threads, our own errors as refusals, numbers that were asked for.

A handler is plain code: request and body in, an answer out. Nothing of it runs in the thread that listens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sfumato.app.bodies import read_json
from sfumato.app.guard import Refused
from sfumato.app.model import Served
from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.spec import Count, Range, checked
from sfumato.io.store import DamagedError

HOTTEST = 100.0
Handler = Callable[[Request, bytes], Response]


def route(path: str, method: str, handler: Handler, limiter: anyio.CapacityLimiter) -> Route:
    """Return the route of a handler. A user's mistake is refused with 422, a damaged folder with 409.

    Args:
        path: of the address.
        method: GET or POST.
        handler: runs in a thread.
        limiter: of the threads.
    """

    def work(request: Request, body: bytes) -> Response:
        try:
            return handler(request, body)
        except DamagedError:
            raise Refused(409, "expected the files of a whole run; some are damaged. Use an intact copy.") from None
        except UserError as error:
            raise Refused(422, str(error)) from None
        except SfumatoError:
            sentence = "expected the files of a whole run; some are missing or damaged. See the terminal."
            raise Refused(409, sentence) from None

    async def answered(request: Request) -> Response:
        body = await request.body()
        return await anyio.to_thread.run_sync(work, request, body, limiter=limiter, abandon_on_cancel=True)

    endpoint: Callable[[Request], Awaitable[Response]] = answered
    return Route(path, endpoint, methods=[method])


def whole(request: Request, name: str, high: int, low: int = 0, default: int = 0) -> int:
    """Return a whole number of the query, from ``low`` to ``high``."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
        raise Refused(422, f"expected {name} as a whole number from {low} to {high:,}; got something else. Send one.")
    return int(text)


@dataclass(frozen=True)
class Draws:
    """What was asked to be drawn from the prior: n examples, of one class or None, at a temperature, by a seed."""

    n: int
    label: int | None
    temperature: float
    seed: int


def asked_draws(body: bytes, served: Served, *more: str) -> tuple[Draws, dict[str, Any]]:
    """Return what the json asks to be drawn, and all of it; ``more`` keys may be there as well."""
    found = read_json(body, dict.fromkeys(("n", "class", "temperature", "seed", *more), False))
    n = _number(found.get("n", 1), Annotated[int, Range(1, served.most)], "n")
    temperature = _number(found.get("temperature", 1.0), Annotated[float, Range(0.0, HOTTEST)], "temperature")
    seed = _number(found.get("seed", 0), Count, "seed")
    label = served.labels(found.get("class"), 1)
    return Draws(n, None if label is None else int(label[0]), temperature, seed), found


def _number(value: Any, hint: Any, name: str) -> Any:
    """Return ``value`` when it is a number as ``hint`` says; 3.0 is the whole number 3, as json has it."""
    if hint.__origin__ is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    return checked(value, hint, name)
