"""``sfumato inspect``, ``recipes``, ``evaluate``, ``report`` and ``info``: what data, recipes, runs and models are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.cli.together import as_one
from sfumato.core.errors import UserError
from sfumato.core.spec import Count, Size

Samples = Annotated[
    int | None,
    options.option("--samples", Size, "K of the bound on log p(x), exactly.  [default: 100; for --evidence 5000]"),
]
Evidence = Annotated[
    bool, typer.Option("--evidence", help="Measure log p(x) with more care, by annealing too: minutes to hours.")
]
Temperatures = Annotated[int | None, options.option("--temperatures", Size, "Steps of the annealing.  [default: 1000]")]
Chains = Annotated[int | None, options.option("--chains", Size, "Chains for each example.  [default: 16]")]
Annealed = Annotated[
    int | None, options.option("--ais", Count, "Examples to anneal, and to make for the sandwich.  [default: 20]")
]
Features = Annotated[
    Path | None,
    typer.Option("--features", metavar="FILE.onnx", help="Feature extractor of the fidelity.", show_default=False),
]
Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE.png", help="Write images as the network will see them.", show_default=False),
]


@command(
    "inspect",
    "sfumato inspect photos/",
    "sfumato inspect photos/ --size 64 --sheet seen.png",
    "sfumato inspect people.csv --label bought --json",
)
def inspect(
    data: options.Data = None,
    size: options.ImageSize = None,
    label: options.Label = None,
    split: options.Shares = None,
    skip_bad: options.SkipBad = False,
    stream: options.Stream = None,
    latent_dim: options.LatentDim = None,
    levels: options.Levels = None,
    conditional: options.Conditional = None,
    likelihood: options.Likelihood = None,
    binarise: options.Binarise = None,
    recipe: options.Recipe = None,
    seed: options.TrainingSeed = None,
    sheet: Sheet = None,
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Say what is in DATA, and what a training would do with it."""
    if data is None:
        raise UserError("inspect needs DATA.  For instance: sfumato inspect photos/")
    from sfumato.cli.printing import console, flags, next_block, print_columns, say, show, show_json
    from sfumato.recipes import Options
    from sfumato.verbs import inspect as verb

    wishes = Options(
        recipe=recipe,
        latent_dim=latent_dim,
        levels=levels,
        conditional=conditional,
        likelihood=likelihood,
        binarise=binarise,
        seed=seed or 0,
    )
    reading: dict[str, Any] = {"size": size, "label": label, "skip_bad": skip_bad, "stream": stream}
    if split is not None:
        reading["split"] = split
    found = verb.inspect(data, options=wishes, **reading)
    written = found.write_sheet(sheet, force) if sheet is not None else None
    if json:
        show_json(found.to_dict())
        return 0
    from sfumato.cli.talk import decision_rows, fact_rows

    show(data)
    out = console(stderr=False)
    print_columns(out, fact_rows(found), indent=2)
    show("")
    heads = [("  would be decided", "", "because", "change with")]
    rows = [
        (f"  {name}", value, because, change) for _, name, value, because, change in decision_rows("", found.decisions)
    ]
    print_columns(out, heads + rows, dim=3)
    if written:
        say(f"sheet    {written}")
    given = {
        "label": label,
        "size": None if size is None else "x".join(map(str, size if isinstance(size, tuple) else (size,))),
        "split": None if split is None else ",".join(map(str, split)),
        "latent-dim": latent_dim,
        "levels": levels,
        "likelihood": likelihood,
        "binarise": binarise,
        "recipe": recipe,
        "seed": seed,
    }
    switches = {"skip-bad": skip_bad or None, "conditional": conditional, "stream": stream}
    say(next_block(["train", data, *flags(given | switches)]))
    return 0


@command("recipes", "sfumato recipes", "sfumato train photos/ --recipe beta-vae", "sfumato recipes --json")
def recipes(json: options.Json = False) -> int:
    """Everything that --recipe takes: networks, ladders and papers, with references."""
    from dataclasses import asdict

    from sfumato.cli.printing import console, print_columns, show_json
    from sfumato.verbs.recipes import recipes as entries

    found = entries()
    if json:
        show_json([asdict(entry) for entry in found])
    else:
        rows = [(entry.name, entry.kind, entry.about, entry.reference) for entry in found]
        print_columns(console(stderr=False), rows, keep=1, dim=3)
    return 0


@command(
    "evaluate",
    "sfumato evaluate runs/photos",
    "sfumato evaluate runs/photos --samples 1000 --json",
    "sfumato evaluate runs/photos --evidence --ais 20 --temperatures 500",
)
def evaluate(
    run: options.Run,
    samples: Samples = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    evidence: Evidence = False,
    temperatures: Temperatures = None,
    chains: Chains = None,
    ais: Annealed = None,
    features: Features = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure a run: numbers with standard errors and units.  Several processes share the work."""
    given = {
        "samples": samples,
        "split": split or "test",
        "seed": seed,
        "evidence": evidence,
        "temperatures": temperatures,
        "chains": chains,
        "ais": ais,
        "features": features,
    }
    return as_one(lambda first: _evaluate(run, given, first, json, quiet or not first))


@command("report", "sfumato report runs/photos")
def report(run: options.Run) -> int:
    """Write report.html of a run again."""
    from sfumato.cli.printing import show
    from sfumato.verbs.evaluate import report as verb

    show(verb(run).resolve().as_uri())
    return 0


@command("info", "sfumato info runs/photos", "sfumato info runs/photos/model --json")
def info(run: options.Model, json: options.Json = False) -> int:
    """Say what the folder of a run, or a model folder, holds."""
    from sfumato.cli.printing import console, print_columns, show, show_json
    from sfumato.verbs.info import info as verb

    found = verb(run)
    if json:
        show_json(found)
        return 0
    from sfumato.cli.talk import evaluation_rows

    data, model, state = found["data"], found["model"], found.get("run")
    names = ", ".join(data["class_names"][:12])
    rows = [("data", " · ".join(filter(None, [data.get("name"), "x".join(map(str, data["shape"]))])))]
    if data.get("counts"):
        rows.append(("", " · ".join(f"{count:,} {name}" for name, count in data["counts"].items())))
    rows.append(("model", f"latent {model['latent_dim']} · {model['parameters']:,} parameters · {model['decoder']}"))
    rows.append(("likelihood", f"{model['likelihood']} on {model['preprocessing']}"))
    rows.append(("prior", f"{model['prior']}, posterior {model['posterior']}"))
    if names:
        seen = f"   (seen by {model['classes_reach']})" if model["num_classes"] else "   (not used)"
        rows.append(("classes", f"{len(data['class_names'])}: {names}{seen}"))
    if state:
        rows.append(("state", f"{state['state']}, step {state['step']:,} of {state['steps']:,}, {state['changed']}"))
    if found["step"] is not None:
        rows.append(("weights", f"of step {found['step']:,}"))
    rows.append(("versions", " · ".join(f"{name} {value}" for name, value in found["versions"].items())))
    show(f"{run}   a {found['kind']}")
    out = console(stderr=False)
    print_columns(out, rows, indent=2)
    if "evaluation" in found:
        show("")
        print_columns(out, evaluation_rows(found["evaluation"], short=True), indent=2, dim=2)
    return 0


def _evaluate(run: str, given: dict[str, Any], first: bool, json: bool, quiet: bool) -> int:
    """Measure, and print the numbers where this is the ``first`` process."""
    from sfumato.cli.printing import console, print_columns, show, show_json
    from sfumato.cli.progress import progress
    from sfumato.cli.talk import details, evaluation_rows
    from sfumato.report import evidence as sections
    from sfumato.verbs import evaluate as verb

    shown = progress(console(stderr=True), "img", quiet)
    try:
        result = verb.evaluate(run, tell=shown.on_measuring, **given)
    finally:
        shown.close()
    if json and first:
        show_json(result)
    if json or not first:
        return 0
    show(f"{run}, {result['n']:,} examples of the {result['split']} split, ± standard error")
    out = console(stderr=False)
    print_columns(out, evaluation_rows(result), indent=2, dim=2)
    for line in details(result):
        show(line)
    if given["evidence"]:
        for title, rows in sections.blocks(result["evidence"]):
            show(title)
            print_columns(out, rows, indent=2, dim=2)
        for name, why in sections.missing(result["evidence"]):
            show(f"not measured: {name} ({why})")
    return 0
