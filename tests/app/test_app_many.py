"""A map of 60,000 points: all of them are drawn and within reach, with the same controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from app_helpers import image_model, saved, served
from browser_helpers import Watched, settled, state, with_browser
from playwright.sync_api import Browser, Page

from sfumato.app.application import build
from sfumato.app.server import Place
from sfumato.app.snapshot import Snapshot
from sfumato.app.watching import watch
from sfumato.evaluation.latents import Latents

N = 60_000
FAR = 40  # points that lie alone, at both ends of the numbering

pytestmark = with_browser


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    generator = np.random.default_rng(0)
    watched = watch(saved(tmp_path_factory.mktemp("crowd"), image_model()), 20)
    few = watched.look()
    assert few is not None
    z = generator.normal(size=(N, 3)).astype(np.float32)
    alone = np.concatenate([np.arange(FAR // 2), np.arange(N - FAR // 2, N)])
    angle = np.linspace(0, 2 * np.pi, FAR, endpoint=False)
    z[alone] = np.stack([8 * np.cos(angle), 8 * np.sin(angle), 0 * angle], 1)
    x = generator.integers(0, 255, (N, 1, 4, 4)).astype(np.uint8)
    latents = Latents(torch.from_numpy(z), None, None, None, None, None)
    watched.snapshot = Snapshot(1, few.opened, few.served, x, np.arange(N) % 2, np.arange(N), None, latents, N)
    with served(lambda bound: build(watched, bound.house, page=True)) as where:
        yield where


def under(page: Page, numbers: list[int]) -> list[list[int]]:
    """Return number, place on the screen and colour of the map at some points."""
    script = """(numbers) => { const m = window.sfumato.world.map, ratio = m.base.width / m.size[0];
        const copy = new OffscreenCanvas(m.base.width, m.base.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(m.base, 0, 0);
        return numbers.map((i) => { const [x, y] = m.toScreen(m.at[2 * i], m.at[2 * i + 1]);
            return [i, x, y, ...copy.getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data]; }); }"""
    found: list[list[int]] = page.evaluate(script, numbers)
    return found


def test_all_of_very_many_points_are_drawn(browser: Browser, crowd: Place) -> None:
    watched = Watched(browser, crowd.address)
    page = watched.open("plane=dims&across=0&up=1")
    assert page.locator("#count").inner_text() == "60,000 training examples"
    page.evaluate("() => { const m = window.sfumato.world.map; m.zoom(0.3); }")
    page.wait_for_timeout(500)
    found = under(page, [*range(FAR // 2), *range(N - FAR // 2, N)])
    assert [k for k, *_, alpha in found if alpha < 100] == []
    ink = {tuple(rgb) for _, _, _, *rgb, _ in found}
    assert len(ink) >= 2, "in the colours of their classes"
    number, x, y = found[-1][:3]
    page.locator("#map").click(position={"x": x, "y": y})
    page.wait_for_selector("#original-figure:not([hidden])")
    assert page.locator("#original-name").inner_text().endswith(f"example {number:,}")
    settled(page)
    page.locator("#lasso").click()
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x - 9, box["y"] + y - 9)
    page.mouse.down()
    for dx, dy in ((9, -9), (9, 9), (-9, 9)):
        page.mouse.move(box["x"] + x + dx, box["y"] + y + dy)
    page.mouse.up()
    assert state(page, "selection") == [number]
    for view in ("images", "field", "points"):
        page.locator(f"#view input[value={view}]").check(force=True)
        page.wait_for_timeout(200)
    watched.context.close()
    assert not watched.wrong


def test_a_class_is_shown_above_the_others(browser: Browser, crowd: Place) -> None:
    watched = Watched(browser, crowd.address)
    page = watched.open()
    chips = page.locator("#classes button")
    assert page.evaluate("() => window.sfumato.state.lit") is None
    chips.nth(1).hover()
    assert page.evaluate("() => window.sfumato.state.lit") == 1
    page.wait_for_timeout(200)
    page.evaluate("() => window.sfumato.world.map.zoom(0.25)")
    page.wait_for_timeout(200)
    assert under(page, [0])[0][-1] < 60
    page.mouse.move(5, 5)
    page.wait_for_timeout(200)
    assert under(page, [0])[0][-1] > 100
    chips.nth(0).focus()
    assert page.evaluate("() => window.sfumato.state.lit") == 0
    watched.context.close()
    assert not watched.wrong
