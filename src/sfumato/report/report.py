"""The report of a run: one file of html with its pictures inside, that opens anywhere.

No script, no outside address, every text of the data escaped. While a run trains, the page loads itself again every
half a minute; equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup

from sfumato.data import Dataset
from sfumato.io.store import shown, write_file
from sfumato.models.packaged import PackagedModel
from sfumato.report import evidence, figures, numbers, panels

State = Literal["running", "finished", "stopped", "failed"]
REFRESH = 30
_POINTS = {"running": 600}
_MANY_POINTS = 2000
_HEADLINES = ("evidence_bound", "bits_per_dim", "elbo", "active_units", "bayes_accuracy", "generation_accuracy", "kl")


def write_report(
    path: str | Path,
    *,
    run: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    packaged: PackagedModel | None = None,
    dataset: Dataset | None = None,
    evaluation: Mapping[str, Any] | None = None,
    verdict: Sequence[str] = (),
    state: State = "running",
    step: int = 0,
    steps: int | None = None,
) -> None:
    """Write ``report.html``, whole or not at all.

    Args:
        path: the file, in the folder of the run.
        run: the content of ``run.json``; what is missing is left out.
        metrics: the lines of ``metrics.jsonl``.
        packaged: the model as it is now; None: no pictures yet.
        dataset: what it is shown on: the test split once finished, validation before. None: no pictures.
        evaluation: the numbers of ``sfumato evaluate``, as a dictionary.
        verdict: sentences for the top.
        state: running reports refresh themselves.
        step: the steps done.
        steps: the steps planned.
    """
    page = render_report(path, run, metrics, packaged, dataset, evaluation, verdict, state, step, steps)
    write_file(path, page.encode("utf-8", errors="replace"))


def render_report(
    path: str | Path,
    run: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    packaged: PackagedModel | None,
    dataset: Dataset | None,
    evaluation: Mapping[str, Any] | None,
    verdict: Sequence[str],
    state: State,
    step: int,
    steps: int | None,
) -> str:
    """Return the page; for the arguments see :func:`write_report`."""
    split = "test" if state == "finished" else "validation"
    data = run.get("data") or {}
    names = list(packaged.class_names if packaged else ()) or [str(name) for name in data.get("class_names") or ()]
    conditional = packaged is not None and bool(packaged.model.num_classes)
    content: dict[str, Any] = {}
    active, kl = None, numbers.per_dimension(evaluation)
    found_evidence = (evaluation or {}).get("evidence") or {}
    if packaged is not None and dataset is not None:
        with panels.looking(packaged, dataset, split, _POINTS.get(state, _MANY_POINTS)) as view:
            if view is not None:
                content = _model_sections(view)
                found = view.latents
                active = found.active.tolist()
                kl = kl or (None if found.kl is None else found.kl.tolist())
    if kl and (active is None or len(active) != len(kl)):
        active = None
    return _template().render(
        content,
        name=str(run.get("name") or data.get("name") or "run"),
        state=state,
        refresh=REFRESH if state == "running" else None,
        step=step,
        steps=steps,
        done=min(1.0, step / steps) if steps else 0.0,
        split=split,
        verdict=verdict,
        headlines=_headlines(evaluation, metrics, active),
        curves=_curves(metrics, conditional),
        kl=_kl(kl, active),
        rows=numbers.rows(evaluation or {}),
        facts=numbers.facts(evaluation or {}),
        absent=numbers.absent(evaluation or {}),
        evidence=evidence.blocks(found_evidence),
        not_measured=evidence.missing(found_evidence),
        by_class=numbers.by_class(evaluation or {}, names),
        decisions=[decision for decision in run.get("decisions") or () if isinstance(decision, Mapping)],
        left_out=[_pair(item) for item in data.get("left_out") or ()],
        use=_use(Path(path).parent, data, names if conditional else (), state),
        provenance=_provenance(run, data, packaged, step),
        specs=[
            (title, json.dumps(run[key], indent=1, ensure_ascii=False))
            for key, title in (
                ("model", "model"),
                ("objective", "objective"),
                ("training", "training"),
                ("preprocessing", "preprocessing"),
            )
            if run.get(key)
        ],
    )


def _model_sections(view: panels.View) -> dict[str, Any]:
    return {
        "samples": panels.samples(view),
        "reconstructions": panels.reconstructions(view),
        "interpolations": panels.interpolations(view),
        "latent_map": panels.latent_map(view),
        "traversals": panels.traversals(view),
        "table": panels.table(view),
        "shown": len(view.raw),
    }


def _headlines(
    evaluation: Mapping[str, Any] | None, metrics: Sequence[Mapping[str, Any]], active: Sequence[bool] | None
) -> list[dict[str, str]]:
    """Return the few numbers for the top: of the evaluation, or before there is one, of the last validation."""
    found: dict[str, dict[str, str]] = {}
    if evaluation:
        for row in numbers.rows(evaluation):
            found.setdefault(row["key"].removesuffix("_given_label"), row)
    else:
        last: Mapping[str, Any] = next((line for line in reversed(metrics) if line.get("split") == "validation"), {})
        for key in ("elbo", "kl"):
            if last.get(key) is not None:
                described = numbers.label(key)
                name = f"{described.name}, validation"
                found[key] = {"name": name, "value": numbers.text(last[key]), "error": "", "unit": described.unit}
    if active is not None:
        value = f"{sum(active)} of {len(active)}"
        found.setdefault("active_units", {"name": "active dimensions", "value": value, "error": "", "unit": ""})
    return [found[key] for key in _HEADLINES if key in found][:5]


def _curves(metrics: Sequence[Mapping[str, Any]], conditional: bool) -> list[dict[str, Any]]:
    """Return a small chart for every quantity that was logged."""
    seen = {name for line in metrics for name, value in line.items() if isinstance(value, float | int)}
    names = [name for name in numbers.CURVES if name in seen]
    names += sorted(seen - set(names) - numbers.NOT_CURVES)
    if "elbo" not in names and "loss" in seen:
        names.insert(0, "loss")
    result = []
    for name in names:
        points = [figures.series(metrics, name, split) for split in ("validation", "train")]
        if max(map(len, points)) < 2:
            continue
        described = numbers.label("elbo_given_label" if conditional and name == "elbo" else name)
        last = next((series[-1, 1] for series in points if len(series)), None)
        result.append(
            {
                "name": described.name,
                "unit": described.unit,
                "better": described.better,
                "meaning": described.meaning,
                "last": numbers.text(last if last is None else float(last)),
                "svg": Markup(figures.to_svg(figures.curves(metrics, name), f"{described.name} over the steps")),
            }
        )
    return result


def _kl(kl: Sequence[float] | None, active: Sequence[bool] | None) -> dict[str, Any] | None:
    if not kl:
        return None
    ax = figures.kl_per_dimension(kl, active)
    svg = Markup(figures.to_svg(ax, "KL per latent dimension"))
    return {
        "svg": svg,
        "total": numbers.text(float(np.sum(kl))),
        "active": None if active is None else sum(active),
        "of": len(kl),
    }


def _use(folder: Path, data: Mapping[str, Any], classes: Sequence[str], state: State) -> dict[str, str]:
    """Return the lines to copy: for the shell and for Python."""
    run, dims = shlex.quote(shown(folder)), len(data.get("shape") or ())
    ending = {1: "csv", 3: "png"}.get(dims, "npz")
    samples, of_class, again, ways = (
        shlex.quote(f"{folder.name}-{word}.{ending}")
        for word in ("samples", "class", "reconstructions", "interpolations")
    )
    lines = [f"sfumato sample {run} -n 64 -o {samples}"]
    if classes:
        lines.append(f"sfumato sample {run} --class {shlex.quote(classes[0])} -o {of_class}")
    lines += [f"sfumato reconstruct {run} -o {again}", f"sfumato interpolate {run} -o {ways}"]
    lines.append(f"sfumato encode {run} -o {shlex.quote(folder.name + '-latents.npz')}")
    lines.append(f"sfumato evaluate {run}" if state == "finished" else f"sfumato train --resume {run}")
    what = "images" if dims == 3 else "rows"
    label = f", {classes[0]!r}" if classes else ""
    python = [
        "import sfumato",
        "",
        f"model = sfumato.load({str(Path(shown(folder)) / 'model')!r})",
        f"{what} = model.sample(16{label})",
        f"q = model.encode({what})  # q.mean, q.stddev",
        f"again = model.reconstruct({what})",
    ]
    return {"shell": "\n".join(lines), "python": "\n".join(python)}


def _provenance(
    run: Mapping[str, Any], data: Mapping[str, Any], packaged: PackagedModel | None, step: int
) -> list[tuple[str, str]]:
    """Return (name, value) of where the numbers come from."""
    counts, training = data.get("counts") or {}, run.get("training") or {}
    shape = "×".join(map(str, data.get("shape") or ()))
    facts: list[tuple[str, Any]] = [
        ("data", " · ".join(filter(None, [str(data.get("name") or ""), shape]))),
        ("examples", " · ".join(f"{numbers.text(count)} {name}" for name, count in counts.items())),
        ("fingerprint", data.get("fingerprint")),
        ("seed", run.get("seed", training.get("seed"))),
        ("steps", f"{step:,}" + (f" of {training['batch_size']:,} examples" if training.get("batch_size") else "")),
        ("parameters", f"{sum(p.numel() for p in packaged.parameters()):,}" if packaged is not None else None),
        ("time", _duration(run.get("seconds"))),
        ("started", run.get("started")),
        ("finished", run.get("finished")),
        ("machine", run.get("machine")),
        ("command", run.get("command")),
        *((str(name), version) for name, version in (run.get("versions") or {}).items()),
    ]
    return [(name, _plain(value)) for name, value in facts if value not in (None, "")]


def _duration(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join(
        part
        for part, there in ((f"{hours} h", hours), (f"{minutes} min", hours or minutes), (f"{rest} s", not hours))
        if there
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return str(value)


def _pair(item: Any) -> tuple[str, str]:
    """Return (what, why) of something that was left out, however it was written down."""
    if isinstance(item, Mapping):
        values = [str(value) for value in item.values()]
    else:
        values = [item] if isinstance(item, str) else [str(value) for value in item]
    return values[0] if values else "", " ".join(values[1:])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = numbers.text
    environment.filters["plain"] = _plain
    return environment.from_string(resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8"))
