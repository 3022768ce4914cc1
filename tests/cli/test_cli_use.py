"""Every other verb, end to end on a finished run, with its files."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import STEPS, Command
from PIL import Image


def image(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_inspect(place: Path, command: Command) -> None:
    result = command("inspect", "tiny.npz", "--sheet", "sheet.png")
    assert result.code == 0
    for words in (
        "60",
        "8x8 grey",
        "8-bit",
        "top 20",
        "likelihood",
        "logistic",
        "--likelihood gaussian",
        "latent",
        "--latent-dim",
    ):
        assert words in result.out
    assert "next:  sfumato train tiny.npz" in result.err
    assert image("sheet.png").ndim == 2
    content = json.loads(command("inspect", "tiny.npz", "--json").out)
    assert content["facts"]["splits"] == {"train": 48, "validation": 6, "test": 6}
    assert all(decision["because"] for decision in content["decisions"])
    binary = command("inspect", "tiny.npz", "--binarise", "fixed", "--sheet", "binary.png")
    assert binary.code == 0
    assert "--binarise fixed" in binary.err
    assert set(np.unique(image("binary.png"))) <= {0, 255}


@pytest.mark.usefixtures("real_report")
def test_evaluate(place: Path, command: Command) -> None:
    first = json.loads(Path("runs/tiny/evaluation.json").read_bytes())
    assert command("evaluate", "runs/tiny", "--quiet").code == 0
    assert json.loads(Path("runs/tiny/evaluation.json").read_bytes()) == first
    report = Path("runs/tiny/report.html").stat().st_mtime_ns
    result = command("evaluate", "runs/tiny", "--samples", "7")
    for words in (
        "log p(x), at least",
        "K = 7",
        "±",
        "nats",
        "bits/dim",
        "L_mu",
        "L_sigma",
        "mean sigma",
        "Bayes",
        "judge",
    ):
        assert words in result.out
    assert "KL per dimension" in result.out
    content = json.loads(Path("runs/tiny/evaluation.json").read_bytes())
    assert content["values"]["evidence_bound"]["samples"] == 7
    assert content["verdict"] == first["verdict"]
    assert Path("runs/tiny/report.html").stat().st_mtime_ns > report
    other = json.loads(command("evaluate", "runs/tiny/model", "--split", "validation", "--json", "--quiet").out)
    assert other["split"] == "validation"
    assert json.loads(Path("runs/tiny/evaluation.json").read_bytes()) == content


def test_sample(place: Path, command: Command) -> None:
    result = command("sample", "runs/tiny", "-n", "6", "-o", "out/s.png", "--arrays", "s.npz")
    assert result.code == 0
    assert result.out == ""
    with np.load("s.npz") as arrays:
        assert arrays["x"].shape == (6, 1, 8, 8)
        assert arrays["x"].dtype == np.uint8
        assert arrays["label"].tolist() == [0, 0, 1, 1, 2, 2]
        first = arrays["x"]
    rows, columns = image("out/s.png").shape
    assert rows > columns / 2
    assert command("sample", "runs/tiny/model", "-n", "6", "-o", "again.npz").code == 0
    with np.load("again.npz") as arrays:
        assert (arrays["x"] == first).all()
    assert command("sample", "runs/tiny", "-n", "6", "--seed", "1", "-o", "again.npz", "--force").code == 0
    with np.load("again.npz") as arrays:
        assert (arrays["x"] != first).any()
    assert command("sample", "runs/tiny", "--class", "middle", "-n", "5", "-o", "middle.npz").code == 0
    with np.load("middle.npz") as arrays:
        assert arrays["label"].tolist() == [1] * 5
    assert command("sample", "runs/tiny", "--class", "1", "-n", "2", "--temperature", "0", "-o", "cold.npz").code == 0
    with np.load("cold.npz") as arrays:
        assert (arrays["x"][0] == arrays["x"][1]).all()


def test_the_default_name_is_not_replaced(place: Path, command: Command) -> None:
    assert command("sample", "runs/tiny").code == 0
    before = Path("samples.png").read_bytes()
    assert command("sample", "runs/tiny", "--seed", "1").code == 2
    assert Path("samples.png").read_bytes() == before
    assert command("sample", "runs/tiny", "--seed", "1", "--force").code == 0
    assert Path("samples.png").read_bytes() != before


def test_reconstruct(place: Path, command: Command) -> None:
    assert command("reconstruct", "runs/tiny", "--arrays", "r.npz").code == 0
    assert Path("reconstructions.png").exists()
    with np.load("r.npz") as arrays:
        assert arrays["x"].shape == arrays["reconstruction"].shape == (6, 1, 8, 8)
    for order in (["runs/tiny/model", "tiny.npz"], ["tiny.npz", "runs/tiny"]):
        assert command("reconstruct", *order, "-o", "all.npz", "--force").code == 0
        with np.load("all.npz") as arrays, np.load("tiny.npz") as data:
            assert (arrays["x"][:, 0] == data["x"]).all()


def test_encode_and_decode(place: Path, command: Command) -> None:
    assert command("encode", "runs/tiny", "-o", "z.npz").code == 0
    assert command("encode", "tiny.npz", "runs/tiny/model", "-o", "same.npz").code == 0
    with np.load("z.npz") as own, np.load("same.npz") as given, np.load("tiny.npz") as data:
        assert set(own.files) == {"mean", "log_variance", "label"}
        assert own["mean"].shape == own["log_variance"].shape == (60, 3)
        assert (own["label"] == data["y"]).all()
        assert all((own[name] == given[name]).all() for name in own.files)
    assert command("encode", "runs/tiny", "--split", "test", "-o", "test.npz").code == 0
    with np.load("test.npz") as arrays:
        assert len(arrays["mean"]) == 6
    assert command("decode", "runs/tiny", "test.npz", "-o", "d.npz").code == 0
    assert command("decode", "test.npz", "runs/tiny").code == 0
    assert Path("decoded.png").exists()
    assert command("reconstruct", "runs/tiny", "-o", "r.npz").code == 0
    with np.load("d.npz") as decoded, np.load("r.npz") as reconstructed:
        assert (decoded["x"] == reconstructed["reconstruction"]).all()


def test_interpolate(place: Path, command: Command) -> None:
    arguments = ["interpolate", "runs/tiny", "--from", "0", "--to", "3", "--steps", "5"]
    assert command(*arguments, "-o", "way.png", "--arrays", "way.npz").code == 0
    assert command("reconstruct", "runs/tiny", "-o", "r.npz").code == 0
    with np.load("way.npz") as way, np.load("r.npz") as ends:
        assert way["x"].shape == (1, 5, 1, 8, 8)
        assert (way["x"][0, 0] == ends["reconstruction"][0]).all()
        assert (way["x"][0, -1] == ends["reconstruction"][3]).all()
    assert command("interpolate", "runs/tiny", "-n", "2", "--path", "linear", "-o", "ways.npz").code == 0
    with np.load("ways.npz") as ways:
        assert ways["x"].shape == (2, 10, 1, 8, 8)


def test_info(place: Path, command: Command) -> None:
    result = command("info", "runs/tiny")
    for words in (
        "a run",
        "latent 3",
        "DiscretizedLogistic",
        "top, middle, bottom",
        "finished, step 20 of 20",
        "bits/dim",
    ):
        assert words in result.out
    run = json.loads(command("info", "runs/tiny", "--json").out)
    model = json.loads(command("info", "runs/tiny/model", "--json").out)
    assert run["kind"] == "run"
    assert model["kind"] == "model"
    assert run["model"] == model["model"]
    assert "run" not in model
    assert command("info", "runs/tiny/model").code == 0


@pytest.mark.usefixtures("real_report")
def test_report(place: Path, command: Command) -> None:
    Path("runs/tiny/report.html").unlink()
    result = command("report", "runs/tiny")
    assert result.code == 0
    assert result.out.strip() == Path("runs/tiny/report.html").resolve().as_uri()
    assert "<html" in Path("runs/tiny/report.html").read_text()


@pytest.mark.usefixtures("real_report")
def test_a_table_with_classes(place: Path, command: Command) -> None:
    generator = np.random.default_rng(0)
    with Path("people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "income", "bought"])
        for number in range(80):
            bought = number % 2
            writer.writerow(
                [40 + 10 * bought + generator.normal(), 1000 + generator.normal() * 50, ["no", "yes"][bought]]
            )
    arguments = ["people.csv", "--label", "bought"]
    found = command("inspect", *arguments)
    assert "2 columns: age, income" in found.out
    assert found.err.strip().endswith("sfumato train people.csv --label bought")
    trained = command("train", *arguments, "--steps", "20")
    assert trained.code == 0, trained.err
    assert "rows/s" in trained.err
    assert command("sample", "runs/people", "-n", "10").code == 0
    with Path("samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert list(rows[0]) == ["age", "income", "class"]
    assert {row["class"] for row in rows} == {"no", "yes"}
    assert command("sample", "runs/people/model", "--class", "yes", "-n", "3", "-o", "yes.csv").code == 0
    assert Path("yes.csv").read_text().splitlines()[0] == "age,income,class"
    assert command("reconstruct", "runs/people").code == 0
    assert Path("reconstructions.csv").read_text().count("\n") == 9
    assert command("interpolate", "runs/people", "-n", "2", "--steps", "4").code == 0
    assert Path("interpolations.csv").read_text().count("\n") == 9
    assert command("encode", "runs/people/model", "people.csv", "--label", "bought").code == 0
    with np.load("latents.npz") as arrays:
        assert set(arrays["label"].tolist()) == {0, 1}


def test_networks_that_see_the_class(place: Path, command: Command) -> None:
    arguments = ["--condition", "both", "--steps", "10", "--out", "runs/both", "--quiet"]
    assert command("train", "tiny.npz", *arguments).code == 0
    assert command("encode", "runs/both", "-o", "z.npz").code == 0
    assert command("decode", "runs/both", "z.npz", "-o", "d.npz").code == 0
    assert command("decode", "runs/both", "z.npz", "--class", "top", "-o", "top.npz").code == 0
    with np.load("d.npz") as own, np.load("top.npz") as top:
        assert own["label"].tolist() != top["label"].tolist()
    for verb in ("sample", "reconstruct", "interpolate"):
        assert command(verb, "runs/both").code == 0


def test_a_folder_of_images(tmp_path: Path, command: Command) -> None:
    generator = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            values = generator.integers(0, 100, (10, 12, 3)) + 150 * (name == "light")
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    with chdir(tmp_path):
        result = command("train", "photos", "--size", "8", "--steps", "4", "--recipe", "mlp")
        assert result.code == 0, result.err
        assert command("sample", "runs/photos", "--class", "dark", "-n", "4").code == 0
        assert image("samples.png").ndim == 3
        shutil.copytree("photos", "new")
        assert command("encode", "runs/photos/model", "new").code == 0
        with np.load("latents.npz") as arrays:
            assert arrays["mean"].shape[0] == 24
            assert arrays["label"].tolist() == [0] * 12 + [1] * 12


def test_demo(place: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.cli import options
    from sfumato.verbs import python

    assert python.DEMO_DATA in options.BUILT_IN
    monkeypatch.setattr(python, "DEMO_DATA", "tiny.npz")
    monkeypatch.setitem(python.DEMO, "time", "0.5s")
    result = command("demo")
    assert result.code == 0, result.err
    assert Path("runs/demo/report.html").exists()
    assert "--class" in result.err


def test_verify_resume(place: Path, command: Command, forked_trainings: None) -> None:
    result = command("verify-resume", "tiny.npz", "--kills", "2", "--steps", "20", "--json", "--quiet")
    assert result.code == 0, result.err
    assert json.loads(result.out)["identical"]


def test_python_says_the_same(place: Path) -> None:
    import sfumato

    found = sfumato.inspect("tiny.npz")
    assert repr(found) == "Dataset(tiny: 60 images 1x8x8, 3 classes)"
    trained = sfumato.train(found, steps=20, latent_dim=3, out="runs/python")
    assert Path("runs/python/metrics.jsonl").read_bytes() == Path("runs/tiny/metrics.jsonl").read_bytes()
    assert trained.outcome.finished
    model = sfumato.load("runs/python")
    made = sfumato.sample("runs/python", 4, label="top", out="top.png")
    assert made.files == (Path("top.png"),)
    assert model.sample(2, "top").shape == (2, 1, 8, 8)
    with pytest.raises(sfumato.core.errors.UserError, match="one of them"):
        sfumato.train("tiny.npz", steps=3, time="1m")


def test_a_streamed_file_gives_the_same_training(place: Path, command: Command) -> None:
    np.save(place / "rows.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    lines = {}
    for word in ("--stream", "--no-stream"):
        out = f"runs/rows{word}"
        done = command("train", "rows.npy", word, "--out", out, *STEPS)
        assert done.code == 0, done.err
        assert ("asked for" in done.err and " streamed " in done.err) == (word == "--stream")
        assert ("waits" in done.err) == (word == "--stream")
        rows = [json.loads(line) for line in (place / out / "metrics.jsonl").read_text().splitlines()]
        lines[word] = [row["loss"] for row in rows]
    assert lines["--stream"] == pytest.approx(lines["--no-stream"], rel=1e-3)
    assert command("encode", "runs/rows--stream", "-o", "streamed.npz").code == 0
    assert command("encode", "runs/rows--stream/model", "rows.npy", "-o", "read.npz").code == 0
    assert command("reconstruct", "runs/rows--stream", "-o", "again.npz").code == 0
    with np.load("streamed.npz") as streamed, np.load("read.npz") as read, np.load("again.npz") as again:
        assert np.array_equal(streamed["mean"], read["mean"])
        assert set(map(tuple, again["x"])) <= set(map(tuple, np.load("rows.npy")))
