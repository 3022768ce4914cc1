"""Every verb on a ladder: ``train --recipe ladder`` and what can be done with the run."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Command, rare_evaluations, short_reports

from sfumato.cli.main import run
from sfumato.likelihoods import DiscretizedLogistic
from sfumato.recipes.ladder import build_ladder, halving, sizes_of, spread, usual_levels

TRAIN = ["--recipe", "ladder", "--levels", "3", "--steps", "20", "--latent-dim", "2", "--quiet"]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A folder with the finished run ``run``, which every test here only reads."""
    folder = tmp_path_factory.mktemp("ladder")
    with chdir(folder), rare_evaluations(), short_reports():
        assert run(["train", str(finished / "tiny.npz"), "--out", "run", *TRAIN]) == 0
    return folder


@pytest.fixture
def place(ladder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ladder)
    return ladder


def test_the_run_says_what_each_level_does(place: Path, command: Command) -> None:
    found = json.loads(Path("run/evaluation.json").read_text())
    levels = found["per_level"]
    assert [level["dimensions"] for level in levels] == [2, 2, 2]
    parts = [found["values"][f"kl_level_{number}"]["value"] for number in (1, 2, 3)]
    assert sum(parts) == pytest.approx(found["values"]["kl"]["value"], rel=1e-4)
    assert found["active_units"]["of"] == 6
    assert "evidence_bound" in found["values"]
    assert "bayes_accuracy" in found
    decided = json.loads(Path("run/run.json").read_text())
    assert {"name": "ladder", "value": 3}.items() <= next(
        part for part in decided["decisions"] if part["name"] == "ladder"
    ).items()
    info = command("info", "run", "--json")
    assert json.loads(info.out)["model"]["levels"] == [[2], [2], [2]]
    assert command("doctor", "run").code in (0, 1)


def test_evidence_is_measured_and_what_is_not_has_its_reason(place: Path, command: Command) -> None:
    result = command(
        "evaluate", "run", "--evidence", "--samples", "6", "--temperatures", "4", "--chains", "2", "--ais", "2"
    )
    assert result.code == 0
    assert "annealing: 2 of the examples" in result.out
    assert "sandwich" in result.out
    missing = [line for line in result.out.splitlines() if line.startswith("not measured: ")]
    assert any("gap" in line and "Gaussian posterior" in line for line in missing)
    assert any("aggregate" in line and "Gaussian posteriors" in line for line in missing)


def test_sampling_takes_a_temperature_for_each_level(place: Path, command: Command) -> None:
    def made(*more: str) -> np.ndarray:
        assert command("sample", "run", "-n", "6", "-o", "s.npz", "--force", *more).code == 0
        return np.load("s.npz")["x"]

    assert made("--class", "top").shape == (6, 1, 8, 8)
    assert not np.array_equal(made("--temperature", "1,1,0"), made("--temperature", "1,0,1"))
    assert np.array_equal(made("--temperature", "0,0,0"), made("--temperature", "0"))
    wrong = command("sample", "run", "-n", "6", "-o", "t.npz", "--temperature", "1,0.5")
    assert wrong.code == 2
    assert "3 levels of z; got 2 temperatures" in wrong.err
    assert command("sample", "run", "-o", "t.npz", "--temperature", "1,x").code == 2
    assert not Path("t.npz").exists()


def test_latents_are_named_by_level_and_decode_to_the_reconstructions(place: Path, command: Command) -> None:
    assert command("encode", "run", "-o", "z.npz", "--split", "test").code == 0
    with np.load("z.npz") as archive:
        assert set(archive.files) == {"mean_1", "mean_2", "mean_3", "label"}
        assert archive["mean_2"].shape == (6, 2)
    assert command("decode", "run", "z.npz", "-o", "d.npz").code == 0
    assert command("reconstruct", "run", "-o", "r.npz").code == 0
    np.testing.assert_array_equal(np.load("d.npz")["x"], np.load("r.npz")["reconstruction"])
    assert command("interpolate", "run", "-n", "2", "--steps", "4", "-o", "i.npz").code == 0
    assert np.load("i.npz")["x"].shape == (2, 4, 1, 8, 8)


def test_the_report_has_every_section(place: Path, command: Command, real_report: None) -> None:
    assert command("report", "run").code == 0
    page = Path("run/report.html").read_text()
    assert "KL of level 3" in page


def test_a_killed_training_of_a_ladder_goes_on(place: Path, command: Command, forked_trainings: None) -> None:
    result = command("verify-resume", "run", "--steps", "12", "--kills", "1")
    assert result.code == 0, result.err


def test_options_that_do_not_go_together(place: Path, command: Command, finished: Path) -> None:
    data = str(finished / "tiny.npz")
    for arguments, words in (
        (["--levels", "3"], "--levels needs a ladder"),
        (["--recipe", "ladder", "--levels", "1"], "from 2 to 256; got 1"),
        (["--recipe", "ladder", "--condition", "decoder"], "through the top level alone"),
        (["--recipe", "laddr"], "Did you mean 'ladder'"),
    ):
        result = command("train", data, "--out", "no", "--steps", "5", *arguments)
        assert result.code == 2, result.err
        assert words in result.err
        assert not Path("no").exists()


def test_levels_and_widths_follow_the_size_of_the_image() -> None:
    assert [sizes_of((3, side, side)) for side in (8, 16, 32, 64, 128)] == [1, 2, 3, 4, 5]
    assert spread(4, 3) == (1, 1, 2)
    assert (halving(16, 3), halving(32, 5), halving(2, 3)) == ((4, 8, 16), (4, 4, 8, 16, 32), (2, 2, 2))
    assert usual_levels((1, 28, 28)) == usual_levels((7,)) == 4
    assert usual_levels((3, 32, 32)) == 6
    model = build_ladder(DiscretizedLogistic((3, 36, 32)), 8, 6)
    assert model.level_shapes == ((8,), (4, 5, 4), (4, 5, 4), (4, 9, 8), (4, 9, 8), (4, 18, 16))
