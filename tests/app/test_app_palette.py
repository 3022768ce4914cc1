"""The colours of classes can be told apart, on light and on dark ground, also by colour-blind eyes: measured.

Differences are CIEDE2000 (The CIEDE2000 Color-Difference Formula, Sharma et al., 2005,
https://doi.org/10.1002/col.20070); what the colour-blind see is simulated (A Physiologically-based Model for Simulation
of Color Vision Deficiency, Machado et al., 2009, https://doi.org/10.1109/TVCG.2009.113, severity 1).
"""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato.report.figures import CLASSES, TRAIN, VALIDATION

Array = NDArray[np.float64]
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
EYES = {
    "normal": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
STYLE = files("sfumato.app").joinpath("static/style.css").read_text("utf-8")
GROUNDS = sorted(set(re.findall(r"--paper: (#\w{6})", STYLE)))


def linear(colour: str) -> Array:
    """Return the light of a colour, red, green, blue in [0, 1]."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(light: Array) -> Array:
    x = XYZ @ light / XYZ.sum(1)
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(first: Array, second: Array) -> float:
    """Return CIEDE2000 of two colours in Lab; about 2 can just be seen."""
    mean_chroma = (np.hypot(*first[1:]) + np.hypot(*second[1:])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25**7))
    chroma = [np.hypot(stretch * a, b) for _, a, b in (first, second)]
    hue = [np.degrees(np.arctan2(b, stretch * a)) % 360 for _, a, b in (first, second)]
    apart = (hue[1] - hue[0] + 180) % 360 - 180 if chroma[0] * chroma[1] else 0.0
    middle = np.radians(hue[0] + apart / 2)
    lightness, c = (first[0] + second[0]) / 2, sum(chroma) / 2
    t = 1 - 0.17 * np.cos(middle - np.radians(30)) + 0.24 * np.cos(2 * middle)
    t += 0.32 * np.cos(3 * middle + np.radians(6)) - 0.2 * np.cos(4 * middle - np.radians(63))
    by_lightness = 1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2)
    turned = np.exp(-(((np.degrees(middle) % 360 - 275) / 25) ** 2))
    turn = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(np.radians(60) * turned)
    parts = [(second[0] - first[0]) / by_lightness, (chroma[1] - chroma[0]) / (1 + 0.045 * c)]
    parts.append(2 * np.sqrt(chroma[0] * chroma[1]) * np.sin(np.radians(apart / 2)) / (1 + 0.015 * c * t))
    return float(np.sqrt(np.square(parts).sum() + turn * parts[1] * parts[2]))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_is_that_of_the_standard(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    assert difference(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("eyes", "least"), [(name, 23 if name == "normal" else 14.5) for name in EYES])
def test_any_two_classes_look_different(eyes: str, least: float) -> None:
    seen = [lab(np.clip(np.array(EYES[eyes]) @ linear(colour), 0, 1)) for colour in CLASSES]
    pairs = [(difference(seen[i], seen[j]), CLASSES[i], CLASSES[j]) for i in range(len(seen)) for j in range(i)]
    assert len(CLASSES) == 10
    assert min(pairs)[0] >= least, min(pairs)


def test_every_class_is_seen_on_the_ground() -> None:
    assert len(GROUNDS) == 2
    for ground in map(linear, GROUNDS):
        for light in map(linear, CLASSES):
            assert difference(lab(light), lab(ground)) >= 28
            low, high = sorted((XYZ[1] @ light, XYZ[1] @ ground))
            assert (high + 0.05) / (low + 0.05) >= 2.25


def test_the_page_draws_curves_in_the_colours_of_the_report() -> None:
    assert f"--train: {TRAIN}; --validation: {VALIDATION};" in STYLE
