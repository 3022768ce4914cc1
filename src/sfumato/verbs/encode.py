"""``sfumato encode``: the posterior of every example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.core.gaussians import as_normal
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

    Args:
        source: a run or a model folder.
        data: what to encode; None: the data of the run.
        split: of the data of the run: train, validation or test; None: all.
        out: the ``.npz``; by default ``latents.npz`` in the current folder.
        force: allow the file to be there.

    Returns:
        arrays: mean and log_variance (n, latent_dim), in nats of log; label (n,), -1 where unknown. A posterior without
            variance has no log_variance.
        path: what was written.
    """
    opened = open_model(source)
    path = output_path(out, "latents.npz", (".npz",), force)
    x, y = opened.examples(data, split)
    means, log_variances = [], []
    for raw, labels in in_parts(x, opened.seen(y)):
        posterior = opened.model.encode(raw, labels)
        normal = as_normal(posterior)
        means.append(posterior.mean.numpy())
        if normal is not None:
            log_variances.append(2 * normal.scale.log().numpy())
    arrays = {"mean": np.concatenate(means), "label": y}
    if log_variances:
        arrays["log_variance"] = np.concatenate(log_variances)
    return arrays, write_arrays(path, **arrays)
