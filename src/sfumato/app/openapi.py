"""The description of the service, OpenAPI 3.1: exact for the model that is served, its shapes and its classes."""

from __future__ import annotations

from typing import Any

from sfumato.app.bodies import JSON, LARGEST, NPZ, PICTURES, largest
from sfumato.app.model import Served
from sfumato.data import Identity, Preprocessing, Standardise

MOST_SCORED = 64
MOST_SAMPLES = 256


def document(served: Served, secured: bool, version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        served: the model.
        secured: whether a token is asked for.
        version: of sfumato.
    """
    packaged, images, most = served.packaged, len(served.shape) == 3, served.most
    classes = packaged.model.num_classes
    x, x_scored = (
        rows(values(packaged.preprocessing), served.shape, count) for count in (most, min(most, MOST_SCORED))
    )
    z = rows(number(-LARGEST, LARGEST), (served.latent_dim,), most)
    made = rows({"type": ["number", "null"]}, served.shape, most)
    number_of_class = {"type": "integer", "minimum": 0, "maximum": classes - 1}
    y = {"anyOf": [number_of_class, {"enum": list(served.names)}, {"type": "null"}]}  # null: not known
    latent = rows({"type": ["number", "null"]}, (served.latent_dim,), most)
    each = {"type": "array", "items": {"type": ["number", "null"]}}
    sample: dict[str, Any] = {
        "n": {"type": "integer", "minimum": 1, "maximum": most, "default": 1},
        "temperature": {"type": "number", "minimum": 0, "maximum": 100, "default": 1},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**53, "default": 0},
        "draw": {"type": "boolean", "default": False},
    } | ({"class": y} if classes else {})
    forms = ["json", "npz", *(["png"] if images else [])]
    draws = [whole("samples", 1, MOST_SAMPLES, 64), whole("seed", 0, 2**31, 0)]
    label = ({"y": y},) if classes else ()
    paths = {
        "/api/model": {"get": operation("What the model is", ok(obj({}, closed=False)))},
        "/api/encode": {
            "post": operation(
                "Mean and standard deviation of q(z | x)",
                ok(obj({"mean": latent, "sigma": latent}, ["mean"]), npz=True),
                body({"x": x}, label, images),
                [choice("format", forms[:2])],
            )
        },
        "/api/decode": {
            "post": operation(
                "The expected data at z",
                ok(obj({"x": made}), npz=True, png=images),
                body({"z": z}, label, False),
                [choice("format", forms)],
            )
        },
        "/api/sample": {
            "post": operation(
                "New examples",
                ok(obj({"x": made, "y": {"type": "array", "items": {"type": "integer"}}}), True, images),
                {"required": True, "content": {JSON: {"schema": obj(sample, [])}}},
                [choice("format", forms)],
            )
        },
        "/api/reconstruct": {
            "post": operation(
                "The expected data at the posterior mean",
                ok(obj({"x": made}), npz=True, png=images),
                body({"x": x}, label, images),
                [choice("format", forms)],
            )
        },
        "/api/score": {
            "post": operation(
                "log p(x) in nats and its standard error over draws",
                ok(
                    obj(
                        {
                            "log_likelihood": each,
                            "standard_error": each,
                            "samples": {"type": "integer"},
                            "unit": {"const": "nats"},
                        }
                    ),
                    npz=True,
                ),
                body({"x": x_scored}, label, images),
                [choice("format", forms[:2]), *draws],
            )
        },
    }
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "sfumato", "version": version, "description": repr(packaged)},
        "paths": paths,
        "components": {"schemas": {"Error": obj({"error": {"type": "string"}})}},
    }
    if secured:
        result["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        result["security"] = [{"token": []}]
    return result


def values(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what one value of x may be."""
    if isinstance(preprocessing, Identity):
        return {"enum": [0, 1]}
    if isinstance(preprocessing, Standardise):
        return number(-largest(preprocessing), largest(preprocessing))
    high, levels = getattr(preprocessing, "high", 1.0), getattr(preprocessing, "levels", 0)
    if levels and high == levels - 1:
        return {"type": "integer", "minimum": 0, "maximum": int(high)}
    return {"enum": [level * high / (levels - 1) for level in range(levels)]} if levels else number(0, high)


def rows(item: dict[str, Any], shape: tuple[int, ...], most: int) -> dict[str, Any]:
    """Return the schema of 1 to ``most`` examples as nested lists."""
    schema = item
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return {"type": "array", "items": schema, "minItems": 1, "maxItems": most}


def number(low: float, high: float) -> dict[str, Any]:
    """Return the schema of a number."""
    return {"type": "number", "minimum": low, "maximum": high}


def obj(properties: dict[str, Any], required: list[str] | None = None, closed: bool = True) -> dict[str, Any]:
    """Return the schema of an object; all its keys are required where nothing else is said."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed} | (
        {"additionalProperties": False} if closed else {}
    )


def body(properties: dict[str, Any], more: tuple[dict[str, Any], ...], pictures: bool) -> dict[str, Any]:
    """Return a request body: json, npz, and pictures where the model is of images."""
    (name, schema), *_ = properties.items()
    one = {key: value for part in more for key, value in part.items()}
    content: dict[str, Any] = {
        JSON: {"schema": obj({name: schema, **one}, [name])},
        NPZ: {"schema": {"type": "string", "format": "binary", "description": f"numpy.savez with {name}"}},
    }
    content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in PICTURES if pictures}
    return {"required": True, "content": content}


def ok(schema: dict[str, Any], npz: bool = False, png: bool = False) -> dict[str, Any]:
    """Return the answer that goes well."""
    content: dict[str, Any] = {JSON: {"schema": schema}}
    content |= {NPZ: {"schema": {"type": "string", "format": "binary"}}} if npz else {}
    content |= {"image/png": {"schema": {"type": "string", "format": "binary"}}} if png else {}
    return {"description": "done", "content": content}


def choice(name: str, names: list[str]) -> dict[str, Any]:
    """Return a query parameter that is one of some names."""
    return {"name": name, "in": "query", "schema": {"type": "string", "enum": names, "default": names[0]}}


def whole(name: str, low: int, high: int, default: int) -> dict[str, Any]:
    """Return a query parameter that is a whole number."""
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
    return {"name": name, "in": "query", "schema": schema}


def operation(
    summary: str,
    done: dict[str, Any],
    request: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return one operation, with the refusals that all share."""
    error = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    codes = {
        "400": "not readable", "401": "no token", "403": "from another page", "405": "another method",
        "408": "too slow", "409": "no model yet", "411": "no Content-Length", "413": "too large", "414": "too long",
        "415": "another kind of body", "421": "another host", "422": "not what the model takes", "429": "too busy",
        "503": "takes too long",
    }  # fmt: skip
    result: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": done, **{code: {"description": text, **error} for code, text in codes.items()}},
    }
    return result | ({"requestBody": request} if request else {}) | ({"parameters": parameters} if parameters else {})
