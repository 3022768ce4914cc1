"""``sfumato encode``: the posterior of every example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.gaussians import as_normal
from sfumato.models import Model
from sfumato.training.runtime import open_processes
from sfumato.verbs.opening import in_parts, open_model
from sfumato.verbs.writing import output_path, write_arrays


def encode(
    source: str | Path,
    data: Any = None,
    *,
    split: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> tuple[dict[str, NDArray[Any]], Path]:
    """Encode examples, in their own order.

    Started in several processes, by torchrun or accelerate launch, each encodes a part; the first one writes.

    Args:
        source: a run or a model folder.
        data: what to encode; None: the data of the run.
        split: of the data of the run: train, validation or test; None: all.
        out: the ``.npz``; by default ``latents.npz`` in the current folder.
        force: allow the file to be there.

    Returns:
        arrays: mean and log_variance (n, latent_dim), in nats of log; label (n,), -1 where unknown. A posterior without
            variance has no log_variance. A ladder has mean_1, mean_2, ..., top first, (n, *shape of the level): of each
            level given the means of those above.
        path: what was written.
    """
    processes = open_processes()
    opened = open_model(source)
    path = Path(processes.ask(lambda: str(output_path(out, "latents.npz", (".npz",), force))))
    x, y = opened.examples(data, split)
    own, counts = processes.part(torch.arange(len(x)))
    seen = opened.seen(y)
    found: dict[str, list[Tensor]] = {}
    for (rows,) in in_parts(own.numpy()):
        posterior = opened.model.encode(x[rows], None if seen is None else seen[rows])
        normal, model = as_normal(posterior), opened.model.model
        if len(model.level_shapes) > 1:
            for name, level in zip(level_names(model), model.split(posterior.mean), strict=True):
                found.setdefault(name, []).append(level)
            continue
        found.setdefault("mean", []).append(posterior.mean)
        if normal is not None:
            found.setdefault("log_variance", []).append(2 * normal.scale.log())
    arrays: dict[str, NDArray[Any]] = {"label": y}
    for name, parts in found.items():
        arrays[name] = processes.rows(torch.cat(parts)[: len(own) if counts else 0]).numpy()
    processes.ask(lambda: str(write_arrays(path, **arrays)))
    return arrays, path


def level_names(model: Model) -> list[str]:
    """Return the names of the arrays of a ladder's levels, top first."""
    return [f"mean_{number}" for number in range(1, len(model.level_shapes) + 1)]
