"""Every mistake: one sentence with the wrong word and a right one, exit code 2, nothing written, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Command, tree
from PIL import Image


def png(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="module")
def offers(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A folder with everything that people offer by mistake."""
    place = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(finished / "runs", place / "runs")
    shutil.copy(finished / "tiny.npz", place)
    (place / "photos").mkdir()
    for number in range(6):
        png(place / "photos" / f"{number}.png", seed=number)
        png(place / "mixed" / f"{number}.png", (8 + number, 8), number)
        png(place / "cut" / f"{number}.png", seed=number)
        png(place / "lonely" / "many" / f"{number}.png", seed=number)
    png(place / "lonely" / "one" / "single.png", seed=9)
    whole = (place / "cut" / "3.png").read_bytes()
    (place / "cut" / "3.png").write_bytes(whole[: len(whole) // 2])
    (place / "empty").mkdir()
    (place / "notes").mkdir()
    (place / "notes" / "todo.txt").write_text("milk")
    (place / "people.csv").write_text("age,city,bought\n" + "".join(f"{n},{n % 3},{n % 2}\n" for n in range(20)))
    x = np.random.default_rng(0).normal(size=(20, 4))
    np.save(place / "reals.npy", x)
    np.save(place / "counts.npy", np.arange(80).reshape(20, 4) * 3)
    np.save(place / "nan.npy", np.where(x > 1, np.nan, x))
    np.savez(place / "short.npz", x=x, y=np.zeros(7, dtype=int))
    (place / "model.pt").write_bytes(b"\x80\x04pickle")
    (place / "words.yaml").write_text("modle: {class: VAE}\n")
    (place / "twice.yaml").write_text("training: 1\ntraining: 2\n")
    (place / "alias.yaml").write_text("a: &a [1]\nb: *a\n")
    (place / "broken.json").write_text('{"training": ')
    (place / "half").mkdir()
    (place / "half" / "metrics.jsonl").write_text("")
    damage(place / "cut-run", finished, lambda run: (run / "run.json").write_bytes(b'{"format_ver'))
    damage(place / "gone-run", finished, lambda run: (run / "model" / "model.safetensors").unlink())
    damage(place / "strange-run", finished, rename_class)
    return place


def damage(path: Path, finished: Path, how: Callable[[Path], object]) -> None:
    shutil.copytree(finished / "runs" / "tiny", path)
    how(path)


def rename_class(run: Path) -> None:
    """Name a class that there is not, with a manifest that fits."""
    from sfumato.io import store

    files = store.read_folder(run / "model")
    files["config.json"] = files["config.json"].replace(b'"DiagonalGaussian"', b'"DiagonalGausian"')
    store.write_folder(run / "model", files, replace=True)


@pytest.fixture
def here(offers: Path) -> Iterator[Path]:
    with chdir(offers):
        yield offers


MISTAKES = [
    ("trian photos/", "trian", "'train'"),
    ("frobnicate", "frobnicate", "inspect"),
    ("train fotos/", "fotos/", "photos"),
    ("train fashion-mnist-mni", "fashion-mnist-mni", "fashion-mnist-mini"),
    ("train photos --latnt-dim 16", "--latnt-dim", "--latent-dim"),
    ("train photos --zzz", "--zzz", "sfumato train -h"),
    ("train photos --latent-dim 0", "got 0", "1 to 65,536"),
    ("train photos --latent-dim many", "'many'", "whole number"),
    ("train photos --latent-dim 2.5", "2.5", "whole number"),
    ("train photos --latent-dim", "--latent-dim", "needs a value"),
    ("train photos --quiet=1", "--quiet", "no value"),
    ("train photos tiny.npz", "tiny.npz", "sfumato train -h"),
    ("train photos --beta -1", "-1", "--beta"),
    ("train photos --beta nan", "nan", "--beta"),
    ("train photos --epochs 0", "got 0", "--epochs"),
    ("train photos --steps 0", "got 0", "--steps"),
    ("train photos --lr inf", "inf", "--lr"),
    ("train photos --batch 0", "got 0", "--batch"),
    ("train photos --seed -3", "-3", "--seed"),
    ("train photos --time 5x", "5x", "10m"),
    ("train photos --time 0s", "0s", "10m"),
    ("train photos --time 5m --epochs 3", "--epochs", "one of them"),
    ("train photos --likelihood gausian", "gausian", "'gaussian'"),
    ("train photos --binarise yes", "yes", "dynamic"),
    ("train photos --condition decodr", "decodr", "'decoder'"),
    ("train photos --recipe mpl", "mpl", "'mlp'"),
    ("train photos --split 0.8,0.2", "0.8,0.2", "0.8,0.1,0.1"),
    ("train photos --split 0.8,0.3,0.1", "0.8,0.3,0.1", "add up to 1"),
    ("train photos --size big", "big", "64"),
    ("train photos --size 0", "0", "4,096"),
    ("train photos --log wandb", "wandb", "tensorboard"),
    ("train", "DATA", "sfumato train photos/"),
    ("inspect", "DATA", "sfumato inspect photos/"),
    ("sample", "RUN", "sfumato sample runs/photos"),
    ("train empty", "empty", "images"),
    ("train notes", "notes", ".txt"),
    ("train notes/todo.txt", "todo.txt", ".csv"),
    ("train mixed", "8x8", "--size"),
    ("train cut", "3.png", "--skip-bad"),
    ("train lonely", "'one'", "2 examples"),
    ("train people.csv --label bougt", "bougt", "'bought'"),
    ("train photos --label kind", "--label", "sub-folders"),
    ("train nan.npy", "nan.npy", "--skip-bad"),
    ("train short.npz", "got 7", "20"),
    ("train counts.npy --likelihood bernoulli", "0 to 237", "--likelihood"),
    ("train reals.npy --likelihood bernoulli", "reals.npy", "--likelihood gaussian"),
    ("train tiny.npz --likelihood bernoulli --out runs/grey", "tiny.npz", "--binarise dynamic"),
    ("train reals.npy --conditional", "--conditional", "classes"),
    ("train reals.npy --recipe conv-small", "conv-small", "--recipe mlp"),
    ("train model.pt", "model.pt", "numpy.save"),
    ("train tiny.npz", "runs/tiny", "--out runs/tiny-2"),
    ("train photos --out runs", "runs", "--out runs-2"),
    ("train photos --config words.yaml", "modle", "model"),
    ("train photos --config twice.yaml", "training", "twice.yaml"),
    ("train photos --config alias.yaml", "alias", "json"),
    ("train photos --config broken.json", "broken.json", "json"),
    ("train photos --config nothing.yaml", "nothing.yaml", "does not exist"),
    ("train photos --config runs/tiny/run.json --latent-dim 3", "--latent-dim", "'model'"),
    ("train --resume runs/tyni", "runs/tyni", "runs/photos"),
    ("train --resume photos", "photos", "run.json"),
    ("train --resume half", "half/run.json", "missing"),
    ("train --resume cut-run", "run.json", "damaged"),
    ("train --resume runs/tiny --epochs 3", "--epochs", "new run"),
    ("train tiny.npz --resume runs/tiny", "DATA", "--resume"),
    ("evaluate runs/tyni", "runs/tyni", "tiny"),
    ("evaluate runs/tiny --split tset", "tset", "'test'"),
    ("evaluate runs/tiny --samples 0", "got 0", "--samples"),
    ("evaluate runs/tiny/model/config.json", "config.json", "folder"),
    ("evaluate model.pt", "model.pt", "pickle"),
    ("info photos", "config.json", "missing"),
    ("info cut-run", "run.json", "damaged"),
    ("info half", "run.json", "missing"),
    ("info gone-run", "model.safetensors", "intact"),
    ("info strange-run", "DiagonalGausian", "'DiagonalGaussian'"),
    ("sample model.pt", "model.pt", "pickle"),
    ("sample runs/tiny --class tpo", "tpo", "'top'"),
    ("sample runs/tiny --class 3", "3", "top"),
    ("sample runs/tiny -n 0", "got 0", "-n"),
    ("sample runs/tiny --temperature -1", "-1", "--temperature"),
    ("sample runs/tiny -o samples.gif", "samples.gif", ".png"),
    ("sample runs/tiny -o photos/0.png", "photos/0.png", "--force"),
    ("sample runs/tiny -o photos", "photos", ".png"),
    ("sample runs/tiny --arrays a.csv", "a.csv", ".npz"),
    ("reconstruct runs/tiny/model", "runs/tiny/model", "DATA"),
    ("reconstruct runs/tiny reals.npy", "(4,)", "(1, 8, 8)"),
    ("reconstruct runs/tiny tiny.npz --split test", "--split", "DATA"),
    ("interpolate runs/tiny --from 1", "--from", "--to"),
    ("interpolate runs/tiny --from 1 --to 999", "999", "--to"),
    ("interpolate runs/tiny --path sferical", "sferical", "'spherical'"),
    ("encode runs/tiny -o latents.png", "latents.png", ".npz"),
    ("decode runs/tiny nowhere.npz", "nowhere.npz", "encode"),
    ("decode runs/tiny reals.npy", "(20, 4)", "(n, 3)"),
    ("decode runs/tiny people.csv", "people.csv", ".npz"),
    ("inspect reals.npy --sheet sheet.png", "--sheet", "images"),
    ("inspect photos --sheet photos/0.png", "photos/0.png", "--force"),
    ("report runs/tiny/nothing", "nothing", "run"),
    ("report photos", "photos", "config.json"),
]


@pytest.mark.parametrize(("line", "wrong", "right"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_gets_a_sentence(line: str, wrong: str, right: str, here: Path, command: Command) -> None:
    before = tree(here)
    result = command(*line.split())
    assert result.code == 2, result.err
    assert not result.out
    assert len(result.err.splitlines()) <= 4
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err
    assert wrong in result.err
    assert right in result.err
    assert tree(here) == before


def test_a_table_cannot_be_a_picture(place: Path, command: Command) -> None:
    np.save("reals.npy", np.random.default_rng(0).normal(size=(40, 4)))
    assert command("train", "reals.npy", "--steps", "4", "--quiet").code == 0
    result = command("sample", "runs/reals", "-o", "samples.png")
    assert result.code == 2
    assert "no PNG" in result.err
    assert ".npz" in result.err
    result = command("sample", "runs/reals", "--class", "a")
    assert result.code == 2
    assert "no classes" in result.err


def test_data_that_changed_are_refused(place: Path, command: Command) -> None:
    decided = json.loads(Path("runs/tiny/run.json").read_bytes())
    moved = Path("other.npz")
    with np.load("tiny.npz") as archive:
        np.savez(moved, **{**archive, "x": archive["x"] + 1})
    decided["data"]["origin"]["source"] = str(moved.resolve())
    Path("runs/tiny/run.json").write_text(json.dumps(decided))
    result = command("evaluate", "runs/tiny")
    assert result.code == 2
    assert "fingerprint" in result.err
    decided["data"]["origin"]["source"] = str(Path("gone.npz").resolve())
    Path("runs/tiny/run.json").write_text(json.dumps(decided))
    result = command("reconstruct", "runs/tiny")
    assert result.code == 2
    assert "gone.npz" in result.err
