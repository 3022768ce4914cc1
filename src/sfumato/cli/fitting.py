"""``sfumato fit-prior``: another prior for a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.core.spec import Size

Kind = Annotated[
    str | None,
    options.chosen(
        "--prior", options.PRIORS, "What is fitted.  [default: codes, class-mixture or gaussian-mixture, as it fits]"
    ),
]
Draws = Annotated[int | None, options.option("--draws", Size, "z of q(z | x) of each example.  [default: 5]")]
Steps = Annotated[int | None, options.option("--steps", Size, "Steps of Adam, at most.  [default: 3000]")]
Samples = Annotated[int | None, options.option("--samples", Size, "z of each example for the ELBO.  [default: 10]")]
Out = Annotated[Path | None, options.written("RUN", "The new run.  [default: RUN-PRIOR]")]
WORDS = {"elbo": "ELBO", "log_prior": "log p(z)"}


@command(
    "fit-prior",
    "sfumato fit-prior runs/photos",
    "sfumato fit-prior runs/photos --prior coupling -o runs/photos-flow",
    "sfumato fit-prior runs/photos --prior second-stage --json",
)
def fit_prior(
    run: options.Run,
    prior: Kind = None,
    draws: Draws = None,
    steps: Steps = None,
    samples: Samples = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    out: Out = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Fit another prior to where the posteriors are, and tell the held-out ELBO before and after."""
    from sfumato.cli.printing import console, next_block, print_columns, say, show, show_json
    from sfumato.cli.progress import progress
    from sfumato.io.store import shown
    from sfumato.verbs.fit_prior import fit_prior as verb

    given: dict[str, Any] = {"draws": draws, "steps": steps, "samples": samples, "split": split}
    bar = progress(console(stderr=True), "img", quiet)
    try:
        more = {name: value for name, value in given.items() if value is not None}
        found = verb(run, prior, seed=seed, out=out, tell=bar.on_measuring, **more)
    finally:
        bar.close()
    if json:
        show_json(found.to_dict())
        return 0
    place = shown(found.path)
    show(f"{place}   prior {found.prior}, fitted to the z of {found.examples:,} training examples")
    rows = []
    for name, estimate in found.values.items():
        what, _, when = name.rpartition("_")
        rows.append((f"{WORDS[what]} {when}", str(estimate), f"on {estimate.n:,} {found.split} examples"))
    print_columns(console(stderr=False), rows, indent=2, dim=2)
    for name, why in found.absent.items():
        show(f"not measured: {name.replace('_', ' ')} ({why})")
    say(next_block(["sample", place, "-o", "samples.png"], ["evaluate", place]))
    return 0
