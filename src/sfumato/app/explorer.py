"""The explorer's own addresses: what the page asks for, in few and small answers.

explorer/state            how far the run is, and the version of its weights
explorer/points           the map: posterior means, classes, planes, KL of every dimension
explorer/atlas.png        thumbnails of all points
explorer/example?i=       one training example and its posterior
explorer/decode           z (float32, n x D) to pixels
explorer/sample           z from the prior, and pixels
explorer/image            a picture: its reconstruction, posterior and log p(x)
explorer/likely           log p(x) of training examples
explorer/metrics?from=    logged lines
explorer/tour             the article's statements on this model
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.app.bodies import checked_rows, from_picture, png, read_json, shown
from sfumato.app.guard import Refused
from sfumato.app.packing import pack
from sfumato.app.snapshot import Snapshot
from sfumato.app.tour import tour
from sfumato.app.watching import Watched
from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.spec import Count, NonNegative, Range, checked
from sfumato.io.run import finite
from sfumato.io.store import DamagedError

SCORE_SAMPLES = 64
NO_STORE = {"cache-control": "no-store"}
KEPT = {"cache-control": "private, max-age=3600"}
Handler = Callable[[Request], Awaitable[Response]]


def explorer_routes(watched: Watched, limiter: anyio.CapacityLimiter) -> list[Route]:
    """Return the routes of the explorer.

    Args:
        watched: the run.
        limiter: of the threads that compute.
    """
    tours: dict[tuple[int, bool], list[dict[str, Any]]] = {}

    async def newest() -> Snapshot:
        found: Snapshot | None = await in_thread(limiter, watched.looked)
        if found is None:
            raise Refused(409, "expected a run with a checkpoint; this one has none yet. Ask again in a moment.")
        return found

    async def state(request: Request) -> Response:
        snapshot = await in_thread(limiter, watched.looked)
        facts = await in_thread(limiter, watched.state)
        version = snapshot.version if snapshot else 0
        weights = snapshot.step if snapshot else None
        return JSONResponse({"name": watched.name, "version": version, "weights": weights, **facts}, headers=NO_STORE)

    async def points(request: Request) -> Response:
        return Response(await in_thread(limiter, once, await newest(), "points", packed_points), headers=NO_STORE)

    async def atlas(request: Request) -> Response:
        data = await in_thread(limiter, once, await newest(), "atlas", thumbnails)
        if not data:
            raise Refused(404, "expected a model of images; this one has none. Draw the points without thumbnails.")
        return Response(data, media_type="image/png", headers=KEPT)

    async def example(request: Request) -> Response:
        snapshot = await newest()
        number = whole(request, "i", len(snapshot.x) - 1)
        x, y = snapshot.x[number : number + 1], snapshot.y[number : number + 1]
        return Response(
            await in_thread(limiter, packed_example, snapshot, x, y if y[0] >= 0 else None), headers=NO_STORE
        )

    async def decode(request: Request) -> Response:
        snapshot = await newest()
        dims, body = snapshot.served.latent_dim, await request.body()
        if not body or len(body) % (4 * dims):
            raise Refused(
                422, f"expected float32 numbers, {dims} for each z; got {len(body):,} bytes. Send whole rows."
            )
        z = checked_rows(np.frombuffer(body, "<f4").reshape(-1, dims), (dims,), "z", snapshot.served.most)
        y = snapshot.served.labels(class_of(request, snapshot), len(z))
        x = await in_thread(limiter, snapshot.served.decode, z, y)
        pixels = shown(x, snapshot.served.packaged.preprocessing)
        return Response(pixels.tobytes(), media_type="application/octet-stream", headers=NO_STORE)

    async def sample(request: Request) -> Response:
        found = await read_json(request, {"n": True, "class": True, "temperature": True, "seed": True})
        snapshot = await newest()
        n = checked_number(found["n"], Range(1, snapshot.served.most), "n")
        temperature = checked_number(found["temperature"], NonNegative, "temperature")
        seed = checked_number(found["seed"], Count, "seed")
        label = snapshot.served.labels(found["class"], 1)
        number = None if label is None else int(label[0])

        def work() -> bytes:
            z, y = snapshot.served.draw(n, number, temperature, seed)
            x = snapshot.served.decode(z, y if (y >= 0).all() else None)
            pixels = shown(x, snapshot.served.packaged.preprocessing)
            return pack({"z": z, "y": y.astype(np.int32), "pixels": pixels})

        return Response(await in_thread(limiter, work), headers=NO_STORE)

    async def image(request: Request) -> Response:
        snapshot, body = await newest(), await request.body()
        preprocessing = snapshot.served.packaged.preprocessing
        if len(preprocessing.shape) != 3:
            raise Refused(415, "expected a picture for a model of images; this model is of other data. Use the api.")
        y = snapshot.served.labels(class_of(request, snapshot), 1)

        def work() -> bytes:
            x = from_picture(body, preprocessing)[None]
            preprocessing.check(x, "the picture")
            return packed_example(snapshot, x, y, score=True)

        return Response(await in_thread(limiter, work), headers=NO_STORE)

    async def likely(request: Request) -> Response:
        await newest()
        values, whole_set = watched.likely()
        return JSONResponse({"values": [round(value, 3) for value in finite(values.tolist()) if value is not None],
                             "ready": whole_set}, headers=NO_STORE)  # fmt: skip

    async def metrics(request: Request) -> Response:
        lines, count = await in_thread(limiter, watched.metrics, whole(request, "from", 10**9))
        return JSONResponse({"lines": lines, "count": count}, headers=NO_STORE)

    async def guided(request: Request) -> Response:
        snapshot = await newest()
        key = (snapshot.version, watched.state()["finished"])
        if key not in tours:
            lines = (await in_thread(limiter, watched.metrics, 0))[0]
            tours.clear()
            tours[key] = await in_thread(limiter, tour, snapshot, lines)
        return JSONResponse({"stops": tours[key]}, headers=NO_STORE)

    reading = {"state": state, "points": points, "atlas.png": atlas, "example": example, "likely": likely}
    reading |= {"metrics": metrics, "tour": guided}
    posting = {"decode": decode, "sample": sample, "image": image}
    return [
        *(Route(f"/explorer/{name}", answered(handler), methods=["GET"]) for name, handler in reading.items()),
        *(Route(f"/explorer/{name}", answered(handler), methods=["POST"]) for name, handler in posting.items()),
    ]


def answered(handler: Handler) -> Handler:
    """Return the handler with our own errors as refusals: a user's mistake is 422, a damaged folder 409."""

    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except DamagedError:
            raise Refused(409, "expected the files of a whole run; some are damaged. Use an intact copy.") from None
        except UserError as error:
            raise Refused(422, str(error)) from None
        except SfumatoError:
            raise Refused(
                409, "expected the files of a whole run; some are missing or damaged. See the terminal."
            ) from None

    return wrapped


async def in_thread(limiter: anyio.CapacityLimiter, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run ``work`` in one of few threads; a request that ends before leaves its thread to finish."""
    return await anyio.to_thread.run_sync(work, *arguments, limiter=limiter, abandon_on_cancel=True)


def once(snapshot: Snapshot, name: str, make: Callable[[Snapshot], bytes]) -> bytes:
    """Return what ``make`` makes of a snapshot, made once."""
    if name not in snapshot.made:
        snapshot.made[name] = make(snapshot)
    return snapshot.made[name]


def thumbnails(snapshot: Snapshot) -> bytes:
    """Return all thumbnails as one PNG; nothing for a model of other data than images."""
    picture = snapshot.atlas()
    return b"" if picture is None else png(picture)


def packed_points(snapshot: Snapshot) -> bytes:
    """Return the map: arrays for every point and dimension, and what the page must know about the model."""
    served, found = snapshot.served, snapshot.latents
    model = served.packaged.model
    arrays: dict[str, NDArray[Any]] = {"mean": snapshot.means, "label": snapshot.y.astype(np.int32)}
    columns = {"kl": found.kl, "sigma": found.sigma, "spread": found.variance_of_mean.sqrt()}
    arrays |= {name: column.numpy().astype(np.float32) for name, column in columns.items() if column is not None}
    arrays |= {f"plane_{name}": plane for name, plane in snapshot.planes().items()}
    arrays["centre"] = snapshot.means.mean(0)
    arrays["order"] = snapshot.order().astype(np.int32)
    means = getattr(model.prior, "means", None)
    if means is not None and model.prior.num_classes:
        arrays["class_means"] = means.detach().numpy()
    if snapshot.rows is not None:
        arrays["row"] = snapshot.rows.astype(np.int32)
    facts = {
        "version": snapshot.version,
        "shape": list(served.shape),
        "latent_dim": served.latent_dim,
        "names": list(snapshot.names),
        "classes": model.num_classes,
        "decoder_sees_class": model.decoder.sees_label,
        "columns": list(snapshot.opened.columns) if len(served.shape) == 1 else [],
        "items": list(snapshot.items) if snapshot.items else None,
        "of": "training examples" if snapshot.rows is not None else "samples of the model",
        "active": found.active_units if snapshot.rows is not None else None,
        "evidence": served.has_evidence,
    }
    return pack(arrays, **facts)


def packed_example(snapshot: Snapshot, x: NDArray[Any], y: NDArray[np.int64] | None, score: bool = False) -> bytes:
    """Return one example, what comes back, its posterior and, where asked, log p(x)."""
    served = snapshot.served
    encoded = served.encode(x, y)
    again = served.decode(encoded.mean, y)
    preprocessing = served.packaged.preprocessing
    arrays: dict[str, NDArray[Any]] = {
        "pixels": shown(x, preprocessing),
        "again": shown(again, preprocessing),
        "mean": encoded.mean,
    }
    if encoded.sigma is not None:
        arrays["sigma"] = encoded.sigma
    facts: dict[str, Any] = {"log_likelihood": None, "standard_error": None, "samples": SCORE_SAMPLES}
    if score and served.has_evidence:
        value, error = served.score(x, SCORE_SAMPLES)
        facts |= {"log_likelihood": finite(float(value[0])), "standard_error": finite(float(error[0]))}
    return pack(arrays, **facts)


def class_of(request: Request, snapshot: Snapshot) -> int | None:
    """Return the class number in the query, or None; ignored where the model has no classes."""
    if "class" not in request.query_params or not snapshot.served.packaged.model.num_classes:
        return None
    return whole(request, "class", snapshot.served.packaged.model.num_classes - 1)


def whole(request: Request, name: str, high: int) -> int:
    """Return a whole number of the query, from 0 to ``high``."""
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= high):
        raise Refused(422, f"expected {name} as a whole number from 0 to {high:,}; got something else. Send one.")
    return int(text)


def checked_number(value: Any, hint: Any, name: str) -> Any:
    """Return ``value`` when it is a number as ``hint`` says; 3.0 is the whole number 3, as json has it."""
    if isinstance(hint, Range):
        hint = Annotated[int, hint]
    whole_wanted = getattr(hint, "__origin__", None) is int
    if whole_wanted and isinstance(value, float) and value.is_integer():
        value = int(value)
    return checked(value, hint, name)
