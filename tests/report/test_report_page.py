"""The page: one file, no outside, everything escaped, every number with its unit, whatever is missing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from sfumato.core.errors import SfumatoError
from sfumato.data import Binarise, Dataset, Levels, Standardise
from sfumato.io import store
from sfumato.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.report import write_report

EVIL = ('<script>alert("x")</script>', "a & b $x_1$ \\frac", "日本 🙂")
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects addresses, text, and checks that what is opened is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th", "dt", "dd") else ""

    def handle_data(self, data):
        self.text += data


def images(n=60, shape=(1, 6, 6), classes=EVIL):
    x = np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.uint8)
    rows = np.arange(n)
    splits = {"train": rows[: n // 3], "validation": rows[n // 3 : 2 * n // 3], "test": rows[2 * n // 3 :]}
    return Dataset("p<b>ixels", x, rows % len(classes) if classes else None, splits, tuple(classes))


def table(n=60):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32) * [1, 1000, 0] + [0, 5e4, 7]
    rows = np.arange(n)
    splits = {"train": rows[: n // 3], "validation": rows[n // 3 : 2 * n // 3], "test": rows[2 * n // 3 :]}
    return Dataset("people", x.astype(np.float32), None, splits, columns=("a<i>ge", "income", "same"))


def model(dataset, *, conditional=True, dirac=False, likelihood=None, preprocessing=None, latent=4):
    shape = dataset.shape
    likelihood = likelihood or Bernoulli(shape)
    mean = MLP(shape, (latent,), hidden=(8,))
    posterior = Dirac(mean) if dirac else DiagonalGaussian(mean, MLP(shape, (latent,), hidden=(8,)))
    prior = ClassConditional(dataset.num_classes, latent) if conditional else StandardNormal(latent)
    vae = VAE(prior, posterior, MLP((latent,), likelihood.parameter_shape, hidden=(8,)), likelihood)
    return PackagedModel(vae, preprocessing or Binarise(shape, "dynamic"), dataset.class_names if conditional else ())


def lines(count=30):
    result = []
    for step in range(0, count * 10, 10):
        values = {"elbo": -100.0 + step, "kl": 5.0, "reconstruction": 95.0, "kl_mean": None, "sigma": math.nan}
        result.append({"step": step, "split": "train", **values, "skipped": 0})
        if step % 50 == 0:
            result.append({"step": step, "split": "validation", **values, "kl_per_dimension": [1.0, None]})
    return result


def estimate(value, error=0.5, n=20, unit="nats", **more):
    return {"value": value, "standard_error": error, "n": n, "unit": unit, **more}


def accuracy(value):
    classes = [estimate(value, 0.011, 7, "fraction") for _ in EVIL]
    return {
        "overall": estimate(value, 0.01, 20, "fraction"),
        "per_class": classes,
        "confusion": [[7, 0, 0], [1, 6, 0], [0, 0, 0]],
    }


EVALUATION = {
    "format_version": 1,
    "split": "test",
    "n": 20,
    "dims": 36,
    "values": {
        "elbo_given_label": estimate(-84.21),
        "kl": estimate(24.87),
        "evidence_bound": estimate(-83.33, samples=17),
        "bits_per_dim": estimate(3.74, 0.03, unit="bits/dim"),
        "mean_sigma": estimate(0.651, 0.012, unit="units of z"),
        "reconstruction": estimate(None, None),
    },
    "active_units": {"value": 3, "of": 4},
    "mean_sigma": 0.651,
    "per_dimension": {"kl": [0.1, None, 20.0, 3.0]},
    "bayes_accuracy": accuracy(0.8765),
    "generation_accuracy": accuracy(0.912),
    "judge_accuracy": None,
    "baselines": {"independent": estimate(-206.71)},
    "absent": {"ppca": "the data are discrete"},
    "versions": {"sfumato": "0"},
}
RUN = {
    "name": "r<u>n",
    "data": {
        "name": "p<b>ixels",
        "shape": [1, 6, 6],
        "class_names": list(EVIL),
        "counts": {"train": 20},
        "left_out": [["b/<img src=x>.jpg", "truncated"], "alone", {"file": "c", "why": "empty"}],
    },
    "decisions": [
        {"name": "latent", "value": 4, "because": "5 < 6 & 7", "change_with": "--latent-dim 16", "source": "auto"}
    ],
    "model": {"class": "VAE"},
    "training": {"batch_size": 128},
    "versions": {"torch": "2"},
    "seed": 3,
    "seconds": 3725.0,
}


def report(tmp_path, **arguments):
    path = tmp_path / "runs" / "my run" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, **({"run": RUN, "metrics": [], "step": 300, "steps": 600} | arguments))
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    dataset = images()
    return report(
        tmp_path_factory.mktemp("full"),
        packaged=model(dataset),
        dataset=dataset,
        metrics=lines(),
        evaluation=EVALUATION,
        verdict=["Good: x < y.", "Limit: none."],
        state="finished",
    )


def test_the_page_is_whole_and_needs_nothing_else(full):
    page = Page(full)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        assert address.startswith("data:") or (address.startswith("#") and address[1:] in page.ids), address[:80]
    assert not re.search(r"https?:|@import|url\((?!#)", full)
    assert "default-src 'none'" in full


def test_every_section_is_there(full):
    pictures = "samples reconstructions interpolations map traversals curves dimensions"
    words = "numbers decisions left-out use provenance"
    assert {*pictures.split(), *words.split()} <= set(Page(full).ids)
    assert "columns" not in Page(full).ids


def test_texts_of_the_data_are_text(full):
    page = Page(full)
    assert {"u", "b", "i"} & set(page.tags) <= {"b", "i"}  # the page's own; "r<u>n" made none
    for word in (*EVIL, "r<u>n", "p<b>ixels", "b/<img src=x>.jpg", "5 < 6 & 7"):
        assert word in page.text


def test_every_number_has_its_unit(full):
    text = " ".join(Page(full).text.split())
    for shown in (
        "−84.21 ± 0.50 nats", "24.87 ± 0.50 nats", "−83.33 ± 0.50 nats 20 17", "3.740 ± 0.030 bits/dim",
        "0.651 ± 0.012 units of z", "3 of 4 dimensions", "87.6 ± 1.0 %", "91.2 ± 1.0 %", "87.6 ± 1.1 %",
        "−206.71 ± 0.50 nats", "– nats", "the data are discrete", "23.10 nats in all", "1 h 2 min",
    ):  # fmt: skip
        assert shown in text, shown


def test_curves_survive_numbers_that_are_none(full):
    text = Page(full).text
    assert "L_sigma" in text
    assert 'aria-label="mean sigma over the steps"' not in full  # only NaN: nothing to draw
    assert 'aria-label="ELBO, given the label over the steps"' in full


def test_a_running_page_refreshes_itself_and_others_do_not(tmp_path, full):
    running = report(tmp_path, state="running")
    assert 'http-equiv="refresh" content="30"' in running
    assert "step 300 of 600 · 50 %" in " ".join(Page(running).text.split())
    for state in ("stopped", "failed"):
        page = report(tmp_path, state=state)
        assert 'http-equiv="refresh"' not in page
        assert f"{state} at step 300 of 600" in " ".join(Page(page).text.split())
    assert 'http-equiv="refresh"' not in full
    assert "finished after 300 steps" in " ".join(Page(full).text.split())


def test_nothing_known_yet(tmp_path):
    page = Page(report(tmp_path, run={}, metrics=[], step=0, steps=None))
    assert {"use"} <= set(page.ids)
    assert not {"samples", "curves", "numbers", "decisions"} & set(page.ids)


def test_a_table_shows_columns_in_place_of_pictures(tmp_path):
    dataset = table()
    preprocessing = Standardise((3,)).fit(dataset.array("train"))
    packaged = model(dataset, conditional=False, likelihood=Gaussian((3,)), preprocessing=preprocessing)
    page = Page(report(tmp_path, packaged=packaged, dataset=dataset))
    assert {"columns", "map", "dimensions"} <= set(page.ids)
    assert not {"samples", "reconstructions", "interpolations", "traversals"} & set(page.ids)
    assert "a<i>ge" in page.text
    assert "50," in page.text


@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 6, 6), (1, 300, 200)])
def test_pictures_of_any_size(tmp_path, shape):
    dataset = images(30, shape, classes=())
    likelihood = DiscretizedLogistic(shape)
    packaged = model(dataset, conditional=False, likelihood=likelihood, preprocessing=Levels(shape))
    ids = Page(report(tmp_path, packaged=packaged, dataset=dataset)).ids
    assert {"samples", "reconstructions", "interpolations", "map", "traversals"} <= set(ids)


def test_an_autoencoder_has_no_kl(tmp_path):
    dataset = images()
    page = Page(report(tmp_path, packaged=model(dataset, dirac=True), dataset=dataset))
    assert {"samples", "traversals"} <= set(page.ids)
    assert "dimensions" not in page.ids


def test_unlabelled_examples_and_one_dimension(tmp_path):
    dataset = images()
    dataset = replace(dataset, y=np.where(np.arange(60) % 2, dataset.y, -1))
    page = Page(report(tmp_path, packaged=model(dataset, latent=1), dataset=dataset))
    assert "map" not in page.ids
    page = Page(report(tmp_path, packaged=model(dataset), dataset=dataset))
    assert "unknown" in page.text


def test_weights_that_are_not_finite(tmp_path):
    dataset = images()
    packaged = model(dataset)
    with torch.no_grad():
        for parameter in packaged.model.posterior.parameters():
            parameter.fill_(math.nan)
    page = Page(report(tmp_path, packaged=packaged, dataset=dataset, state="failed"))
    assert "map" not in page.ids
    assert "reconstructions" in page.ids


def test_equal_inputs_give_equal_bytes_and_nothing_changes(tmp_path):
    dataset = images()
    packaged = model(dataset).train()
    state, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    first = report(tmp_path, packaged=packaged, dataset=dataset, metrics=lines())
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(matplotlib.rcParams) == settings
    assert packaged.model.training
    torch.manual_seed(17)
    assert report(tmp_path, packaged=packaged, dataset=dataset, metrics=lines()) == first


def test_a_failure_leaves_the_old_page(tmp_path, monkeypatch):
    before = report(tmp_path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "sync_file", full_disk)
    with pytest.raises(SfumatoError, match="disk is full"):
        report(tmp_path, step=400)
    folder = Path(tmp_path) / "runs" / "my run"
    assert (folder / "report.html").read_text() == before
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_the_lines_to_copy_name_this_run(tmp_path, monkeypatch, full):
    monkeypatch.chdir(tmp_path)
    dataset = images()
    text = Page(report(tmp_path, packaged=model(dataset), dataset=dataset)).text
    assert "sfumato train --resume 'runs/my run'" in text
    assert "sfumato.load('runs/my run/model')" in text
    assert "--resume" not in Page(full).text
