"""``sfumato info``: what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.io.run import RunFolder
from sfumato.verbs.opening import is_run, open_model
from sfumato.verbs.state import read_state

CONDITIONED = {
    (False, False): "the prior only",
    (True, False): "prior and encoder",
    (False, True): "prior and decoder",
    (True, True): "prior, encoder and decoder",
}


def info(path: str | Path) -> dict[str, Any]:
    """Return what is in the folder of a run, or a model folder, ready for json.

    Raises:
        UserError: neither of the two. DamagedError: a file of it is missing, cut or changed.
    """
    opened = open_model(path)
    packaged, model = opened.model, opened.model.model
    decoder = type(getattr(model.decoder, "network", model.decoder)).__name__
    result: dict[str, Any] = {
        "kind": "run" if is_run(path) else "model",
        "path": str(path),
        "data": {"shape": list(packaged.preprocessing.shape), "class_names": list(packaged.class_names)},
        "model": {
            "latent_dim": model.latent_dim,
            "parameters": sum(parameter.numel() for parameter in packaged.parameters()),
            **({"levels": [list(shape) for shape in model.level_shapes]} if len(model.level_shapes) > 1 else {}),
            "prior": type(model.prior).__name__,
            "posterior": type(model.posterior).__name__,
            "decoder": decoder,
            "likelihood": type(model.likelihood).__name__,
            "preprocessing": type(packaged.preprocessing).__name__,
            "num_classes": model.num_classes,
        },
        "step": opened.step,
        "versions": dict(opened.card.get("versions", {})),
    }
    if model.num_classes:
        result["model"]["classes_reach"] = CONDITIONED[model.posterior.sees_label, model.decoder.sees_label]
    if "data" in opened.card:
        result["data"]["name"] = opened.card["data"]
    if opened.decided is None:
        return result
    decided, state = opened.decided, read_state(RunFolder(path))
    result["data"] |= {key: decided["data"].get(key) for key in ("name", "counts", "origin", "fingerprint")}
    result["run"] = {
        "state": "finished" if state.finished else "unfinished",
        "step": state.step,
        "steps": state.steps,
        "seed": decided.get("seed"),
        "changed": state.ago,
    }
    result["versions"] = dict(decided.get("versions", {}))
    if state.evaluation:
        result["evaluation"] = state.evaluation
    return result
