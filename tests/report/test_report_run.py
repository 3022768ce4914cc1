"""What a run shows of itself in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.axes
import numpy as np
import pytest
from matplotlib.figure import Figure

import sfumato
from sfumato.core.errors import UserError
from sfumato.verbs.train import TrainedRun


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    random = np.random.RandomState(0)
    x = (random.uniform(size=(60, 8, 8)) * 255).astype(np.uint8)
    return sfumato.train((x, random.randint(0, 2, 60)), out=tmp_path_factory.mktemp("r") / "run", steps=6, latent_dim=2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    x = np.random.RandomState(0).normal(size=(60, 3))
    return sfumato.train(x, out=tmp_path_factory.mktemp("r") / "rows", steps=3, latent_dim=1)


def test_the_line_says_what_it_is(images: TrainedRun, rows: TrainedRun) -> None:
    assert repr(images).startswith("Run(run: VAE, latent 2, ")
    assert "bits/dim" in repr(images)
    assert "nats" in repr(rows)
    assert "/2 active)" in repr(images)


def test_html_is_small_and_escaped(images: TrainedRun) -> None:
    inspected = sfumato.inspect((np.zeros((9, 3)) + np.arange(9)[:, None], ["<b>", "c", "d"] * 3))
    for shown in (images, images.model, inspected):
        found = shown._repr_html_()
        assert found.startswith("<div")
        assert len(found) < 10_000
    assert "<b>" not in inspected._repr_html_()
    assert "&lt;b&gt;" in inspected._repr_html_()


def test_metrics_are_a_frame(images: TrainedRun) -> None:
    frame = images.metrics
    assert {"step", "split", "elbo"} <= set(frame.columns)
    assert frame["step"].max() == 6


@pytest.mark.parametrize("name", ["curves", "kl", "latent", "reconstructions", "samples"])
def test_every_plot_takes_axes_and_returns_them(images: TrainedRun, name: str) -> None:
    draw: Any = getattr(images.plot, name)
    own = Figure().subplots()
    assert draw(ax=own) is own
    assert own.has_data() or own.images
    assert isinstance(draw(), matplotlib.axes.Axes)


def test_tables_have_other_pictures(rows: TrainedRun) -> None:
    assert rows.plot.reconstructions().get_xlabel() == "original, scaled"
    with pytest.raises(UserError, match="this model makes rows"):
        rows.plot.samples()
    with pytest.raises(UserError, match="a map needs two latent dimensions"):
        rows.plot.latent()


def test_the_explorer_is_found_when_it_is_asked_for(images: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.app import python

    monkeypatch.setattr(python, "explore", lambda run, **words: (run.path, words))
    assert images.explore(port=0) == (Path(images.path), {"port": 0})
