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

from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.app.bodies import answer, checked_rows, largest, read_arrays
from sfumato.app.guard import Refused
from sfumato.app.handlers import asked_draws, route, whole
from sfumato.app.model import Served
from sfumato.app.openapi import MOST_SAMPLES, MOST_SCORED, document
from sfumato.app.watching import Watched

SCORE_SAMPLES = 64
FORMATS = ("json", "npz", "png")


def service_routes(watched: Watched, limiter: anyio.CapacityLimiter, secured: bool, version: str) -> list[Route]:
    """Return the routes of the service.

    Args:
        watched: the model, which may change while a run trains.
        limiter: of the threads that compute.
        secured: whether a token is asked for; said in the document.
        version: of sfumato.
    """

    def model(request: Request, body: bytes) -> Response:
        query(request)
        served = watched.newest().served
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
            }
        )

    def encode(request: Request, body: bytes) -> Response:
        form, served = query(request, FORMATS[:2]), watched.newest().served
        found = served.encode(*examples(request, body, served, served.most))
        arrays = {"mean": found.mean} | ({} if found.sigma is None else {"sigma": found.sigma})
        return answer(arrays, form, served.packaged.preprocessing)

    def decode(request: Request, body: bytes) -> Response:
        form, served = query(request, FORMATS), watched.newest().served
        z, y = read_arrays(body, request.headers.get("content-type", ""), "z", None)
        z = checked_rows(z, (served.latent_dim,), "z", served.most).astype(np.float32)
        return answer({"x": served.decode(z, served.labels(y, len(z)))}, form, served.packaged.preprocessing)

    def sample(request: Request, body: bytes) -> Response:
        form, served = query(request, FORMATS), watched.newest().served
        asked, found = asked_draws(body, served, "draw")
        draw = found.get("draw", False)
        if not isinstance(draw, bool):
            raise Refused(422, "expected draw as true or false; got something else. Send one of them.")
        x, y = served.sample(asked.n, asked.label, asked.temperature, asked.seed, draw)
        return answer({"x": x, "y": y}, form, served.packaged.preprocessing)

    def reconstruct(request: Request, body: bytes) -> Response:
        form, served = query(request, FORMATS), watched.newest().served
        x, y = examples(request, body, served, served.most)
        return answer({"x": served.decode(served.encode(x, y).mean, y)}, form, served.packaged.preprocessing)

    def score(request: Request, body: bytes) -> Response:
        form, served = query(request, FORMATS[:2], ("samples", "seed")), watched.newest().served
        samples = whole(request, "samples", MOST_SAMPLES, 1, SCORE_SAMPLES)
        seed = whole(request, "seed", 2**31)
        x, _ = examples(request, body, served, min(MOST_SCORED, served.most))
        value, error = served.score(x, samples, seed)
        arrays = {"log_likelihood": value, "standard_error": error}
        return answer(arrays, form, served.packaged.preprocessing, samples=samples, unit="nats")

    def described(request: Request, body: bytes) -> Response:
        query(request)
        return JSONResponse(document(watched.newest().served, secured, version))

    verbs = {"encode": encode, "decode": decode, "sample": sample, "reconstruct": reconstruct, "score": score}
    return [
        route("/openapi.json", "GET", described, limiter),
        route("/api/model", "GET", model, limiter),
        *(route(f"/api/{name}", "POST", handler, limiter) for name, handler in verbs.items()),
    ]


def examples(request: Request, body: bytes, served: Served, most: int) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Return the examples of a body in raw units, at most so many, and their class numbers where they came."""
    preprocessing = served.packaged.preprocessing
    x, y = read_arrays(body, request.headers.get("content-type", ""), "x", preprocessing)
    x = checked_rows(x, served.shape, "x", most, largest(preprocessing))
    served.check(x)
    return x, served.labels(y, len(x))


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
