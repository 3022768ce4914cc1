"""The service's addresses: the verbs of a model over HTTP. ``openapi.json`` describes them exactly.

    GET  api/model         what it is
    POST api/encode        x to the mean and standard deviation of q(z | x)
    POST api/decode        z to x
    POST api/sample        new x, of one class if asked
    POST api/reconstruct   x to x again
    POST api/score         x to log p(x), nats, with its standard error

Bodies are json (``{"x": [...]}``), an .npz archive (arrays x or z, and y), or, for models of images, one picture;
answers are json, npz or, where they are images, one PNG, by ``?format=``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.app.bodies import answer, checked_rows, largest, read_arrays, read_json
from sfumato.app.explorer import answered, checked_number, in_thread
from sfumato.app.guard import Refused
from sfumato.app.model import Served
from sfumato.app.openapi import MOST_SAMPLES, MOST_SCORED, document
from sfumato.core.spec import Count, NonNegative, Range
from sfumato.io.run import finite

SCORE_SAMPLES = 64
FORMATS = ("json", "npz", "png")
Newest = Callable[[], Awaitable[Served]]


def service_routes(newest: Newest, limiter: anyio.CapacityLimiter, secured: bool, version: str) -> list[Route]:
    """Return the routes of the service.

    Args:
        newest: the model, which may change while a run trains.
        limiter: of the threads that compute.
        secured: whether a token is asked for; said in the document.
        version: of sfumato.
    """

    async def examples(request: Request, served: Served, most: int) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        x, y = await read_arrays(request, "x", served.packaged.preprocessing)
        x = checked_rows(x, served.shape, "x", most, largest(served.packaged.preprocessing))
        served.check(x)
        return x, classes(served, y, len(x))

    async def model(request: Request) -> Response:
        query(request)
        served = await newest()
        packaged = served.packaged
        return JSONResponse(
            {
                "shape": list(served.shape),
                "latent_dim": served.latent_dim,
                "classes": list(served.names) if packaged.model.num_classes else [],
                "prior": type(packaged.model.prior).__name__,
                "posterior": type(packaged.model.posterior).__name__,
                "likelihood": type(packaged.model.likelihood).__name__,
                "preprocessing": type(packaged.preprocessing).__name__,
                "scores": served.has_evidence,
            },
            headers={"cache-control": "no-store"},
        )

    async def encode(request: Request) -> Response:
        form, served = query(request, FORMATS[:2]), await newest()
        x, y = await examples(request, served, served.most)
        found = await in_thread(limiter, served.encode, x, y)
        arrays = {"mean": found.mean} | ({} if found.sigma is None else {"sigma": found.sigma})
        return answer(arrays, form, served.packaged.preprocessing)

    async def decode(request: Request) -> Response:
        form, served = query(request, FORMATS), await newest()
        z, y = await read_arrays(request, "z", None)
        z = checked_rows(z, (served.latent_dim,), "z", served.most).astype(np.float32)
        x = await in_thread(limiter, served.decode, z, classes(served, y, len(z)))
        return answer({"x": x}, form, served.packaged.preprocessing)

    async def sample(request: Request) -> Response:
        form, served = query(request, FORMATS), await newest()
        keys = dict.fromkeys(("n", "class", "temperature", "seed", "draw"), False)
        found = await read_json(request, keys)
        n = checked_number(found.get("n", 1), Range(1, served.most), "n")
        temperature = checked_number(found.get("temperature", 1.0), NonNegative, "temperature")
        if temperature > 100:
            raise Refused(422, f"expected a temperature from 0 to 100; got {temperature:g}. Send a smaller one.")
        seed, draw = checked_number(found.get("seed", 0), Count, "seed"), found.get("draw", False)
        if not isinstance(draw, bool):
            raise Refused(422, "expected draw as true or false; got something else. Send one of them.")
        label = served.labels(found.get("class"), 1)
        number = None if label is None else int(label[0])
        x, y = await in_thread(limiter, served.sample, n, number, temperature, seed, draw)
        return answer({"x": x, "y": y}, form, served.packaged.preprocessing)

    async def reconstruct(request: Request) -> Response:
        form, served = query(request, FORMATS), await newest()
        x, y = await examples(request, served, served.most)

        def work() -> NDArray[Any]:
            return served.decode(served.encode(x, y).mean, y)

        return answer({"x": await in_thread(limiter, work)}, form, served.packaged.preprocessing)

    async def score(request: Request) -> Response:
        form, served = query(request, FORMATS[:2], ("samples", "seed")), await newest()
        samples = counted(request, "samples", SCORE_SAMPLES, 1, MOST_SAMPLES)
        seed = counted(request, "seed", 0, 0, 2**31)
        x, _ = await examples(request, served, min(MOST_SCORED, served.most))
        value, error = await in_thread(limiter, served.score, x, samples, seed)
        if form == "npz":
            arrays = {"log_likelihood": value, "standard_error": error}
            return answer(arrays, form, served.packaged.preprocessing)
        facts = {"log_likelihood": finite(value.tolist()), "standard_error": finite(error.tolist())}
        return JSONResponse({**facts, "samples": samples, "unit": "nats"}, headers={"cache-control": "no-store"})

    async def described(request: Request) -> Response:
        query(request)
        return JSONResponse(document(await newest(), secured, version), headers={"cache-control": "no-store"})

    verbs = {"encode": encode, "decode": decode, "sample": sample, "reconstruct": reconstruct, "score": score}
    return [
        Route("/openapi.json", answered(described), methods=["GET"]),
        Route("/api/model", answered(model), methods=["GET"]),
        *(Route(f"/api/{name}", answered(handler), methods=["POST"]) for name, handler in verbs.items()),
    ]


def classes(served: Served, given: Any, n: int) -> NDArray[np.int64] | None:
    """Return class numbers for what came as y; it is an error where the model has no classes."""
    return served.labels(given, n)


def query(request: Request, forms: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> str:
    """Return the asked format, json without one; refuse whatever else the query holds."""
    known = (*(("format",) if forms else ()), *more)
    names = [name for name, _ in request.query_params.multi_items()]
    odd = next((name for name in names if name not in known or names.count(name) > 1), None)
    if odd is not None:
        wanted = f"only {', '.join(known)}, once each," if known else "nothing"
        raise Refused(422, f"expected {wanted} in the query; got something else. Leave it out.")
    form = request.query_params.get("format", "json")
    if forms and form not in forms:
        raise Refused(422, f"expected format {', '.join(forms)}; got another. Ask for one of them.")
    return form


def counted(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of the query."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
        raise Refused(422, f"expected {name} as a whole number from {low} to {high:,}; got something else. Send one.")
    return int(text)
