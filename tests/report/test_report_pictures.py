"""Tensors to pictures, and charts that stand on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.data import Binarise, Identity, Integers, Levels, Standardise
from sfumato.report import figures, grid, image_grid, numbers, to_uint8
from sfumato.report.panels import principal_axes
from sfumato.report.pictures import shrink


@pytest.mark.parametrize(
    ("raw", "preprocessing", "expected"),
    [
        (np.array([[0, 7, 255]], np.uint8), None, [[0, 7, 255]]),
        (np.array([[0, 7, 255]], np.uint8), Levels((3,)), [[0, 7, 255]]),
        (torch.tensor([[-1.0, 0.5, 2.0]]), None, [[0, 128, 255]]),
        (torch.tensor([[0.0, torch.nan, 1.0]]), Identity((3,)), [[0, 0, 255]]),
        (np.array([[0, 1, 1]], np.uint8), Identity((3,)), [[0, 255, 255]]),
        (np.array([[0, 1, 3]], np.uint8), Integers((3,), levels=4), [[0, 85, 255]]),
        (torch.tensor([[0.0, 0.5, 1.0]]), Binarise((3,), "dynamic", high=1.0), [[0, 128, 255]]),
        (torch.tensor([[[-2.5, 0.0, 9.0]]]), Standardise((1, 3)), [[[0, 128, 255]]]),
    ],
)
def test_raw_values_as_eight_bits(raw, preprocessing, expected):
    found = to_uint8(raw, preprocessing)
    assert found.dtype == np.uint8
    assert found.tolist() == expected


def test_a_grid_keeps_every_pixel_and_has_clear_gaps():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 1, 4, 5)).astype(np.uint8)
    picture = np.asarray(grid(images, scale=2, gap=3))
    assert picture.shape == (2 * 8 + 3, 3 * 10 + 2 * 3, 2)
    assert (picture[11:19:2, 13:23:2, 0] == images[1, 1, 0]).all()
    assert not picture[8:11].any()
    assert grid(np.zeros((1, 1, 3, 4, 4), np.uint8)).mode == "RGBA"


def test_an_image_grid_with_a_short_row_and_captions():
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    plain, titled = image_grid(images, 3), image_grid(images, 3, ["first", "a second one"])
    assert plain.mode == "L"
    assert plain.size == (2 + 3 * 58, 2 + 2 * 58)
    assert titled.width > plain.width
    assert plain.getpixel((plain.width - 20, plain.height - 20)) == 255
    assert plain.getpixel((20, 20)) == 0
    assert image_grid(torch.zeros(2, 3, 8, 8), 2).mode == "RGB"


def test_shrinking_takes_means():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert shrink(image, 2).tolist() == [[[2, 4], [10, 12]]]
    assert shrink(image, 8) is image
    assert shrink(np.zeros((1, 1, 900), np.uint8), 100).shape == (1, 1, 900)


def test_principal_axes_are_those_of_the_covariance():
    points = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = points @ torch.diag(torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)) + 7
    centre, axes, shares = principal_axes(points)
    assert torch.allclose(centre, points.mean(0))
    values, vectors = torch.linalg.eigh(points.T.cov())
    assert torch.allclose((axes[:, 0] * vectors[:, -1]).sum().abs(), torch.ones((), dtype=torch.float64))
    assert shares == pytest.approx([float(value / values.sum()) for value in (values[-1], values[-2])])
    assert float(axes[axes.abs().argmax(0), [0, 1]].min()) > 0


def test_figures_draw_where_they_are_told():
    ax = figures.curves([{"step": 1, "split": "train", "elbo": -3.0}, {"step": 2, "split": "train", "elbo": -2.0}])
    assert figures.kl_per_dimension([1.0, 3.0], [False, True], ax=ax) is ax
    assert figures.to_svg(ax, "one") == figures.to_svg(ax, "one")
    assert "http" not in figures.to_svg(ax, "one")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-84.2071, "−84.21"), (12_345.6, "12,346"), (10_000, "10,000"), (0.0, "0"), (None, "–"), (float("nan"), "–"),
     (1e12, "1.000e+12"), (True, "–")],
)  # fmt: skip
def test_numbers_read_well(value, shown):
    assert numbers.text(value) == shown
