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

from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sfumato.app.bodies import checked_rows, from_picture, png, shown
from sfumato.app.guard import Refused
from sfumato.app.handlers import asked_draws, route, whole
from sfumato.app.packing import pack
from sfumato.app.snapshot import Snapshot
from sfumato.app.tour import tour
from sfumato.app.watching import Watched
from sfumato.io.run import finite
from sfumato.report import figures

SCORE_SAMPLES = 64


def explorer_routes(watched: Watched, limiter: anyio.CapacityLimiter) -> list[Route]:
    """Return the routes of the explorer.

    Args:
        watched: the run.
        limiter: of the threads that compute.
    """

    def state(request: Request, body: bytes) -> Response:
        snapshot = watched.looked()
        facts = {"version": snapshot.version, "weights": snapshot.step} if snapshot else {"version": 0, "weights": None}
        return JSONResponse({"name": watched.name, **facts, **watched.state()})

    def points(request: Request, body: bytes) -> Response:
        return packed(watched.newest().once("points", packed_points))

    def atlas(request: Request, body: bytes) -> Response:
        data = watched.newest().once("atlas", thumbnails)
        if not data:
            raise Refused(404, "expected a model of images; this one has none. Draw the points without thumbnails.")
        return Response(data, media_type="image/png")

    def example(request: Request, body: bytes) -> Response:
        snapshot = watched.newest()
        number = whole(request, "i", len(snapshot.x) - 1)
        x, y = snapshot.x[number : number + 1], snapshot.y[number : number + 1]
        return packed(packed_example(snapshot, x, y if y[0] >= 0 else None))

    def decode(request: Request, body: bytes) -> Response:
        snapshot = watched.newest()
        dims = snapshot.served.latent_dim
        if not body or len(body) % (4 * dims):
            raise Refused(
                422, f"expected float32 numbers, {dims} for each z; got {len(body):,} bytes. Send whole rows."
            )
        z = checked_rows(np.frombuffer(body, "<f4").reshape(-1, dims), (dims,), "z", snapshot.served.most)
        x = snapshot.served.decode(z, snapshot.served.labels(class_of(request, snapshot), len(z)))
        return packed(shown(x, snapshot.served.packaged.preprocessing).tobytes())

    def sample(request: Request, body: bytes) -> Response:
        served = watched.newest().served
        asked, _ = asked_draws(body, served)
        z, y = served.draw(asked.n, asked.label, asked.temperature, asked.seed)
        x = served.decode(z, y if (y >= 0).all() else None)
        return packed(pack({"z": z, "y": y.astype(np.int32), "pixels": shown(x, served.packaged.preprocessing)}))

    def image(request: Request, body: bytes) -> Response:
        snapshot = watched.newest()
        preprocessing = snapshot.served.packaged.preprocessing
        if len(preprocessing.shape) != 3:
            raise Refused(415, "expected a picture for a model of images; this model is of other data. Use the api.")
        y = snapshot.served.labels(class_of(request, snapshot), 1)
        x = from_picture(body, preprocessing)[None]
        preprocessing.check(x, "the picture")
        return packed(packed_example(snapshot, x, y, score=True))

    def likely(request: Request, body: bytes) -> Response:
        watched.newest()
        values, ready = watched.likely()
        kept = [round(value, 3) for value in finite(values.tolist()) if value is not None]
        return JSONResponse({"values": kept, "ready": ready})

    def metrics(request: Request, body: bytes) -> Response:
        lines, count = watched.metrics(whole(request, "from", 10**9))
        return JSONResponse({"lines": lines, "count": count})

    def guided(request: Request, body: bytes) -> Response:
        snapshot = watched.newest()
        name = f"tour {watched.state()['finished']}"  # the curves have grown to their end by then
        return JSONResponse({"stops": snapshot.once(name, lambda made: tour(made, watched.metrics(0)[0]))})

    reading = {"state": state, "points": points, "atlas.png": atlas, "example": example, "likely": likely}
    reading |= {"metrics": metrics, "tour": guided}
    posting = {"decode": decode, "sample": sample, "image": image}
    return [
        *(route(f"/explorer/{name}", "GET", handler, limiter) for name, handler in reading.items()),
        *(route(f"/explorer/{name}", "POST", handler, limiter) for name, handler in posting.items()),
    ]


def packed(data: bytes) -> Response:
    """Return bytes as an answer."""
    return Response(data, media_type="application/octet-stream")


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
        "colours": list(figures.CLASSES),
        "of": "training examples" if snapshot.rows is not None else "samples of the model",
        "total": snapshot.total,
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
