"""Another prior for a finished run, from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Command, tree

import sfumato
from sfumato.priors import ClassConditionalMixture, GaussianMixture


def test_a_prior_is_fitted_beside_the_run(place: Path, command: Command) -> None:
    before = tree(place / "runs/tiny")
    result = command("fit-prior", "runs/tiny", "--steps", "20", "--quiet")
    assert result.code == 0, result.err
    assert tree(place / "runs/tiny") == before
    first, *lines = result.out.splitlines()
    assert first.startswith("runs/tiny-class-mixture   prior class-mixture, fitted to the z of 48 training examples")
    assert [line.split("  ")[1].strip() for line in lines] == ["ELBO before", "ELBO after", "ELBO gain"]
    assert all("nats" in line and "±" in line and "on 6 validation examples" in line for line in lines)
    assert "sfumato sample runs/tiny-class-mixture" in result.err
    assert isinstance(sfumato.load("runs/tiny-class-mixture").model.prior, ClassConditionalMixture)
    decided = json.loads((place / "runs/tiny-class-mixture/run.json").read_text())
    assert decided["fitted_prior"] | {"from": "", "sha256": ""} == {
        "from": "",
        "sha256": "",
        "prior": "class-mixture",
        "draws": 5,
        "steps": 20,
        "seed": 0,
    }
    for words in (("sample", "-n", "3", "-o", "s.npz"), ("info",), ("report",), ("doctor",)):
        assert command(words[0], "runs/tiny-class-mixture", *words[1:]).code == 0
    assert command("sample", "runs/tiny-class-mixture", "--class", "top", "-n", "2", "-o", "t.png").code == 0
    again = command("fit-prior", "runs/tiny", "--steps", "20")
    assert again.code == 2
    assert "exists" in again.err


def test_json_is_what_python_says(place: Path, command: Command) -> None:
    given = (
        "fit-prior",
        "runs/tiny",
        "--prior",
        "gaussian-mixture",
        "--draws",
        "40",
        "--split",
        "test",
        "-o",
        "runs/a",
    )
    result = command(*given, "--seed", "3", "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    found = sfumato.fit_prior("runs/tiny", "gaussian-mixture", draws=40, split="test", seed=3, out="runs/b")
    assert isinstance(found.model.model.prior, GaussianMixture)
    assert told["values"] == {name: value.to_dict() for name, value in found.values.items()}
    assert told["split"] == "test"
    assert told["evaluation"]["values"] == found.evaluation["values"]
    assert np.isfinite(told["values"]["elbo_gain"]["standard_error"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/tiny", "--prior", "gmm"), "--prior does not know 'gmm'"),
        (("runs/tiny", "--prior", "codes"), "codes of a quantiser"),
        (("runs/tiny", "--steps", "0"), "--steps must be"),
        (("nowhere",), "does not exist"),
    ],
)
def test_mistakes_write_nothing(words: tuple[str, ...], said: str, place: Path, command: Command) -> None:
    before = tree(place)
    result = command("fit-prior", *words)
    assert result.code == 2
    assert said in result.err
    assert tree(place) == before
