"""``sfumato doctor`` and ``units``: what is wrong with a run, and what a loss amounts to."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli import options
from sfumato.cli.app import command
from sfumato.core.errors import UserError
from sfumato.core.spec import Positive, Real
from sfumato.verbs.conversion import KLS, RECONSTRUCTIONS
from sfumato.verbs.units import PRESETS, described, table, weight_of
from sfumato.verbs.units import units as convert

if TYPE_CHECKING:
    from sfumato.verbs.doctor import Diagnosis

MaybeRun = Annotated[str | None, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Watch = Annotated[bool, typer.Option("--watch", help="Look again after each evaluation, until the run ends.")]
Preset = Annotated[str | None, options.chosen("--preset", tuple(PRESETS), "The loss of a well-known repository.")]
Reconstruction = Annotated[
    str | None, options.chosen("--reconstruction", RECONSTRUCTIONS, "Their error, and how it is reduced.")
]
Kl = Annotated[str | None, options.chosen("--kl", tuple(KLS), "How their KL is reduced.  [default: sum-mean]")]
Factor = Annotated[
    float | None, options.option("--reconstruction-weight", Positive, "Their factor on the error.  [default: 1]", "X")
]
Weight = Annotated[
    float | None,
    typer.Option(
        "--weight",
        parser=weight_of,
        metavar="X",
        help="Their factor on the KL: 0.00025, 64/162770.",
        show_default=False,
    ),
]
Ours = Annotated[float | None, options.option("--beta", Positive, "Our weight of the KL: gives their factor.", "X")]
Sigma = Annotated[float | None, options.option("--sigma", Positive, "The decoder's deviation, with --beta.", "X")]
Dims = Annotated[int | None, options.option("--dims", options.Many, "Values of an example: 784, 3x64x64 is 12288.")]
Rmse = Annotated[float | None, options.option("--rmse", Positive, "Their root mean squared error, if known.", "X")]
Deviation = Annotated[
    float | None, options.option("--deviation", Positive, "The standard deviation of their data, if known.", "X")
]
Value = Annotated[float | None, options.option("--loss", Real, "A value of their loss, to be read as an ELBO.", "X")]


@command("doctor", "sfumato doctor runs/photos", "sfumato doctor runs/photos --watch", "sfumato doctor --json")
def doctor(
    run: MaybeRun = None,
    watch: Watch = False,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Say what is wrong with a run, why, and what to do; without RUN test this installation."""
    if run is None:
        if watch:
            raise UserError("--watch needs RUN.  For instance: sfumato doctor runs/photos --watch")
        return _test_installation(json, quiet)
    from sfumato.cli.printing import say, show_json
    from sfumato.verbs import doctor as verb

    if not watch:
        found = verb.doctor(run, seed=seed)
        if json:
            show_json(found.to_dict())
        else:
            _print(found)
        return 0
    before: set[str] = set()
    try:
        for found in verb.watch(run, seed=seed):
            if json:
                show_json(found.to_dict())
                continue
            names = {finding.name for finding in found.findings}
            _print(found, known=before)
            if before - names and not quiet:
                say(f"  over: {', '.join(sorted(before - names))}")
            before = names
    except KeyboardInterrupt:
        if not quiet:
            say("no longer watching; the training is not touched")
        return 130
    return 0


@command(
    "units",
    "sfumato units",
    "sfumato units --preset pytorch-vae",
    "sfumato units --reconstruction mse-mean --weight 0.00025 --dims 12288 --rmse 0.1",
    "sfumato units --reconstruction mse-mean --beta 1 --sigma 0.1 --dims 12288",
)
def units(
    preset: Preset = None,
    reconstruction: Reconstruction = None,
    kl: Kl = None,
    reconstruction_weight: Factor = None,
    weight: Weight = None,
    beta: Ours = None,
    sigma: Sigma = None,
    dims: Dims = None,
    latent_dim: options.LatentDim = None,
    batch: options.Batch = None,
    rmse: Rmse = None,
    deviation: Deviation = None,
    loss: Value = None,
    json: options.Json = False,
) -> int:
    """Convert the loss of a paper or repository to ours, and back."""
    from sfumato.cli.printing import console, print_columns, show, show_json

    given = {
        "preset": preset,
        "reconstruction": reconstruction,
        "kl": kl,
        "reconstruction_weight": reconstruction_weight,
        "weight": weight,
        "beta": beta,
        "sigma": sigma,
        "dims": dims,
        "latent_dim": latent_dim,
        "batch": batch,
        "rmse": rmse,
        "deviation": deviation,
        "loss": loss,
    }
    if all(value is None for value in given.values()):
        rows = table()
        if json:
            show_json([{"preset": name, "loss": words, "ours": ours} for name, words, ours in rows])
            return 0
        print_columns(console(stderr=False), [("preset", "their loss", "ours"), *rows], keep=1)
        return 0
    found = convert(given)
    if json:
        show_json({**found.to_dict(), "source": PRESETS[preset].source if preset else None})
        return 0
    for line in described(found):
        show(line)
    if preset:
        show(f"source   {PRESETS[preset].source}")
    return 0


def _print(found: Diagnosis, known: Collection[str] = ()) -> None:
    """Print the headline, and the findings that are not ``known``."""
    from sfumato.cli.printing import next_block, say, show
    from sfumato.io.store import shown as name_of

    show(found.headline)
    cures: list[tuple[str, ...]] = []
    kinds: set[str] = set()
    for finding, cure in zip(found.findings, found.commands, strict=True):
        if finding.name in known:
            continue
        show("")
        show(f"{finding.severity}: {finding.name}")
        for name, text in (("symptom", finding.symptom), ("why", finding.why), ("do", finding.do)):
            show(f"  {name:<9}{text}")
        if cure and finding.options[0] not in kinds:  # of two lengths the first, which the worse finding asks for
            kinds.add(finding.options[0])
            cures.append(cure)
    for what, why in found.absent.items():
        say(f"not looked at: the {what} ({why})")
    if found.symptoms.course.state == "stopped" and not any(
        finding.severity == "problem" for finding in found.findings
    ):
        cures.insert(0, ("train", "--resume", name_of(found.path)))
    if cures and found.symptoms.course.state != "running":
        say(next_block(*cures[:3]))


def _test_installation(json: bool, quiet: bool) -> int:
    """Print the surroundings and a short test; 1 when something fails."""
    from sfumato.cli.printing import console, print_columns, say, show_json
    from sfumato.verbs.selftest import self_test, surroundings, to_dict

    if not quiet:
        say("testing this installation, a few seconds …")
    environment, results = surroundings(), self_test()
    passed = all(right for _, right, _ in results)
    if json:
        show_json(to_dict(environment, results))
        return 0 if passed else 1
    rows = [(name, text) for name, text in environment.items()]
    rows += [(name, f"{'right' if right else 'WRONG'}: {numbers}") for name, right, numbers in results]
    print_columns(console(stderr=False), rows)
    return 0 if passed else 1
