"""The application: routes, assets and the page, inside the guard."""

from __future__ import annotations

from importlib.resources import files

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.app.explorer import explorer_routes
from sfumato.app.guard import Guard, House, Limits, Refused
from sfumato.app.service import service_routes
from sfumato.app.watching import Watched

KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def build(watched: Watched, house: House, *, page: bool, limits: Limits = Limits()) -> Guard:  # noqa: B008 - immutable
    """Return the application.

    Args:
        watched: the run or model.
        house: names, port and token.
        page: serve the explorer as well as the api.
        limits: sizes and times.
    """
    from sfumato import __version__

    limiter = anyio.CapacityLimiter(limits.working)
    routes = service_routes(watched, limiter, house.token is not None, __version__)
    if page:
        routes += [*explorer_routes(watched, limiter), *asset_routes()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse, Refused: _refuse})
    app.router.redirect_slashes = False
    return Guard(app, house, limits, {route.path: ", ".join(sorted(route.methods or ())) for route in routes})


def asset_routes() -> list[Route]:
    """Return a route for every file of the page; no path of a request is ever looked up."""
    found = []
    for item in sorted(files("sfumato.app").joinpath("static").iterdir(), key=lambda item: item.name):
        suffix = item.name[item.name.rfind(".") :]
        if suffix in KINDS:
            found.append(_asset(item.name, item.read_bytes(), KINDS[suffix]))
    return found


def _asset(name: str, data: bytes, kind: str) -> Route:
    async def asset(request: Request) -> Response:
        return Response(data, media_type=kind, headers={"cache-control": "no-cache"})

    return Route("/" if name == "index.html" else f"/static/{name}", asset, methods=["GET"])


def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        status, sentence, headers = error.status, error.sentence, error.headers
    else:
        assert isinstance(error, HTTPException)
        status, headers = error.status_code, dict(error.headers or {})
        sentence = {
            404: "expected an address of this service; got another. GET /openapi.json lists them.",
            405: "expected another method for this address. GET /openapi.json lists them.",
        }.get(status, "expected another request. GET /openapi.json lists them.")
    return JSONResponse({"error": sentence}, status, headers)
