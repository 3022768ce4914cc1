"""``sfumato doctor`` on real runs: finished, interrupted, running, damaged; and ``train --careful``."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import Command, Started, short_reports, tree

from sfumato.cli.main import run
from sfumato.core.errors import UserError
from sfumato.core.schedules import WarmUp
from sfumato.core.spec import to_spec
from sfumato.io.run import RunFolder
from sfumato.objectives import ELBO, IWAE, MMD
from sfumato.recipes import Options, plan
from sfumato.training import Listener
from sfumato.verbs import doctor as verb
from sfumato.verbs import train as training

SHORT = ["--steps", "60", "--latent-dim", "2", "--lr", "0.01", "--quiet"]


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and three runs: beta 1, beta 0, and careful."""
    folder = tmp_path_factory.mktemp("clinic")
    generator = np.random.default_rng(2)
    factors = generator.normal(size=(500, 2))
    x = np.tanh(factors @ generator.normal(size=(2, 6))) + 0.1 * generator.normal(size=(500, 6))
    np.save(folder / "made.npy", x.astype(np.float32))
    with chdir(folder), short_reports():
        for name, more in {"well": [], "ae": ["--beta", "0"], "careful": ["--careful", "--seed", "1"]}.items():
            assert run(["train", "made.npy", *SHORT, *more, "--out", f"runs/{name}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def few_evaluations() -> None:
    """A diagnosis looks at all evaluations."""


@pytest.fixture
def ward(clinic: Path, tmp_path: Path) -> Iterator[Path]:
    """An own copy, as the current folder; its runs read the data of the original."""
    shutil.copytree(clinic, tmp_path / "ward")
    with chdir(tmp_path / "ward"):
        yield tmp_path / "ward"


def everything(folder: Path) -> dict[str, Any]:
    return {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}


def test_a_disease_is_named_with_a_command_that_cures_it(ward: Path, command: Command) -> None:
    before = everything(ward)
    result = command("doctor", "runs/ae")
    assert result.code == 0
    assert everything(ward) == before, "the doctor only looks"
    first = result.out.splitlines()[0]
    assert first.startswith("runs/ae: ")
    assert "finished, step 60 of 60" in first
    assert "problem: noise-free limit" in result.out
    for word in ("  symptom  ", "  why      ", "  do       ", "--beta 1"):
        assert word in result.out
    words = shlex.split(result.err.partition("next:")[2].splitlines()[0])
    assert words[:2] == ["sfumato", "train"]
    assert words[words.index("--beta") + 1] == "1"
    assert words[words.index("--latent-dim") + 1] == "2"
    assert words[words.index("--steps") + 1] == "60"
    assert words[-2:] == ["--out", "runs/ae-2"]
    assert command(*words[1:], "--quiet").code == 0
    again = json.loads(command("doctor", "runs/ae-2", "--json").out)
    assert "noise-free limit" not in {finding["name"] for finding in again["findings"]}


def test_as_json(ward: Path, command: Command) -> None:
    result = command("doctor", "runs/ae", "--json")
    assert result.code == 0
    assert result.err == ""
    content = json.loads(result.out)
    assert content["state"] == "finished"
    assert content["healthy"] is False
    assert content["measured"]["balance"] < 0.3
    assert content["settings"]["beta"] == 0
    assert content["findings"][0]["severity"] == "problem"
    assert content["findings"][0]["command"][0] == "train"


def test_a_healthy_run_is_one_line(ward: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(command("doctor", "runs/well", "--json").out)
    assert not [finding for finding in content["findings"] if finding["name"] == "noise-free limit"]
    monkeypatch.setattr(verb, "diagnose", lambda symptoms: [])
    result = command("doctor", "runs/well")
    assert len(result.out.splitlines()) == 1
    assert result.out.startswith("runs/well: healthy (finished, step 60 of 60 · ELBO ")
    assert "2 of 2 latent dimensions active" in result.out
    assert result.err == ""


def test_a_run_that_is_still_training_is_read_beside_it(ward: Path, command: Command) -> None:
    """At an evaluation in the middle, from inside the training: the lock is held and stays so."""
    seen: list[dict[str, Any]] = []

    class Looks(Listener):
        def on_step(self, step: int) -> None:
            if step == 40:
                seen.append(verb.doctor("runs/now").to_dict())

    options = Options(steps=60, latent_dim=2, learning_rate=0.01)
    training.train("made.npy", out="runs/now", options=options, listener=Looks())
    assert seen[0]["state"] == "running"
    assert seen[0]["step"] == 40
    assert seen[0]["measured"]["n"] == 50
    metrics = [(Path("runs") / name / "metrics.jsonl").read_bytes() for name in ("now", "well")]
    assert metrics[0] == metrics[1], "being looked at changes nothing"
    assert verb.state_of(RunFolder("runs/now")) == "finished"


def test_an_interrupted_run_and_one_without_data(ward: Path, command: Command) -> None:
    shutil.rmtree("runs/ae/model")
    Path("runs/ae/evaluation.json").unlink()
    assert "runs/ae: " in (out := command("doctor", "runs/ae").out)
    assert "noise-free limit" in out
    content = json.loads(Path("runs/ae/run.json").read_text())
    content["data"]["origin"]["source"] = "gone.npy"
    Path("runs/ae/run.json").write_text(json.dumps(content))
    result = command("doctor", "runs/ae")
    assert result.code == 0
    assert "not looked at: the data (" in result.err
    assert "noise-free limit" in result.out


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert not verb.is_held(lock)
    with lock.open("w") as file:
        assert verb.is_held(lock) in (False, None)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert verb.is_held(lock) in (True, None)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert verb.is_held(lock) in (False, None)


def test_watching_ends_with_the_run(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(["running", "running", "running", "finished", "finished", "finished"])
    looked: list[str] = []
    monkeypatch.setattr(verb, "state_of", lambda folder: next(states))
    monkeypatch.setattr(verb, "_examine", lambda path, seed: Fake(looked, next(states)))
    slept: list[float] = []
    found = list(verb.watch("runs/well", sleep=slept.append, every=7.0))
    assert len(found) == 2
    assert [item.symptoms.course.state for item in found] == ["running", "finished"]
    assert slept == [7.0, 7.0]


class Fake:
    """A diagnosis of which only the state is asked."""

    def __init__(self, looked: list[str], state: str) -> None:
        looked.append(state)
        self.symptoms = self.course = self
        self.state = state


def test_watching_a_finished_run_looks_once(ward: Path, command: Command) -> None:
    result = command("doctor", "runs/ae", "--watch")
    assert result.code == 0
    assert result.out.count("runs/ae: ") == 1


def test_a_training_that_is_killed_is_seen_by_who_watches(ward: Path, command: Command) -> None:
    words = ["train", "made.npy", "--steps", "100000", "--engine", "eager", "--latent-dim", "2", "--out", "runs/live"]
    process = Started([*words, "--quiet"], ward)
    try:
        while process.poll() is None and not (ward / "runs/live/metrics.jsonl").exists():
            time.sleep(0.01)

        def kill(seconds: float) -> None:
            process.kill()
            process.communicate()

        found = list(verb.watch("runs/live", sleep=kill))
    finally:
        process.kill()
    assert [item.symptoms.course.state for item in found] == ["running", "stopped"]
    assert "stopped, step" in found[1].headline
    result = command("doctor", "runs/live", "--watch")
    assert result.code == 0
    assert result.out.count("runs/live: ") == 1
    assert "problem: " not in result.out
    assert "next:  sfumato train --resume runs/live" in result.err


@pytest.mark.parametrize(
    ("event", "code", "said"),
    [
        ("interrupted", 130, "no longer watching; the training is not touched"),
        ("removed", 1, "error: runs/ae is gone: it was removed or renamed while it was watched."),
    ],
)
def test_watching_that_is_broken_off_is_one_sentence(
    event: str, code: int, said: str, ward: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run counts as running: it has no evaluation yet, and this process holds its lock."""
    Path("runs/ae/evaluation.json").unlink()

    def breaks_off(seconds: float) -> None:
        if event == "interrupted":
            raise KeyboardInterrupt
        shutil.rmtree("runs/ae")

    monkeypatch.setattr(verb, "watch", partial(verb.watch, sleep=breaks_off))
    with RunFolder("runs/ae").lock():
        result = command("doctor", "runs/ae", "--watch")
    assert result.code == code
    assert "running, step 60 of 60" in result.out
    assert result.err.splitlines() == [said]


def test_without_a_run_it_tests_the_installation(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.verbs import selftest

    result = command("doctor")
    assert result.code == 0
    for word in ("torch", "python", "exact evidence   right", "training         right", "model folder     right"):
        assert word in result.out

    def broken() -> tuple[bool, str]:
        raise ValueError("no such thing")

    monkeypatch.setattr(selftest, "CHECKS", {"broken": broken, "wrong": lambda: (False, "2 is 3")})
    result = command("doctor", "--json")
    assert result.code == 1
    content = json.loads(result.out)
    assert not content["passed"]
    assert "no such thing" in content["self_test"][0]["numbers"]


@pytest.mark.parametrize(
    ("words", "wrong", "right"),
    [
        ("runs/wel", "runs/wel", "folder of a run"),
        ("made.npy", "made.npy", "folder of a run"),
        ("--watch", "--watch", "RUN"),
        ("runs/well --wach", "--wach", "--watch"),
    ],
)
def test_mistakes_are_one_sentence(words: str, wrong: str, right: str, ward: Path, command: Command) -> None:
    result = command("doctor", *words.split())
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert wrong in result.err
    assert right in result.err


def test_careful_decides_before_the_training_and_writes_it_down(ward: Path, command: Command) -> None:
    decided = json.loads(Path("runs/careful/run.json").read_text())
    plain = json.loads(Path("runs/well/run.json").read_text())
    assert decided["objective"]["free_bits"] == 0.2
    assert decided["objective"]["schedule"] == {"class": "WarmUp", "steps": 18, "start": 0.0}
    assert plain["objective"]["schedule"]["steps"] == 6
    assert (plain["training"]["patience"], decided["training"]["patience"]) == (8, 16)
    assert decided["training"]["learning_rate"] == 0.01, "what the user asked for stays"
    written = {
        decision["name"]: decision for decision in decided["decisions"] if decision["change_with"] == "--no-careful"
    }
    assert set(written) == {"free bits", "warm-up", "patience", "rollback"}
    assert all(decision["because"] for decision in written.values())
    assert written["free bits"]["value"] == "0.2 nats"
    result = command("train", "made.npy", "--steps", "3", "--careful", "--out", "runs/slow")
    assert result.code == 0
    for word in ("free bits", " nats", "warm-up", "rate", "0.0005", "patience", "--no-careful"):
        assert word in result.err
    assert json.loads(Path("runs/slow/run.json").read_text())["training"]["learning_rate"] == 5e-4
    refused = command("train", "made.npy", "--careful", "--config", "runs/well/run.json", "--out", "runs/both")
    assert refused.code == 2
    assert "--careful" in refused.err
    assert not Path("runs/both").exists()


def test_the_command_for_a_careful_run_is_careful_and_has_its_seed(ward: Path) -> None:
    folder = RunFolder("runs/careful")
    words = verb.command_for(folder, folder.read_run(), ("--steps", "120"))
    assert (words[0], Path(words[1]).name) == ("train", "made.npy")
    assert "--careful" in words
    assert words[words.index("--seed") + 1] == "1"
    assert words[words.index("--steps") + 1] == "120"
    assert verb.command_for(folder, folder.read_run(), ()) == ()


def test_the_kl_term_is_found_inside_a_sum(ward: Path) -> None:
    folder = RunFolder("runs/well")
    decided = folder.read_run()
    both = to_spec(ELBO(beta=2.0, free_bits=0.5, schedule=WarmUp(10**6)) + 3.0 * MMD())
    settings = verb.settings_of(decided | {"objective": both})
    assert (settings.objective, settings.beta, settings.free_bits) == ("Sum", 2.0, 0.5)
    assert verb.course_of(folder, decided | {"objective": both}, None).weight < 1e-3
    for other in (ELBO(beta=0.0) + MMD(), IWAE(2), ELBO(reconstruction=0.0) + MMD()):
        tree = decided | {"objective": to_spec(other)}
        assert verb.settings_of(tree).beta is None
        assert verb.course_of(folder, tree, None).weight == 1.0


def test_the_command_for_a_paper_keeps_its_beta_or_leaves_the_paper(ward: Path) -> None:
    folder = RunFolder("runs/well")
    decided = folder.read_run()
    recipe = {"name": "recipe", "value": "wae-mmd", "because": "", "change_with": "--recipe NAME", "source": "user"}
    beta = {"name": "beta", "value": 20.0, "because": "", "change_with": "--beta X", "source": "user"}
    paper = decided | {"decisions": [recipe, beta], "objective": to_spec(ELBO(beta=0.0) + 20.0 * MMD())}
    words = " ".join(verb.command_for(folder, paper, ("--steps", "120")))
    assert "--recipe wae-mmd" in words
    assert "--beta 20 " in words + " "
    words = " ".join(verb.command_for(folder, paper, ("--beta", "1")))
    assert "--recipe" not in words
    assert "--beta 1 " in words + " "


def test_a_careful_run_is_resumed_bit_for_bit(ward: Path) -> None:
    class Stop(Exception):
        pass

    class Dies(Listener):
        def on_step(self, step: int) -> None:
            if step == 37:
                raise Stop

    options = Options(steps=60, latent_dim=2, learning_rate=0.01, seed=1, careful=True)
    with pytest.raises(Stop):
        training.train("made.npy", out="runs/killed", options=options, listener=Dies())
    training.resume("runs/killed")
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (Path("runs/killed") / name).read_bytes() == (Path("runs/careful") / name).read_bytes()


def test_careful_leaves_a_plan_without_it_as_it_was(ward: Path) -> None:
    from sfumato.data import load_dataset

    dataset = load_dataset("made.npy")
    plain, careful = (plan(dataset, Options(steps=100, careful=careful)) for careful in (False, True))
    assert (plain.config.learning_rate, careful.config.learning_rate) == (1e-3, 5e-4)
    assert plain.objective.free_bits == 0
    assert plain.objective.schedule.steps == 10
    assert careful.objective.schedule.steps == 30
    assert careful.config.patience * careful.config.evaluate_every > careful.objective.schedule.steps
    with pytest.raises(UserError):
        plan(dataset, Options(steps=100, careful=True, beta=-1.0))
