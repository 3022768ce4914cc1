"""Write docs/benchmarks.md: published rows beside ours, every one of ours read from benchmarks/results.

    python benchmarks/tables.py

A file that is not there leaves its row out; nothing is typed by hand but what others published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certificate import RESULTS

Result = dict[str, Any]
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BURDA = "[Burda et al., 2016](https://arxiv.org/abs/1509.00519), table 1"
TOMCZAK = "[Tomczak and Welling, 2018](https://arxiv.org/abs/1705.07120)"
NOROUZI = "[Norouzi et al., 2020](https://arxiv.org/abs/2004.04795), table 1"
PUBLISHED = (
    ("VAE, one layer 200-200 tanh, 50 latents", 86.76, "5,000", BURDA),
    ("IWAE, K = 5, the same network", 85.54, "5,000", BURDA),
    ("IWAE, K = 50, the same network", 84.78, "5,000", BURDA),
    ("VAE, gated 300-300, 40 latents, about 2,000 epochs", 84.45, "5,000", TOMCZAK),
    ("the same with a VampPrior of 500 components", 82.43, "5,000", TOMCZAK),
    ("the same with a prior over exemplars", 82.09, "5,000", NOROUZI),
)
OURS = ("mnist_mlp_10min", "mnist_mlp_30min", "mnist_iwae50", "mnist_vampprior", "mnist_exemplar", "mnist_flow")
HEAD = """# Benchmarks

Written by `python benchmarks/tables.py` from the files in `benchmarks/results`, each with its recipe, commit, machine,
versions and seeds. Every likelihood is in nats, computed in float32 with float64 sums.
"""
DIFFERENCES = """
What is the same: dynamically binarised training images, the bound with 5,000 samples on all 10,000 test images, the
prior N(0, I) where no other is named, a diagonal Gaussian posterior. What differs: the published rows train for
thousands of epochs (3,280 and about 2,000), ours for the minutes in the table (the first two on two cores, the others
with one thread beside other work), the first part on the ELBO and the rest on the importance-weighted bound; Burda et
al. have another network. The VampPrior has 500 pseudo-inputs, the flow six affine couplings. The test images are
binarised once, with our own seed: equal between our rows, not between papers, which is a difference of the order of the
standard error.
50,000 images train, 10,000 are held out for choosing, the test images choose nothing.
"""


def read(name: str) -> Result | None:
    """Return a result, or None where it has not been measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def section(*names: str) -> Callable[[Callable[..., list[str]]], Callable[[], list[str]]]:
    """Give a section of the page the results of these names; without one of them it has no lines."""

    def reading(lines: Callable[..., list[str]]) -> Callable[[], list[str]]:
        def read_and_write() -> list[str]:
            found = [read(name) for name in names]
            return [] if None in found else lines(*found)

        return read_and_write

    return reading


def figure(entry: dict[str, Any], factor: float = 1.0, digits: int = 2) -> str:
    """Return value ± standard error."""
    return f"{factor * entry['value']:.{digits}f} ± {abs(factor) * entry['standard_error']:.{digits}f}"


def likelihoods() -> list[str]:
    """Return the table of -log p(x) on MNIST."""
    lines = [
        "## Binarised MNIST, -log p(x) in nats, lower is better",
        "",
        "| model | nats | K | from |",
        "|---|---|---|---|",
    ]
    lines += [f"| {model} | {value:.2f} | {samples} | {source} |" for model, value, samples, source in PUBLISHED]
    for name in OURS:
        if found := read(name):
            minutes = found["training_seconds"] / 60
            stages = found["training"]["stages"]
            epochs = sum(stage["epochs"] for stage in stages)
            model = (
                f"**sfumato**, {found['recipe']}, {epochs:.0f} epochs, {stages[-1]['epochs']:.0f} of them IWAE-"
                f"{stages[-1]['objective']['samples']}, {minutes:.0f} min of training"
            )
            lines.append(f"| {model} | {figure(found['nll_nats'])} | {found['samples']:,} | `{name}.json` |")
    return [*lines, DIFFERENCES]


@section("mnist_ladder_10min", "mnist_mlp_10min")
def ladders(found: Result, flat: Result) -> list[str]:
    """Return the table of the ladder beside the flat model of the same training time."""
    lines = [
        "## A ladder beside the flat model, binarised MNIST, -log p(x) in nats",
        "",
        "| model | nats | K | training | from |",
        "|---|---|---|---|---|",
    ]
    for name, row in (("mnist_mlp_10min", flat), ("mnist_ladder_10min", found)):
        seconds = row["training_seconds"]
        lines.append(
            f"| {row['recipe']} | {figure(row['nll_nats'])} | {row['samples']:,} | {seconds:.0f} s | `{name}.json` |"
        )
    levels = ", ".join(f"{value:.1f}" for value in found["kl_of_each_level_top_first_nats"])
    return [
        *lines,
        "",
        f"Data, test images and cores are those of the first table. KL of each level from the top: {levels} nats. A "
        "bound with fewer samples is looser. Published, five levels of fully connected layers, 2,000 epochs: "
        f"{found['published_2000_epochs']} nats ([Sonderby et al., 2016](https://arxiv.org/abs/1602.02282)).",
        "",
    ]


@section("emoji")
def emoji(found: Result) -> list[str]:
    """Return the table of the ladder beside the flat model on colour pictures."""
    head = [
        "## A ladder beside the flat model, emoji in colour, bits per dimension",
        "",
        f"{found['data']}; exact masses of 8-bit values, L_K with K = {found['samples']}, no labels; as many steps as "
        "fit into equal time of one core (`emoji.json`). The two models see the same test images, so their difference "
        "is known better than either.",
        "",
        "| model | bits/dim | training, processor seconds | epochs |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {name}: {row['about']} | {figure(row['bits_per_dim'], digits=3)} | {row['processor_seconds']:.0f} | "
        f"{row['epochs']:.0f} |"
        for name, row in found["models"].items()
    ]
    return [
        *head,
        *rows,
        f"| flat minus ladder | {figure(found['flat_minus_ladder'], digits=3)} | | |",
        f"| every value on its own | {figure(found['every_value_on_its_own'], digits=3)} | | |",
        "",
    ]


@section("dsprites")
def sprites(found: Result) -> list[str]:
    """Return the table of how well the factors of dSprites are found."""
    head = [
        "## Disentanglement, dSprites, drawn",
        "",
        f"{found['recipe']}; papers take 300,000 steps of batch 64. Scores of posterior means, mean ± standard "
        "deviation over seeds (`dsprites.json`).",
        "",
        "| method | weights in turn | steps of batch | seeds | MIG | aim | DCI disentanglement | completeness |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name, part in found["methods"].items():
        run, aim = part["runs"][0], found["aimed_at_mig"][name]
        scores = [
            f"{part[score]['mean']:.3f} ± {part[score]['standard_deviation']:.3f}"
            for score in ("mig", "disentanglement", "completeness")
        ]
        cells = [
            name,
            ", ".join(f"{beta:g}" for beta in run["betas"]),
            f"{run['steps']:,} of {run['batch']}",
            str(part["mig"]["n"]),
        ]
        rows.append("| " + " | ".join([*cells, scores[0], f"{aim:.2f}", *scores[1:]]) + " |")
    return [*head, *rows, ""]


@section("mnist_evidence")
def annealing(found: Result) -> list[str]:
    """Return how loose the importance bound is against annealing."""
    annealed = found["evidence"]["annealed"]
    how = annealed["settings"]
    bound, lower, gap = (annealed[key] for key in ("importance_bound_same_examples", "annealed_bound", "simulated_gap"))
    excess = annealed["annealed_minus_importance"]
    return [
        "## How loose is the importance bound?",
        "",
        f"{lower['n']:,} test images, {how['temperatures']:,} temperatures, {how['chains']} chains "
        "(`mnist_evidence.json`):",
        "",
        "| estimate | nats |",
        "|---|---|",
        f"| -log p(x), importance bound, K = {found['evidence']['samples']:,} | {figure(bound, -1)} |",
        f"| -log p(x), annealed importance sampling | {figure(lower, -1)} |",
        f"| the importance bound is looser by | {figure(excess, digits=3)} |",
        f"| sandwich on {gap['n']:,} simulated images, upper minus lower | {figure(gap, digits=3)} |",
        "",
        "Wu et al., 2017 (https://arxiv.org/abs/1611.04273) found 1.2 nats between the two for their VAE.",
        "",
    ]


def conditional() -> list[str]:
    """Return the table of the class-conditional model."""
    rows = []
    for name, what in (
        ("mnist_conditional_prior", "only the prior"),
        ("mnist_conditional_decoder", "prior and decoder"),
    ):
        if found := read(name):
            values = [found[f"{key}_accuracy"]["overall"] for key in ("generation", "bayes", "judge")]
            rows.append(
                f"| {what} | " + " | ".join(f"{figure(value, 100, 1)} %" for value in values) + f" | `{name}.json` |"
            )
    if not rows:
        return []
    head = [
        "## Class-conditional VAE on binarised MNIST",
        "",
        "| who sees y | class made = class asked | Bayes' rule | judge | from |",
    ]
    return [*head, "|---|---|---|---|---|", *rows, ""]


@section("counts")
def cells(found: Result) -> list[str]:
    """Return the table of the likelihoods of counts."""
    head = [
        "## Counts: molecules in cells",
        "",
        f"{found['data']}. log P of the counts of a held-out cell, in nats, at least (K = {found['samples']:,}); the "
        f"same networks for all ({found['recipe']}), {len(found['seeds'])} seeds with splits of their own. A "
        "Gaussian's mass of a count is its integral over half a count to either side (`counts.json`).",
        "",
        "| likelihood | nats for each cell | below the negative binomial |",
        "|---|---|---|",
    ]
    below = found["below_negative_binomial"]
    rows = [
        f"| {name} | {figure(entry, digits=1)} | {figure(below[name], digits=1) if name in below else ''} |"
        for name, entry in sorted(found["log_mass"].items(), key=lambda item: -item[1]["value"])
    ]
    simple = f"| every gene on its own, negative binomial | {found['independent_negative_binomials']:.1f} | |"
    return [*head, *rows, simple, ""]


@section("imputation")
def imputation(found: Result) -> list[str]:
    """Return the table of what fills missing cells."""
    head = [
        "## Missing cells of a mixed table",
        "",
        f"{found['data']}, {100 * found['removed']:.0f} % of all cells removed at random, {len(found['seeds'])} seeds; "
        f"{found['recipe']}; scikit-learn {found['scikit_learn']} on columns divided by their deviation. Error over "
        "the removed cells, lower is better; 1 is the column's own deviation, or all wrong. sfumato has one setting "
        "for all seeds, KNNImputer two that are both shown (`imputation.json`).",
        "",
        "| method | numbers and counts, rmse / deviation | levels, share wrong | mean over columns |",
        "|---|---|---|---|",
    ]
    parts = ("numbers_and_counts", "levels", "all")
    ranked = sorted(found["errors"].items(), key=lambda item: item[1]["all"]["value"])
    rows = [
        f"| {name} | " + " | ".join(figure(entry[part], digits=3) for part in parts) + " |" for name, entry in ranked
    ]
    (first, best), (second, next_best) = [(name, entry["all"]) for name, entry in ranked[:2]]
    gap = next_best["value"] - best["value"]
    error = math.hypot(best["standard_error"], next_best["standard_error"])
    close = f"{second} is {gap:.3f} ± {error:.3f} behind {first}" + ": no difference that shows." * (gap < 2 * error)
    return [*head, *rows, "", close, ""]


@section("training_speed")
def speed(found: Result) -> list[str]:
    """Return how fast the training loop is."""
    head = [
        "## Training loop against the usual script (DataLoader, eager float32, Adam)",
        "",
        "| batch | ratio, median (range) |",
    ]
    rows = []
    for name, part in found.items():
        if name.startswith("batch_"):
            low, middle, high = (part[f"ratio_{word}"] for word in ("min", "median", "max"))
            rows.append(f"| {name.removeprefix('batch_')} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    return [*head, "|---|---|", *rows, ""]


@section("several")
def together(found: Result) -> list[str]:
    """Return what several runs in one step cost beside one after another."""
    cases = {name.replace("_", " "): case for name, case in found.items() if isinstance(case, dict) and "whole" in case}
    steps = {case["whole"]["steps_of_a_training"] for case in cases.values()}
    head = [
        "## Several runs in one step",
        "",
        "How many times as fast runs of one architecture are at once as one after another, with the same data, seeds "
        f"and noise; eager, float32, {found['threads']} threads, in turns (`several.json`). Whole trainings, of "
        f"{' or '.join(map(str, steps))} steps, contain the tracing, the comparison with single steps and the choice "
        "of the faster way, which come before the first step.",
        "",
        "| | the steps alone, median (range) | whole trainings |",
        "|---|---|---|",
    ]
    rows = []
    for name, case in cases.items():
        alone, whole = (interval({k: case[part][f"ratio_{k}"] for k in ("median", "min", "max")}, 2) for part in case)
        rows.append(f"| {name} | {alone} | {whole} |")
    return [*head, *rows, ""]


@section("streaming")
def streaming(found: Result) -> list[str]:
    """Return how much memory data take that do not fit, and who waits for whom."""
    if "epoch" not in found:
        return []
    epoch, parts = found["epoch"], [found[name] for name in ("array", "resume")]
    rows = [
        (f"examples, 3x64x64, {epoch['gigabytes']:.1f} GB", f"{parts[0]['examples']:,}"),
        ("steps, of those of an epoch", f"{epoch['steps']:,} of {epoch['of']:,}"),
        ("memory of the process, most", f"{epoch['resident_gb']:.2f} GB"),
        ("of it pages of mapped files (programs)", f"{max(part['file_gb'] for part in parts):.2f} GB"),
        ("read from the disk", f"{sum(part['read_from_disk_gb'] for part in parts):.1f} GB"),
        ("the model waits for data", f"{100 * epoch['waits_share']:.1f} % of the time"),
        ("images a second", " and ".join(f"{part['images_per_second']:,.0f}" for part in parts)),
        ("random rows a second from this disk, nothing else to do", f"{parts[0]['disk_rows_per_second']:,.0f}"),
        ("resumed in the middle of the epoch", "bit for bit" if epoch["bit_exact_resume"] else "another training"),
    ]
    if folder := found.get("folder"):
        what = f"a folder of {folder['examples']:,} PNG, decoded by {folder['workers']} worker(s): the model waits"
        rows += [
            (what, f"{100 * folder['waits_share']:.1f} % of the time"),
            ("memory of the process and its workers, most", f"{folder['resident_gb']:.2f} GB"),
        ]
    head = [
        "## Data that do not fit",
        "",
        f"An array on the disk, read by row in a random order, {parts[0]['model']}, batch {parts[0]['batch']}, in two "
        f"processes one after the other; {found['machine']['processor']}, {found['machine']['threads']} threads "
        "(`streaming.json`). Before it begins the set is dropped from the page cache, which is not part of a process's "
        "memory.",
        "",
        "| | |",
        "|---|---|",
    ]
    return [*head, *(f"| {name} | {value} |" for name, value in rows), ""]


@section("start")
def start(found: Result) -> list[str]:
    """Return how long it takes until something happens."""
    names = {
        "help": "`sfumato --help`",
        "alone": "`sfumato`",
        "train_help": "`sfumato train --help`",
        "import_torch": "`import torch`",
        "import_torch_and_sfumato": "`import torch, sfumato`",
        "ready": "the same, and every name of `sfumato` touched",
    }
    head = [
        "## The start",
        "",
        "Seconds of whole processes, files in the page cache, medians in turns (`start.json`):",
        "",
        "| | median (range) | rounds |",
        "|---|---|---|",
    ]
    rows = [(text, found["processes"][name]) for name, text in names.items()]
    return [*head, *(f"| {text} | {interval(entry, 2)} | {entry['rounds']} |" for text, entry in rows), ""]


WAYS = {"float32": "float32", "float32_onednn": "float32 through oneDNN", "bf16": "bf16"}
RACE = """## Beside other libraries

Written by `python benchmarks/speed/run.py`: the same model, data and batch for everyone, one process each, in turns
(A B C A B C), binary Fashion-MNIST (mini) in memory, Adam, learning rate 1e-3, float32. Rates are medians over the
rounds, in brackets the slowest and the fastest; how many times as fast sfumato is, is taken round by round. The bound
is that of the 2,000 test images after equal epochs, by one formula in float32, mean ± standard deviation over seeds: a
speed without equal quality does not count. Memory is the peak of the process. The time to the first step begins with
the process: imports, data, and what is compiled or measured; JAX compiles a whole epoch, which is its first step. The
fraction of the peak is 2 (3 M - F) operations an image (M multiply-adds forward, F those of the first layer) over the
fastest float32 matrix product that was measured in the same run.

What differs: each library starts from its own weights (sfumato's MLPs from He's, the others from their defaults),
trains by its own loop, and uses its own loader as its documentation does. pythae's networks are its own where it has
them; disent and autoencoders got ours. autoencoders has no Bernoulli likelihood, so it got one. sfumato also guards
every step and averages the weights. Trainings in bf16 are not in the table: sfumato uses it only where the processor
computes in it.
"""


def interval(entry: dict[str, float], digits: int = 0) -> str:
    """Return median (min to max)."""
    return "{:,.{d}f} ({:,.{d}f} to {:,.{d}f})".format(*(entry[key] for key in ("median", "min", "max")), d=digits)


def race_row(peer: str, entry: dict[str, Any]) -> str:
    """Return the line of one peer."""
    if "cannot" in entry:
        return f"| {peer} | {entry['cannot']} | | | | | |"
    held_out = entry["held_out"].get("importance_bound", entry["held_out"]["elbo"])
    fraction = min(entry["fraction_of_peak"][name] for name in ("float32", "float32_onednn"))
    cells = [
        f"{peer}, {entry['engine']}" if "engine" in entry else peer,
        interval(entry["images_per_second"]),
        interval(entry["sfumato_is_times_as_fast"], 2),
        f"{held_out['mean']:.2f}" + (f" ± {held_out['standard_deviation']:.2f}" if held_out["seeds"] > 1 else ""),
        f"{entry['peak_memory_bytes'] / 1e6:,.0f} MB",
        f"{entry['seconds_to_first_step']:.1f} s",
        f"{100 * fraction:.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


@section("speed")
def race(found: Result) -> list[str]:
    """Return the tables of every workload, and that of the importance bound."""
    lines = [RACE]
    for name, part in found["workloads"].items():
        if name == "bound":
            continue
        scores = [entry["held_out"] for entry in part["peers"].values() if "held_out" in entry]
        held_out = "ELBO" if all(len(score) == 1 for score in scores) else "importance bound"
        seeds, machine = max(score["elbo"]["seeds"] for score in scores), part["machine"]
        peaks = [f"{WAYS[way]} {peak / 1e9:,.0f}" for way, peak in part["peaks_operations_per_second"].items()]
        lines += [
            f"### {part['about']}",
            "",
            f"| | images/s | sfumato is x times as fast | {held_out}, nats | memory | first step | of the peak |",
            "|---|---|---|---|---|---|---|",
            *(race_row(peer, entry) for peer, entry in part["peers"].items()),
            "",
            f"{part['rounds']} rounds of {part['epochs_per_turn']} x {part['images_per_epoch']:,} images; scored after "
            f"{part['epochs_before_the_score']} epochs, {seeds} seed{'s' * (seeds > 1)}; "
            f"{machine['processor']}, {machine['threads']} "
            f"threads; matrix products in billion operations a second: {', '.join(peaks)}.",
            "",
        ]
    return lines + (bound_race(found["workloads"]["bound"]) if "bound" in found["workloads"] else [])


def bound_race(part: dict[str, Any]) -> list[str]:
    """Return the table of the importance bound."""
    rows = []
    for peer, entry in part["peers"].items():
        if "cannot" in entry:
            rows.append(f"| {peer} | {entry['cannot']} | | |")
            continue
        rate, faster = interval(entry["images_times_samples_per_second"]), entry["sfumato_is_times_as_fast"]
        rows.append(f"| {peer} | {rate} | {interval(faster, 2)} | {entry['nats']['median']:.3f} |")
    return [
        f"### The importance bound, {part['samples']} samples, {part['images']:,} images, float32, the same weights",
        "",
        "| | images x samples a second | sfumato is x times as fast | nats |",
        "|---|---|---|---|",
        *rows,
        "",
        "pythae's `get_nll` takes one image after the other: it encodes 100 copies of it and decodes a draw for each. "
        "sfumato encodes every image once and decodes images and samples in blocks. Their draws differ.",
        "",
    ]


def main() -> None:
    sections = [likelihoods(), ladders(), emoji(), sprites(), annealing(), conditional(), cells(), imputation()]
    sections += [speed(), together(), streaming(), start(), race()]
    PAGE.write_text("\n".join([HEAD, *(line for section in sections for line in section)]).rstrip() + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
