"""A claim measured for real, small: it repeats but for rounding, goes on where it stopped, is refused with reasons."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfumato.claims import CLAIMS, Setting, run_claims
from sfumato.claims.bench import Bench, Material
from sfumato.claims.claim import find_claims
from sfumato.claims.meeting import Meeting, Seat
from sfumato.claims.runner import measured_path
from sfumato.cli.main import run
from sfumato.core.errors import UserError
from sfumato.training import Trainer, several
from sfumato.training.state import TrainingState

TINY = Setting(
    seeds=2,
    latent_dim=2,
    width=8,
    steps=12,
    batch_size=16,
    learning_rate=1e-2,
    test=24,
    evidence=10,
    samples=3,
    judge_steps=2,
)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Two hundred pictures of 8x8, of three classes."""
    generator = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = generator.integers(0, 60, size=(240, 1, 8, 8))
    x[np.arange(240), 0, 2 * y + 1] += 150
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, x=x.astype(np.uint8), y=y)
    return replace(TINY, data=str(path))


@pytest.fixture(scope="module")
def done(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of claim 6."""
    folder = tmp_path_factory.mktemp("runs") / "claims"
    run_claims(setting, folder, only=[6], workers=1)
    return folder


def same_but_for_rounding(found: object, expected: object) -> None:
    """Compare numbers of trainings that shared their steps with others, or did not."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for name in expected:
            same_but_for_rounding(found[name], expected[name])
    elif isinstance(expected, list):
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            same_but_for_rounding(one, other)
    else:
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_claim_is_measured_decided_and_drawn(done: Path) -> None:
    found = json.loads((done / "claims.json").read_text())["claims"]
    assert set(found) == {"6"}
    assert found["6"]["verdict"] in ("holds", "holds with a condition", "does not hold")
    assert len(found["6"]["seeds"]) == 2
    assert all(set(row) == {"one trunk,\ntwo heads", "two encoders"} for row in found["6"]["seeds"])
    sizes = [arm["parameters"] for arm in found["6"]["seeds"][0].values()]
    assert 0.9 < sizes[0] / sizes[1] < 1.1
    assert {"article.md", "article.zh.md", "06-two-encoders.png"} <= set(contents(done))


def test_what_is_measured_is_not_measured_again(setting: Setting, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(done)
    monkeypatch.setattr(Material, "dataset", None)  # whoever looks at the data now fails
    run_claims(setting, done, only=[6], workers=1)
    assert contents(done) == before


def test_it_goes_on_where_it_stopped_with_the_same_numbers(setting: Setting, done: Path) -> None:
    before = contents(done)
    measured_path(done, CLAIMS[6], 1).unlink()
    heard: list[tuple[str, int, int]] = []
    run_claims(setting, done, only=[6], workers=1, tell=lambda *words: heard.append(words))
    assert heard == [("claims", 1, 1)]

    def numbers(files: dict[str, bytes]) -> list[object]:
        return json.loads(files["claims.json"])["claims"]["6"]["seeds"]

    after = numbers(contents(done))
    assert after[0] == numbers(before)[0]
    same_but_for_rounding(after, numbers(before))


def test_processes_give_the_numbers_of_one(setting: Setting, done: Path, tmp_path: Path) -> None:
    summary = run_claims(setting, tmp_path / "claims", only=[6], workers=2)
    alone = json.loads((done / "claims.json").read_text())["claims"]["6"]["seeds"]
    same_but_for_rounding(summary["claims"]["6"]["seeds"], alone)


@pytest.mark.parametrize("better", [0.0, 1e9])
def test_seeds_that_are_trained_at_once_have_the_numbers_of_seeds_by_themselves(
    setting: Setting, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: float
) -> None:
    monkeypatch.setattr(several, "BETTER", better)
    monkeypatch.setattr(several, "WORTH", 0)
    begun: list[int] = []
    at_once = several._at_once

    def counted(group: Sequence[Trainer], shared: several.SharedStep) -> list[several.Ended]:
        begun.append(len(group))
        return at_once(group, shared)

    monkeypatch.setattr(several, "_at_once", counted)
    summary = run_claims(setting, tmp_path / "claims", only=[6, 1], workers=1)
    alone = json.loads((done / "claims.json").read_text())["claims"]["6"]["seeds"]
    same_but_for_rounding(summary["claims"]["6"]["seeds"], alone)
    assert begun == ([] if better else [2, 2, 2, 2])
    assert summary["claims"]["6"]["seconds"] > 0


def test_what_goes_wrong_in_one_seed_ends_all_and_is_told() -> None:
    def wrong(seat: Seat) -> None:
        raise LookupError("seed 1")

    meeting = Meeting([lambda seat: None, wrong, lambda seat: None])
    with pytest.raises(LookupError, match="seed 1"):
        meeting.run()
    assert not any(seat.thread.is_alive() for seat in meeting.seats)


def test_an_interruption_leaves_what_was_measured(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    average, seen, threads = TrainingState.average, [], threading.active_count()

    def interrupted(self: TrainingState) -> None:
        average(self)
        seen.append(self)
        if len(seen) == 60:  # the third training of two seeds, of twelve steps each
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingState, "average", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_claims(setting, tmp_path / "claims", only=[6, 1], workers=1)
    left = sorted(path.name for path in (tmp_path / "claims/measured").iterdir())
    assert left == ["06-two-encoders-0.json", "06-two-encoders-1.json"]
    assert threading.active_count() == threads


def test_seeds_differ(done: Path) -> None:
    one, other = json.loads((done / "claims.json").read_text())["claims"]["6"]["seeds"]
    assert one["two encoders"]["evidence"] != other["two encoders"]["evidence"]


@pytest.mark.parametrize("number", CLAIMS)
def test_every_claim_can_be_measured(setting: Setting, number: int) -> None:
    """With its units, and as plain numbers, whatever they are worth here."""
    from sfumato.claims.claim import checked_measurement, plain

    bench = BENCHES.setdefault(setting.data, Bench(Material(replace(setting, steps=4)), 0))
    claim = CLAIMS[number]
    measured = plain(checked_measurement(claim, claim.measure(bench)))
    json.dumps(measured, allow_nan=False)
    assert len(measured) >= 2


BENCHES: dict[str, Bench] = {}


def test_a_training_is_done_once(setting: Setting) -> None:
    bench = Bench(Material(replace(setting, steps=2)), 0)
    assert bench.standard() is bench.standard()
    assert bench.standard() is not bench.without_kl()


def test_results_of_another_setting_are_not_mixed(setting: Setting, done: Path) -> None:
    with pytest.raises(UserError, match="holds results of another setting"):
        run_claims(replace(setting, steps=13), done, only=[6])


def test_a_folder_with_something_else_is_left_alone(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="exists and holds no claims"):
        run_claims(setting, tmp_path, only=[6])
    assert set(contents(tmp_path)) == {"letter.txt"}


def test_only_claims_that_there_are() -> None:
    assert [claim.number for claim in find_claims(CLAIMS, [5, 3, 5])] == [5, 3]
    with pytest.raises(UserError, match="--only must name claims from 1 to 10; got 11"):
        find_claims(CLAIMS, [11])


def test_data_without_classes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 4)))
    with pytest.raises(UserError, match="images of at least two classes"):
        run_claims(replace(TINY, data=str(tmp_path / "x.npy")), tmp_path / "out", only=[6], workers=1)


def test_mistakes_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["claims", "--quick", "--only", "three"]) == 2
    assert "--only must be numbers of claims, for instance 3,5; got 'three'." in capsys.readouterr().err
    assert run(["claims", "--quick", "--only", "0"]) == 2
    assert "--only must name claims from 1 to 10; got 0." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_shows_verdicts(
    setting: Setting, done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sfumato.verbs import claims as verb

    monkeypatch.setattr(verb, "QUICK", setting)
    shown = ["claims", "--quick", "--only", "6", "--out", str(done), "--workers", "1", "--quiet"]
    assert run(shown) == 0
    out = capsys.readouterr().out
    assert "6. Two encoders, or one trunk with two heads" in out
    assert "article.md" in out
    assert run([*shown, "--json", "--docs", str(tmp_path)]) == 0
    assert set(json.loads(capsys.readouterr().out)["claims"]) == {"6"}
    assert (tmp_path / "article.zh.md").is_file()
