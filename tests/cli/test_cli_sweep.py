"""``sfumato sweep``: a run for each setting, the numbers of all, a size of z with its reason; going on after a stop."""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Command, Started, tree
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.evaluation import Estimate
from sfumato.io.run import RunFolder
from sfumato.training import Outcome, Trainer, several
from sfumato.training.state import TrainingState
from sfumato.verbs import several as several_verb
from sfumato.verbs.sweep import Point, grid, suggest, sweep

SHORT = ["--steps", "12", "--samples", "5", "--no-conditional"]


def point(latent: int, evidence: float | None, active: int, beta: float = 1.0, error: float = 1.0) -> Point:
    nats = Estimate(10.0, 1.0, 50, "nats")
    bound = None if evidence is None else Estimate(evidence, error, 50, "nats")
    elbo = Estimate(-100.0 if evidence is None else evidence - 2, 1.0, 50, "nats")
    return Point(f"beta-{beta:g}_latent-{latent}", beta, latent, nats, nats, elbo, bound, active, 12, False)


def test_a_sweep_over_beta_has_everything(place: Path, command: Command) -> None:
    result = command("sweep", "tiny.npz", "--beta", "0.1,1,30", "--latent-dim", "3", *SHORT)
    assert result.code == 0, result.err
    folder = Path("runs/tiny-sweep")
    names = ["beta-0.1_latent-3", "beta-1_latent-3", "beta-30_latent-3"]
    for name in names:
        assert (folder / name / "evaluation.json").exists()
        assert (folder / name / "model" / "config.json").exists()
    content = json.loads((folder / "sweep.json").read_bytes())
    assert [entry["run"] for entry in content["points"]] == names
    assert [entry["beta"] for entry in content["points"]] == [0.1, 1, 30]
    assert content["split"] == "validation"
    assert content["points"][0]["rate"]["n"] == 6
    assert content["missing"] == []
    rates = [entry["rate"]["value"] for entry in content["points"]]
    assert rates[0] > rates[2]
    for entry in content["points"]:
        total = entry["rate"]["value"] + entry["distortion"]["value"]
        assert entry["elbo"]["value"] == pytest.approx(-total, abs=1e-4)
        assert entry["evidence_bound"]["unit"] == "nats"
        decided = json.loads((folder / entry["run"] / "run.json").read_bytes())
        assert decided["objective"]["beta"] == entry["beta"]
        assert decided["training"]["steps"] == entry["steps"] == 12
    with Image.open(folder / "sweep.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    for words in ("beta", "latent", "rate", "distortion", "ELBO", "active", "±", "suggested latent size", "6 examples"):
        assert words in result.out
    assert "run 3 of 3: beta 30, latent 3" in result.err
    commands = [line.removeprefix("next:").strip() for line in result.err.partition("next:")[2].splitlines()]
    for line in commands:
        assert command(*shlex.split(line)[1:]).code == 0, line


def test_the_numbers_are_those_of_the_validation_split(place: Path, command: Command) -> None:
    found = sweep("tiny.npz", beta=(1, 2), latent_dim=2, steps=8, samples=5, out="runs/two")
    for entry in found.points:
        run = f"runs/two/{entry.run}"
        asked = ("--split", "validation", "--samples", "5", "--json", "--quiet")
        values = json.loads(command("evaluate", run, *asked).out)["values"]
        assert entry.rate.to_dict() == pytest.approx(values["kl"])
        assert entry.distortion.value == pytest.approx(values["reconstruction"]["value"])
        assert entry.evidence is not None
        assert entry.evidence.value == pytest.approx(values["evidence_bound"]["value"])
        assert entry.given_label


def test_an_interrupted_sweep_goes_on_and_a_finished_one_can_grow(place: Path, command: Command) -> None:
    words = ["sweep", "tiny.npz", "--latent-dim", "2,3", *SHORT, "--out", "runs/s"]
    words[words.index("12")] = "75"
    process = Started(words, place)
    while process.poll() is None and not list((place / "runs/s").glob("*/checkpoints/step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, _, err = process.communicate()
    assert code == 130, err
    assert "the same command goes on" in err
    content = json.loads((place / "runs/s/sweep.json").read_bytes())
    assert content["missing"] == ["beta-1_latent-2", "beta-1_latent-3"]
    assert content["points"] == []
    stopped = json.loads((place / "runs/s/beta-1_latent-2/run.json").read_bytes())
    result = command(*words)
    assert result.code == 0, result.err
    assert "resumed at step" in result.err
    assert json.loads((place / "runs/s/beta-1_latent-2/run.json").read_bytes()) == stopped
    before = {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("beta-*/model/*")}
    again = command(*words)
    assert again.out == result.out
    assert "run 1 of 2" not in again.err
    assert {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("beta-*/model/*")} == before
    wider = command(*words[:2], "--latent-dim", "2,3,4", *words[4:], "--json")
    assert [entry["latent_dim"] for entry in json.loads(wider.out)["points"]] == [2, 3, 4]
    assert "run 3 of 3" in wider.err
    assert "run 1 of 3" not in wider.err
    words[words.index("5")] = "7"
    recounted = command(*words, "--json", "--quiet")
    assert json.loads(recounted.out)["samples"] == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before


def at_once(run: str) -> str:
    latest = RunFolder(run).open_checkpoints().latest()
    assert latest is not None
    count: str = latest.state["made_by"]["at_once"]
    return count


def test_betas_are_trained_at_once_and_each_is_the_run_that_train_makes(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "BETTER", 0.0)
    monkeypatch.setattr(several, "WORTH", 0)
    words = ["--latent-dim", "2", *SHORT]
    result = command("sweep", "tiny.npz", "--beta", "0.5,1,2", *words, "--out", "runs/s")
    assert result.code == 0, result.err
    assert "3 runs at once" in result.err
    assert result.err.count("step 12/12") == 1, "they share one line"
    for beta in ("0.5", "1", "2"):
        run, alone = f"runs/s/beta-{beta}_latent-2", f"runs/alone-{beta}"
        assert at_once(run) == "3"
        single = [word for word in words if word not in ("--samples", "5")]
        assert command("train", "tiny.npz", "--beta", beta, *single, "--out", alone).code == 0
        found, expected = (json.loads(Path(each, "evaluation.json").read_bytes())["values"] for each in (run, alone))
        for name in ("elbo", "kl", "reconstruction"):
            assert found[name]["value"] == pytest.approx(expected[name]["value"], rel=1e-4)
        decided = [json.loads(Path(each, "run.json").read_bytes()) for each in (run, alone)]
        assert len({json.dumps(each["training"]) + json.dumps(each["model"]) for each in decided}) == 1


def test_runs_that_were_interrupted_together_go_on_together(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "BETTER", 0.0)
    monkeypatch.setattr(several, "WORTH", 0)
    words = ["sweep", "tiny.npz", "--beta", "0.5,1", "--latent-dim", "2", *SHORT, "--out", "runs/s"]
    words[words.index("12")] = "40"
    average, seen = TrainingState.average, []

    def interrupted(self: TrainingState) -> None:
        average(self)
        seen.append(self)
        if len(seen) == 22:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "average", interrupted)
        stopped = command(*words)
    assert stopped.code == 130, stopped.err
    assert "2 runs to go" in stopped.err
    result = command(*words)
    assert result.code == 0, result.err
    assert result.err.count("bit for bit the same run") == 2
    whole = command(*words[:-1], "runs/whole")
    assert whole.code == 0, whole.err
    for run in ("beta-0.5_latent-2", "beta-1_latent-2"):
        assert at_once(f"runs/s/{run}") == "2"
        weights = [Path("runs", each, run, "model", "model.safetensors").read_bytes() for each in ("s", "whole")]
        assert weights[0] == weights[1]


def test_a_time_becomes_the_steps_of_the_first_run(place: Path) -> None:
    found = sweep("tiny.npz", beta=(1, 2), latent_dim=2, time=0.05, samples=5, conditional=False)
    assert len({entry.steps for entry in found.points}) == 1
    assert found.points[0].steps >= 1


def test_one_run_that_diverges_does_not_stop_the_others(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.core.errors import Diverged

    def breaking(trainers: list[Trainer]) -> list[Outcome | Diverged]:
        wrong = Diverged("the KL term became infinite")
        return [wrong if trainer.objective.beta == 2 else trainer.fit() for trainer in trainers]  # type: ignore[union-attr]

    monkeypatch.setattr(several_verb, "fit_several", breaking)
    result = command("sweep", "tiny.npz", "--beta", "1,2", "--latent-dim", "2", *SHORT, "--quiet")
    assert result.code == 3
    assert "beta-2_latent-2 has no numbers: the KL term became infinite" in result.out
    content = json.loads(Path("runs/tiny-sweep/sweep.json").read_bytes())
    assert [entry["beta"] for entry in content["points"]] == [1]


@pytest.mark.parametrize(
    ("line", "wrong", "right"),
    [
        ("sweep", "DATA", "sfumato sweep photos/"),
        ("sweep tiny.npz --beta 1", "got 1", "--beta 0.5,1,2"),
        ("sweep tiny.npz --beta 1,x", "'x'", "--beta"),
        ("sweep tiny.npz --beta 1,-2", "-2", "--beta"),
        ("sweep tiny.npz --latent-dim 2,0", "got 0", "--latent-dim"),
        ("sweep tiny.npz --latent-dim 2,2.5", "2.5", "whole number"),
        ("sweep tiny.npz --steps 3 --epochs 2", "--epochs", "one of them"),
        ("sweep tiny.npz --beta 1,2 --likelihood bernoulli", "tiny.npz", "--binarise dynamic"),
        ("sweep tiny.npz --beta 1,2 --label kind", "kind", "tiny.npz"),
        ("sweep tiny.npz --beta 1,2 --out runs/tiny", "runs/tiny", "--out runs/tiny-2"),
    ],
)
def test_mistakes_leave_nothing_behind(line: str, wrong: str, right: str, place: Path, command: Command) -> None:
    before = tree(place)
    result = command(*line.split())
    assert result.code == 2, result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert wrong in result.err
    assert right in result.err
    assert tree(place) == before


def test_another_sweep_is_not_continued(place: Path, command: Command) -> None:
    words = ["sweep", "tiny.npz", "--beta", "1,2", "--latent-dim", "2", "--no-conditional", "--samples", "5", "--quiet"]
    assert command(*words, "--steps", "6").code == 0
    result = command(*words, "--steps", "7")
    assert result.code == 2
    assert "--steps 6; got 7" in result.err
    assert "--out runs/tiny-sweep-2" in result.err
    assert "other data" in command(*words, "--steps", "6", "--split", "0.5,0.2,0.3").err
    Path("runs/tiny-sweep/sweep.json").write_text("{}")
    damaged = command(*words, "--steps", "6")
    assert damaged.code == 2
    assert "not the file of a sweep" in damaged.err


def test_the_smallest_size_within_one_standard_error_is_suggested() -> None:
    rows = [point(2, -95, 2), point(4, -90.9, 4), point(8, -90.0, 7), point(16, -90.5, 7)]
    found = suggest(rows)
    assert found is not None
    assert found.latent_dim == 4
    for words in (
        "within one standard error",
        "size 8",
        "-90.0 ± 1.0",
        "4 of 4",
        "At size 16, 7 of 16",
        "50 validation examples",
        "12 steps",
    ):
        assert words in found.because
    sharp = suggest([replace(row, evidence=Estimate(row.evidence.value, 0.1, 50, "nats")) for row in rows])  # type: ignore[union-attr]
    assert sharp is not None
    assert sharp.latent_dim == 8
    assert "the best of the sizes" in sharp.because


def test_suggestions_say_what_they_cannot_know() -> None:
    assert suggest([]) is None
    growing = suggest([point(2, -95, 2), point(4, -90, 4)])
    assert growing is not None
    assert growing.latent_dim == 4
    assert "largest that was tried" in growing.because
    alone = suggest([point(16, -90, 7, beta) for beta in (0.5, 1.0, 2.0)])
    assert alone is not None
    assert (alone.latent_dim, alone.beta) == (7, 1.0)
    assert "no other size was tried" in alone.because
    full = suggest([point(4, -90, 4, 0.5), point(4, -80, 4, 2.0)])
    assert full is not None
    assert (full.latent_dim, full.beta) == (4, 2.0)
    assert "larger size may help" in full.because
    collapsed = suggest([point(4, -90, 0), point(8, -90, 0)])
    assert collapsed is not None
    assert collapsed.latent_dim is None
    assert "collapsed" in collapsed.because
    lone = suggest([point(2, -95, 2, error=math.nan), point(4, -95.5, 2, error=math.nan)])
    assert lone is not None
    assert lone.latent_dim == 2


def test_the_grid() -> None:
    assert [setting.name for setting in grid(None, None)] == ["beta-0.5", "beta-1", "beta-2", "beta-4"]
    assert [setting.name for setting in grid(None, (4, 2, 2))] == ["beta-1_latent-2", "beta-1_latent-4"]
    with pytest.raises(UserError, match="2 to 200 settings; got 1"):
        grid(1, 2)


def test_sizes_alone_leave_a_paper_the_beta_that_it_has_or_has_not() -> None:
    for recipe in ("iwae", "beta-vae"):
        assert [setting.words for setting in grid(None, (2, 4), recipe)] == [{"latent_dim": 2}, {"latent_dim": 4}]
    assert [setting.words for setting in grid((1, 2), None, "beta-vae")] == [{"beta": 1.0}, {"beta": 2.0}]
    assert len(grid(None, None, "beta-vae")) == 4
    assert grid(None, (2, 4), "mlp") == grid(None, (2, 4))
    with pytest.raises(UserError, match="2 to 200 settings; got 1"):
        grid(None, None, "iwae")
