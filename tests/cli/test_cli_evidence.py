"""``sfumato evaluate --evidence`` on a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command

from sfumato.evaluation import classifier, features
from sfumato.evaluation.classifier import Judge, train_judge
from sfumato.io.tensors import digest

QUICK = ["--evidence", "--samples", "12", "--temperatures", "6", "--chains", "2", "--ais", "3"]


def test_evidence_is_shown_with_units_and_errors(place: Path, command: Command) -> None:
    result = command("evaluate", "runs/tiny", *QUICK)
    assert result.code == 0
    for words in (
        "evidence: 12 draws for each of 6 examples",
        "L_1 ",
        "L_10 ",
        "L_12 ",
        "effective sample size",
        "of 12 draws",
        "annealing: 3 of the examples, 6 temperatures, 2 chains from the posterior",
        "more than L_12",
        "accepted steps",
        "sandwich: 3 examples made by the model",
        "at least",
        "at most",
        "gap",
    ):
        assert words in result.out
    lines = [line for line in result.out.splitlines() if "L_12" in line or " gap " in line or "at most" in line]
    assert len(lines) == 5
    assert all("±" in line and "nats" in line for line in lines)
    assert "annealing, 6 temperatures, 2 chains" in result.err
    assert "sandwich" in result.err


def test_evidence_lands_in_evaluation_json_with_its_provenance_and_stays_there(place: Path, command: Command) -> None:
    result = json.loads(command("evaluate", "runs/tiny", *QUICK, "--seed", "5", "--json", "--quiet").out)
    path = place / "runs/tiny/evaluation.json"
    written = json.loads(path.read_text())
    assert written == result
    evidence = written["evidence"]["bounds"]
    assert (evidence["samples"], evidence["seed"], evidence["split"], evidence["n"]) == (12, 5, "test", 6)
    assert evidence["annealed"]["settings"]["temperatures"] == 6
    assert evidence["annealed"]["settings"]["chains"] == 2
    assert evidence["annealed"]["annealed_bound"]["n"] == 3
    assert evidence["data"] == written["data"]
    manifest = json.loads((place / "runs/tiny/model/manifest.json").read_text())
    assert written["model"]["sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert written["values"]["evidence_bound"]["samples"] == 100
    assert written["verdict"]
    trade, values = written["evidence"]["rate_distortion"], written["values"]
    assert [trade[name]["value"] for name in ("rate", "distortion")] == [
        values[name]["value"] for name in ("kl", "reconstruction")
    ]

    plain = json.loads(command("evaluate", "runs/tiny", "--samples", "12", "--seed", "5", "--json", "--quiet").out)
    assert plain["values"]["evidence_bound"]["samples"] == 12
    assert plain["values"]["evidence_bound"]["value"] == pytest.approx(evidence["importance_bound"]["value"])
    assert plain["evidence"] == written["evidence"]

    assert command("evaluate", "runs/tiny", "--samples", "3", "--quiet").code == 0
    kept = json.loads(path.read_text())
    assert kept["evidence"] == written["evidence"]
    assert kept["values"]["evidence_bound"]["samples"] == 3

    kept["model"]["sha256"] = "of other weights"
    path.write_text(json.dumps(kept))
    assert command("evaluate", "runs/tiny", "--samples", "3", "--quiet").code == 0
    assert "evidence" not in json.loads(path.read_text())


def test_the_judge_is_trained_once(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    judges: list[Judge] = []

    def counted(*args: Any, **kwargs: Any) -> Judge:
        judges.append(train_judge(*args, **kwargs))
        return judges[-1]

    for room in (classifier, features):
        monkeypatch.setattr(room, "train_judge", counted)
    result = json.loads(command("evaluate", "runs/tiny", *QUICK, "--json", "--quiet").out)
    (judge,) = judges
    assert result["judge_accuracy"] is not None
    assert result["evidence"]["fidelity"]["extractor"]["sha256"] == digest(judge.state_dict())


def test_no_annealing_when_nobody_wants_it(place: Path, command: Command) -> None:
    options = ["--evidence", "--samples", "2", "--ais", "0", "--split", "validation"]
    result = command("evaluate", "runs/tiny", *options, "--json")
    assert json.loads(result.out)["evidence"]["bounds"]["annealed"] is None
    assert "not measured: annealed" in command("evaluate", "runs/tiny", *options).out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperatures", "5"], ["--temperatures", "Add --evidence"]),
        (["--ais", "0"], ["--ais", "Add --evidence"]),
        (["--evidence", "--chains", "0"], ["--chains", "from 1", "got 0"]),
        (["--evidence", "--ais", "-1"], ["--ais", "from 0", "got -1"]),
        (["--evidence", "--temperature", "5"], ["--temperatures"]),
    ],
)
def test_mistakes(place: Path, command: Command, options: list[str], words: list[str]) -> None:
    before = (place / "runs/tiny/evaluation.json").read_bytes()
    result = command("evaluate", "runs/tiny", *options)
    assert result.code == 2
    assert all(word in result.err for word in words)
    assert len(result.err.splitlines()) <= 4
    assert (place / "runs/tiny/evaluation.json").read_bytes() == before
