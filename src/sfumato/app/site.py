"""``sfumato export --to site``: the explorer as a folder that needs no server, and opens by a double click.

The decoder and the encoder run in the browser, layer by layer in plain JavaScript (``static/net.js``): no WebAssembly,
so the whole weighs what the weights weigh, and a third more, as text. The modules of the page become one script, for
pages opened from a disk may not load modules; data are scripts too, for such pages may not fetch.

What it cannot do: log p(x) of a picture, and networks other than MLP, ConvEncoder, ConvDecoder, with or without label.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sfumato.app import bodies
from sfumato.app.explorer import packed_points, thumbnails
from sfumato.app.packing import pack
from sfumato.app.snapshot import Snapshot
from sfumato.app.tour import tour
from sfumato.app.watching import watch
from sfumato.core.errors import UserError
from sfumato.data import Binarise, Identity, Integers, Levels, Preprocessing, Standardise
from sfumato.io.store import shown, write_folder
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.networks import MLP, ConvDecoder, ConvEncoder, WithLabel
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.report.pictures import display_range

POINTS = 2_000
EXPECTATIONS = {Bernoulli: "sigmoid", Gaussian: "first", DiscretizedLogistic: "shifted", Categorical: "levels"}
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: blob: data:; "
    "base-uri 'none'; form-action 'none'"
)


def write_site(run: str | Path, out: str | Path | None = None, *, points: int = POINTS, replace: bool = False) -> Path:
    """Write the explorer of a run as a static folder.

    Args:
        run: a run or a model folder.
        out: the folder, by default ``site`` in the current one.
        points: how many training examples the map shows at most.
        replace: allow a folder to be there.

    Returns:
        its ``index.html``.

    Raises:
        UserError: a model of other parts than the page can run, or a folder that exists.
    """
    place = Path("site" if out is None else out).expanduser()
    watched = watch(run, points)
    snapshot = watched.look()
    if snapshot is None:
        raise UserError(f"{shown(Path(run))} has no checkpoint yet. Train on, or wait for the first one.")
    content = site_files(snapshot, watched.name, watched.state(), watched.metrics(0)[0])
    if place.exists() and not replace:
        raise UserError(f"{shown(place)} exists. Choose another with --out, or replace it with --force.")
    write_folder(place, content, replace=replace)
    return place / "index.html"


def site_files(
    snapshot: Snapshot, name: str, state: Mapping[str, Any], metrics: list[dict[str, Any]]
) -> dict[str, bytes]:
    """Return file name -> content."""
    program, weights = networks(snapshot)
    preprocessing = snapshot.served.packaged.preprocessing
    images = len(preprocessing.shape) == 3
    site = {
        "state": {"name": name, "version": snapshot.version, "weights": snapshot.step, **state, "finished": True},
        "model": program,
        "weights": _text(pack(weights)),
        "points": _text(packed_points(snapshot)),
        "atlas": "data:image/png;base64," + _text(thumbnails(snapshot)) if images else None,
        "rows": None if images else _text(pack({"x": bodies.shown(snapshot.x, preprocessing)})),
        "metrics": metrics,
        "stops": tour(snapshot, metrics),
    }
    static = files("sfumato.app").joinpath("static")
    page = static.joinpath("index.html").read_text("utf-8")
    page = re.sub(r'<script type="module".*?</script>\n', "", page)
    page = page.replace('"static/', '"')
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}')
    page = page.replace("</body>", '<script src="data.js"></script>\n<script src="page.js"></script>\n</body>')
    data = "window.SFUMATO = " + json.dumps(site, allow_nan=False).replace("<", "\\u003c") + ";\n"
    plain = {item: static.joinpath(item).read_bytes() for item in ("style.css", "rooms.css", "mark.svg")}
    return {"index.html": page.encode(), "data.js": data.encode(), "page.js": one_script().encode(), **plain}


def one_script() -> str:
    """Return all modules of the page as one script: each a function, called once what it imports has been."""
    static = files("sfumato.app").joinpath("static")
    done: list[str] = []
    parts = ['"use strict";\nconst modules = {};']

    def add(name: str) -> None:
        if name in done:
            return
        done.append(name)
        source = static.joinpath(name).read_text("utf-8")
        for other in re.findall(r'^import \{[^}]*\} from "\./(.*?)";$', source, flags=re.MULTILINE):
            add(other)
        source = re.sub(
            r'^import (\{[^}]*\}) from "\./(.*?)";$', r'const \1 = modules["\2"];', source, flags=re.MULTILINE
        )
        exported = re.findall(r"^export (?:async )?(?:function|class|const) ([\w$]+)", source, flags=re.MULTILINE)
        source = re.sub(r"^export ", "", source, flags=re.MULTILINE)
        parts.append(f'modules["{name}"] = (() => {{\n{source}\nreturn {{ {", ".join(exported)} }};\n}})();')

    add("main.js")
    return "\n".join(parts) + "\n"


def networks(snapshot: Snapshot) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what the page must know to run the model, and its weights.

    Raises:
        UserError: a part that the page cannot run.
    """
    packaged = snapshot.served.packaged
    model = packaged.model
    posterior, prior = model.posterior, model.prior
    if not isinstance(posterior, DiagonalGaussian):
        raise _cannot(posterior)
    if type(model.likelihood) not in EXPECTATIONS:
        raise _cannot(model.likelihood)
    weights = {
        name: tensor.detach().float().numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith(("decoder.", "posterior."))
    }
    program: dict[str, Any] = {
        "decoder": describe(model.decoder, "decoder"),
        "likelihood": EXPECTATIONS[type(model.likelihood)],
        "posterior": {
            part: describe(network, f"posterior.{part}")
            for part in ("mean", "log_variance", "trunk")
            if (network := getattr(posterior, part)) is not None
        },
        "prior": {"classes": 0},
    } | mapping(packaged.preprocessing)
    if isinstance(prior, ClassConditional):
        program["prior"] = {"classes": prior.num_classes}
        with torch.no_grad():
            normal = prior(torch.arange(prior.num_classes)).gaussian()
        assert normal is not None
        weights |= {"means": normal.mean.numpy(), "deviations": normal.stddev.numpy()}
        weights["frequencies"] = prior.log_frequencies.exp().numpy()
    elif not isinstance(prior, StandardNormal):
        raise _cannot(prior)
    return program, {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}


def describe(network: nn.Module, name: str) -> dict[str, Any]:
    """Return the layers of a network, by which ``static/net.js`` runs it."""
    if isinstance(network, WithLabel):
        rest = network.network.in_shape[1:]
        inner = describe(network.network, f"{name}.network")
        planes = math.prod(rest)
        return {"op": "label", "name": name, "classes": network.num_classes, "planes": planes, "network": inner}
    if isinstance(network, MLP):
        return {"op": "mlp", "name": f"{name}.layers", "layers": list(_layers(network))}
    if isinstance(network, ConvEncoder):
        *_, height, width = network.in_shape
        start = [math.prod(network.in_shape[:-2]), height, width]
        kinds = [{"at": at, "kind": "conv" if isinstance(layer, nn.Conv2d) else "residual"}
                 for at, layer in enumerate(network.layers)]  # fmt: skip
        return {"op": "encoder", "name": name, "start": start, "layers": kinds}
    if isinstance(network, ConvDecoder):
        blocks = len(network.stages[0]) - 2  # type: ignore[arg-type]
        sizes = [list(size) for size in network.sizes[1:]]
        return {"op": "decoder", "name": name, "start": list(network.start), "sizes": sizes, "blocks": blocks}
    raise _cannot(network)


def mapping(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return how x is shown and how pictures are taken.

    Images: (factor x + shift) is 0 for black and 1 for white; other data: the raw value.
    """
    images = len(preprocessing.shape) == 3
    if isinstance(preprocessing, Standardise):
        low, high = display_range(preprocessing) if images else (0.0, 1.0)
        scale, mean = (np.atleast_1d(item.double().numpy()) for item in (preprocessing.scale, preprocessing.mean))
        show = {"factor": (scale / (high - low)).tolist(), "shift": ((mean - low) / (high - low)).tolist()}
        take = {"factor": (high - low) / 255 / scale[0], "shift": (low - mean[0]) / scale[0]}
        return {"show": show, "take": take}
    if isinstance(preprocessing, Identity) or (isinstance(preprocessing, Binarise) and preprocessing.mode == "fixed"):
        return {"show": {"factor": [1], "shift": [0]}, "take": {"levels": 1, "over": 1}}
    if isinstance(preprocessing, Binarise):
        return {"show": {"factor": [1], "shift": [0]}, "take": {"factor": 1 / 255, "shift": 0}}
    if isinstance(preprocessing, Levels | Integers):
        top = preprocessing.levels - 1
        step = 1 if isinstance(preprocessing, Integers) else top
        factor = 1 / (top / step) if images else preprocessing.high / (top / step)
        return {"show": {"factor": [factor], "shift": [0]}, "take": {"levels": top, "over": step}}
    raise _cannot(preprocessing)


def _layers(network: MLP) -> Iterator[dict[str, Any]]:
    layers = list(network.layers)
    for at, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            after = layers[at + 1] if at + 1 < len(layers) else None
            yield {"at": at, "act": "none" if after is None else type(after).__name__.lower()}


def _cannot(part: nn.Module) -> UserError:
    return UserError(
        f"a site runs {', '.join(kind.__name__ for kind in (MLP, ConvEncoder, ConvDecoder))} under StandardNormal or "
        f"ClassConditional in the browser; got {type(part).__name__}. Use sfumato explore."
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
