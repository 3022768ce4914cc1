"""The page as a whole: its address, its widths, names that are markup, other data, tokens, other sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from app_helpers import application, image_model, saved, served, table_model
from browser_helpers import READY, Watched, pixels, settled, state, with_browser
from playwright.sync_api import Browser

pytestmark = with_browser


def test_the_address_holds_the_state(watched: Watched, browser: Browser, address: str) -> None:
    page = watched.open()
    page.locator("#plane").select_option("variance")
    page.locator("#view input[value=images]").check(force=True)
    page.locator("#map").click(position={"x": 80, "y": 120})
    page.locator("#in").click()
    page.locator("#tab-curves").click()
    page.wait_for_timeout(400)
    link = page.url
    again = Watched(browser, address)
    page2 = again.context.new_page()
    page2.goto(link)
    page2.wait_for_selector(READY, state="attached")
    for name in ("plane", "view", "tab", "zoom"):
        assert state(page2, name) == state(page, name)
    assert np.allclose(state(page2, "z"), state(page, "z"), atol=1e-3)
    page2.evaluate("() => { location.hash = '#tab=<script>&view=none&z=AAAA&plane=x&class=77&temperature=1e300'; }")
    page2.wait_for_timeout(200)
    assert (state(page2, "tab"), state(page2, "view")) == ("sample", "points")
    again.context.close()


@pytest.mark.parametrize("width", [320, 768, 1239, 1920])
def test_nothing_is_cut_off(browser: Browser, address: str, width: int) -> None:
    for scheme in ("light", "dark"):
        watched = Watched(browser, address, color_scheme=scheme)
        watched.page.set_viewport_size({"width": width, "height": 900})
        page = watched.open("tab=tour&stop=4")
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        for name in ("#map", "#decoded", "#tabs", "#tab-sample", "#tab-tour", "#plane", "#theme"):
            box = page.locator(name).bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width + 1, name
        watched.context.close()
        assert not watched.wrong


def test_names_from_data_are_text(browser: Browser, tmp_path: Path) -> None:
    folder = saved(tmp_path, image_model())
    with served(lambda bound: application(folder, house=bound.house)) as where:
        watched = Watched(browser, where.address)
        page = watched.open()
        assert page.locator("#legend button").first.inner_text() == "<img src=x onerror=alert(1)>"
        assert page.locator("#near-title").inner_text() == "Nearest samples"
        page.locator("#tab-tour").click()
        page.wait_for_selector("#stop-title:has-text('cloud')")
        assert page.locator("img").count() == 0
        watched.context.close()
        assert not watched.wrong


def test_a_table_is_drawn_as_numbers(browser: Browser, tmp_path: Path) -> None:
    with served(lambda bound: application(saved(tmp_path, table_model(2, True)), house=bound.house)) as where:
        watched = Watched(browser, where.address)
        page = watched.open()
        page.locator("#map").click(position={"x": 60, "y": 60})
        page.locator("#as").select_option("1")
        settled(page)
        first = pixels(page, "#decoded")
        page.locator("#as").select_option("0")
        settled(page)
        assert pixels(page, "#decoded") != first
        for tab in ("path", "image", "curves", "tour", "sample"):
            page.locator(f"#tab-{tab}").click()
            page.wait_for_timeout(150)
        watched.context.close()
        assert not watched.wrong


def test_a_token_leaves_the_address_and_opens_the_page(browser: Browser, finished: Path, tmp_path: Path) -> None:
    token = tmp_path / "token.txt"
    token.write_text("0123456789abcdefgh")
    token.chmod(0o600)
    with served(lambda bound: application(finished, house=bound.house), token=token) as where:
        watched = Watched(browser, where.address)
        watched.page.goto(f"{where.address}?token=0123456789abcdefgh")
        watched.page.wait_for_selector(READY, state="attached")
        assert "token" not in watched.page.url
        assert watched.page.evaluate("() => document.cookie") == ""
        watched.context.close()
        assert not watched.wrong


def test_another_site_cannot_ask(browser: Browser, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto("data:text/html,<p>another site")
    script = """async (url) => { try { const r = await fetch(url + 'explorer/state'); return r.status; }
        catch (error) { return String(error); } }"""
    assert "TypeError" in page.evaluate(script, address)
    context.close()
