"""``sfumato export``: a trained model for ONNX, diffusers or the Hub, with proof that it gives the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError, did_you_mean
from sfumato.io.folder import CONFIG, WEIGHTS
from sfumato.io.hub import parse_address, push
from sfumato.io.store import MANIFEST, read_folder, shown, with_manifest
from sfumato.verbs.opening import Opened, open_model

TARGETS = ("onnx", "diffusers", "hub")
README = "README.md"
Target = Literal["onnx", "diffusers", "hub"]


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Args:
        to: onnx, diffusers or hub.
        place: a folder, or an address.
        files: (name, bytes, what it is) of each.
        differences: part -> the largest difference from torch on ``checked`` examples; empty where nothing was checked.
        checked: how many examples.
        split: where they come from.
        notes: sentences about what was left out or measured.
        snippet: the Python that uses it.
    """

    to: Target
    place: str
    files: tuple[tuple[str, int, str], ...]
    differences: Mapping[str, float] = field(default_factory=dict)
    checked: int = 0
    split: str = "test"
    notes: tuple[str, ...] = ()
    snippet: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for json."""
        return asdict(self)


def export(
    source: str | Path,
    to: Target = "onnx",
    repo: str | None = None,
    *,
    data: Any = None,
    out: str | Path | None = None,
    check: bool | None = None,
    scaling: Literal["both", "factor", "channels"] = "both",
    private: bool = False,
    force: bool = False,
    seed: int = 0,
) -> Exported:
    """Write a model in another form.

    Args:
        source: a run or a model folder.
        to: ``onnx``, encoder, decoder and sampler as graphs on raw data; ``diffusers``, a folder that ``AutoencoderKL``
            loads; ``hub``, a model repository with a card.
        repo: owner/name, for the Hub.
        data: other data than those of the run, to check on and to measure the latent scale on.
        out: the folder; by default ``export`` in the folder of the run.
        check: compare with torch on test data; None: where there are data and what is needed is installed.
        scaling: how the scale of latents is written for diffusers: both, factor, channels.
        private: of a repository that is made.
        force: replace files that are there.
        seed: of noise and choices.

    Raises:
        UserError: a model that has no such form; something is in the way. SfumatoError: the check failed.
    """
    if to not in TARGETS:
        raise UserError(f"--to does not know '{to}'.  {did_you_mean(to, TARGETS)} ({', '.join(TARGETS)})")
    if (repo is not None) != (to == "hub"):
        need = "--to hub needs the name of a repository" if to == "hub" else f"--to {to} takes no repository"
        raise UserError(f"{need}.  For instance: sfumato export runs/photos --to hub ada/photos")
    if check and to == "hub":
        raise UserError("--check compares graphs with torch; the Hub gets the same weights. Leave it out.")
    opened = open_model(source)
    if to == "hub":
        assert repo is not None
        return _to_hub(opened, repo, private)
    if check and data is None and opened.decided is None:
        raise UserError("--check needs real data; a model folder has none. Give the folder of its run, or --data DATA.")
    place = Path(out).expanduser() if out is not None else _default_place(opened, to)
    to_folder = _to_onnx if to == "onnx" else _to_diffusers
    return to_folder(opened, place, data, check, scaling, force, seed)


def _to_onnx(
    opened: Opened, place: Path, data: Any, check: bool | None, scaling: str, force: bool, seed: int
) -> Exported:
    from sfumato.verbs import to_onnx as verb

    _refuse(place, ("encoder.onnx", "decoder.onnx", "sampler.onnx"), force)
    graphs = verb.graphs(opened.model)
    differences: dict[str, float] = {}
    count = 0
    if check is not False and (data is not None or opened.decided is not None):
        x, y = _examples(opened, data, verb.CHECKED)
        differences, count = verb.check(graphs, opened.model, x, y, seed), len(x)
    paths = verb.write(place, graphs)
    notes = [] if len(graphs) == 3 else [f"no sampler.onnx: {verb.no_sampler(opened.model.model)}"]
    if not differences:
        notes.append("not checked: no data" if check is not False else "not checked")
    files = tuple(
        (path.name, path.stat().st_size, f"{graph.takes} → {graph.gives}") for path, graph in _zip(paths, graphs)
    )
    snippet = f"import onnxruntime as o; s = o.InferenceSession('{shown(paths[0])}')"
    return Exported("onnx", shown(place), files, differences, count, _split(data), tuple(notes), snippet)


def _to_diffusers(
    opened: Opened, place: Path, data: Any, check: bool | None, scaling: Any, force: bool, seed: int
) -> Exported:
    from sfumato.io import autoencoder_kl as format_
    from sfumato.verbs import to_diffusers as verb

    verb.parts_of(opened.model)
    _refuse(place, (format_.CONFIG, format_.WEIGHTS, verb.LATENTS), force)
    known = opened.card.get("first_stage") or (opened.decided or {}).get("imported") or {}
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items() if key != "from"}
    statistics, about = None, {}
    if data is not None or opened.decided is not None:
        x, _ = opened.examples(data, None if data is not None else "train")
        statistics = verb.measure_latents(opened.model, x, seed)
        split = "all" if data is not None else "train"
        about = {"data": _name(opened, data), "split": split}
    elif not known:
        raise UserError(
            "the scale of the latents is measured on the training data, which a model folder does not have. Give the "
            "folder of its run, or --data DATA."
        )
    differences: dict[str, float] = {}
    count = 0
    if check is not False and (data is not None or opened.decided is not None):
        x, _ = _examples(opened, data, 32)
        with tempfile.TemporaryDirectory() as trial:  # what does not agree is not written
            verb.write_folder(opened.model, Path(trial), statistics, known, scaling, about)
            found = verb.check(Path(trial), opened.model, x)
        if found is None and check:
            raise UserError("--check needs diffusers, which is not installed. Run: pip install 'sfumato[diffusers]'.")
        differences, count = found or {}, len(x)
    stage = verb.write_folder(opened.model, place, statistics, known, scaling, about)
    if statistics is None:
        (place / verb.LATENTS).unlink(missing_ok=True)  # of an earlier export
    notes = []
    if statistics is not None:
        sure = f" ± {statistics.factor_error:.2g}" if statistics.n > 1 else ""
        notes.append(f"scaling_factor {statistics.factor:.5g}{sure}, measured on {statistics.n:,} training examples")
        notes.append(f"read by: {verb.READ_BY[scaling]}")
    else:
        notes.append(f"scaling_factor {stage.scaling_factor:.5g}, as in the folder that the model was imported from")
    if not differences:
        notes.append("not checked: diffusers is not installed" if check is not False and count else "not checked")
    files = tuple(
        (name, (place / name).stat().st_size, what)
        for name, what in ((format_.WEIGHTS, "weights"), (format_.CONFIG, "AutoencoderKL"), (verb.LATENTS, "measured"))
        if (place / name).exists()
    )
    snippet = f"from diffusers import AutoencoderKL; vae = AutoencoderKL.from_pretrained('{shown(place)}')"
    return Exported("diffusers", shown(place), files, differences, count, _split(data), tuple(notes), snippet)


def _to_hub(opened: Opened, repo: str, private: bool) -> Exported:
    name, revision = parse_address(repo)
    if revision:
        raise UserError(f"'{repo}' names a revision; the Hub makes a new one. Leave out what follows the @.")
    files = hub_files(opened, name)
    address = push(name, files, private=private, message=f"Model folder of sfumato, {_name(opened, None)}")
    words = {CONFIG: "configuration", WEIGHTS: "weights", MANIFEST: "SHA-256 of both", README: "model card"}
    listed = tuple((file, len(content), words[file]) for file, content in files.items())
    return Exported("hub", address, listed, snippet=f"import sfumato; model = sfumato.load('hf://{name}')")


def hub_files(opened: Opened, name: str) -> dict[str, bytes]:
    """Return what goes to the Hub: the model folder as it is, and the card."""
    from sfumato.verbs.card import model_card

    folder = opened.path if opened.folder is None else opened.folder.model
    if opened.folder is None and not folder.is_dir():
        raise UserError(f"{opened.path} is on the Hub already. Give a run or a model folder of your own.")
    if not folder.is_dir():
        raise UserError(
            f"{shown(opened.path)} has no finished model yet. Train on with: "
            f"sfumato train --resume {shown(opened.path)}"
        )
    files = read_folder(folder, (CONFIG, WEIGHTS))
    return {**with_manifest(files), README: model_card(opened, name).encode()}


def _examples(opened: Opened, data: Any, most: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return at most ``most`` real examples: of the run's test split, or of other data."""
    x, y = opened.examples(data, None if data is not None else "test")
    return np.asarray(x[np.arange(min(most, len(y)))]), y[:most]


def _default_place(opened: Opened, to: str) -> Path:
    """Return where an export goes: beside the model of a run, never into a model folder, which is a whole."""
    base = Path("export") if opened.folder is None else opened.folder.path / "export"
    return base if to == "onnx" else base / to


def _refuse(place: Path, names: tuple[str, ...], force: bool) -> None:
    """Raise UserError where something would be replaced, or a model folder spoilt."""
    if (place / MANIFEST).exists():
        raise UserError(f"{shown(place)} is a model folder, which takes no other files. Choose another with --out.")
    there = [name for name in names if os.path.lexists(place / name)]
    if there and not force:
        raise UserError(
            f"{shown(place / there[0])} exists. Choose another folder with --out, or replace it with --force."
        )
    if place.exists() and not place.is_dir():
        raise UserError(f"{shown(place)} is a file. Give the name of a folder.")


def _name(opened: Opened, data: Any) -> str:
    if data is not None:
        return Path(data).name if isinstance(data, str | Path) else "data"
    return str((opened.decided or {}).get("data", {}).get("name") or opened.card.get("data") or "data")


def _split(data: Any) -> str:
    return "test" if data is None else ""


def _zip(paths: list[Path], graphs: tuple[Any, ...]) -> Any:
    return zip(paths, graphs, strict=True)


__all__ = ["Exported", "export", "hub_files"]
