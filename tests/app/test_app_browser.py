"""The page in a headless Chromium: every control used, no console error, no request to anywhere else.

Skipped only where no Chromium can be had; ``.ci/run`` and ``make test`` install one.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from app_helpers import bars
from browser_helpers import Watched, pixels, settled, state, with_browser
from PIL import Image

from sfumato.models.model import spherical
from sfumato.verbs.opening import open_model

pytestmark = with_browser


def test_what_is_shown_is_what_the_model_decodes(watched: Watched, finished: Path) -> None:
    page = watched.open()
    page.locator("#map").click(position={"x": 60, "y": 80})
    settled(page)
    z = np.float32(state(page, "z"))
    expected = open_model(finished).model.decode(z[None])[0, 0]
    assert pixels(page, "#decoded") == expected.flatten().tolist()


def test_click_drag_and_keys_move_through_the_map(watched: Watched) -> None:
    page = watched.open()
    box = page.locator("#map").bounding_box()
    assert box is not None
    seen = [state(page, "z")]
    page.mouse.click(box["x"] + 40, box["y"] + 60)
    seen.append(state(page, "z"))
    page.mouse.move(box["x"] + 50, box["y"] + 70)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 170, steps=6)
    page.mouse.up()
    seen.append(state(page, "z"))
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        seen.append(state(page, "z"))
    assert len({tuple(z) for z in seen}) == len(seen)
    where = """() => { const m = window.sfumato.world.map;
        return m.toScreen(...m.world.geometry.project(window.sfumato.state.z, m.axes)); }"""
    x, y = page.evaluate(where)
    assert abs(x - (250 - 8 + 40)) < 2
    assert abs(y - (170 - 8 + 8)) < 2
    page.keyboard.press("Enter")
    page.wait_for_selector("#original-figure:not([hidden])")
    near = page.evaluate("""() => { const { world, state } = window.sfumato;
        return [...world.geometry.of(world.geometry.nearest(state.z, 1)[0][0])]; }""")
    assert np.allclose(near, state(page, "z"))


def test_a_click_on_a_point_goes_to_that_example(watched: Watched, finished: Path) -> None:
    page = watched.open()
    x, y = page.evaluate("() => { const m = window.sfumato.world.map; return m.toScreen(m.at[0], m.at[1]); }")
    page.locator("#map").hover(position={"x": x, "y": y})
    tip = page.locator("#tip").inner_text()
    page.locator("#map").click(position={"x": x, "y": y})
    page.wait_for_selector("#original-figure:not([hidden])")
    assert page.locator("#original-name").inner_text() == tip
    row = int(re.findall(r"example ([\d,]+)", tip)[0].replace(",", ""))
    raw = open_model(finished).prepared.x[row, 0]
    assert pixels(page, "#original") == raw.flatten().tolist()


def test_the_tools_of_the_map(watched: Watched) -> None:
    page = watched.open()
    scale = "() => window.sfumato.world.map.view.scale"
    first = page.evaluate(scale)
    page.locator("#in").click()
    assert page.evaluate(scale) > first
    page.locator("#out").click()
    page.locator("#fit").click()
    assert page.evaluate(scale) == pytest.approx(first)
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    anchor = "() => window.sfumato.world.map.toPlane(100, 100)"
    fixed = page.evaluate(anchor)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    assert page.evaluate(scale) > first
    assert page.evaluate(anchor) == pytest.approx(fixed, abs=1e-3)
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert page.evaluate("() => window.sfumato.world.map.toPlane(160, 130)") == pytest.approx(fixed, abs=1e-2)
    page.keyboard.press("0")
    for view in ("images", "field", "points"):
        page.locator(f"#view input[value={view}]").check(force=True)
        assert state(page, "view") == view
        page.wait_for_timeout(200)
    for plane in ("variance", "dims", "classes"):
        page.locator("#plane").select_option(plane)
        assert page.locator("#across").is_visible() == (plane == "dims")
        if plane == "dims":
            page.locator("#across").select_option("2")
            page.locator("#up").select_option("3")
            assert (state(page, "across"), state(page, "up")) == (2, 3)
    for depth in ("kept", "centre", "data"):
        page.locator("#depth").select_option(depth)
        page.locator("#map").click(position={"x": 70, "y": 90})
    chips = page.locator("#legend button")
    assert chips.all_inner_texts() == ["top", "<b>middle</b>", "=bottom"]
    chips.first.click()
    assert chips.first.get_attribute("aria-pressed") == "false"
    assert page.evaluate("() => window.sfumato.state.hidden.has(0)")
    chips.first.click()


def test_depth_says_where_the_other_dimensions_stand(watched: Watched) -> None:
    page = watched.open("plane=dims&across=0&up=1")
    page.locator("#random").click()
    page.wait_for_timeout(200)
    before = state(page, "z")
    page.locator("#depth").select_option("kept")
    page.locator("#map").click(position={"x": 9, "y": 9})
    kept = state(page, "z")
    assert kept[2:] == before[2:]
    assert kept[:2] != before[:2]
    page.locator("#depth").select_option("centre")
    page.locator("#map").click(position={"x": 9, "y": 9})
    centre = page.evaluate("() => [...window.sfumato.world.geometry.centre]")
    assert np.allclose(state(page, "z")[2:], centre[2:], atol=1e-5)


def test_sliders_stand_in_the_order_of_their_kl(watched: Watched) -> None:
    page = watched.open()
    shown = [float(text) for text in page.locator("#sliders .kl").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    slider = page.locator("#sliders input").first
    dimension = int((slider.get_attribute("aria-label") or "").split()[-1])
    before = state(page, "z")
    slider.focus()
    slider.press("ArrowRight")
    slider.press("End")
    after = state(page, "z")
    assert after[dimension] == pytest.approx(float(slider.get_attribute("max") or 0), abs=0.011)
    assert [v for d, v in enumerate(after) if d != dimension] == [v for d, v in enumerate(before) if d != dimension]
    slider.dblclick()
    assert state(page, "z")[dimension] == pytest.approx(
        page.evaluate("(d) => window.sfumato.world.geometry.centre[d]", dimension)
    )


def test_sampling(watched: Watched) -> None:
    page = watched.open()
    page.wait_for_timeout(300)
    first = pixels(page, "#panel-sample .sheet canvas")
    page.locator("#again").click()
    page.wait_for_timeout(400)
    assert pixels(page, "#panel-sample .sheet canvas") != first
    page.locator("#class").select_option("2")
    page.locator("#temperature").fill("0")
    page.wait_for_timeout(500)
    cells = page.locator("#panel-sample .sheet button")
    assert {cells.nth(k).get_attribute("title") for k in range(25)} == {"=bottom: go there"}
    cells.nth(3).click()
    mean = page.evaluate("() => [...window.sfumato.world.model.class_means.slice(8, 12)]")
    assert np.allclose(state(page, "z"), mean, atol=1e-5)


def test_a_path_between_two_points_is_a_film(watched: Watched, tmp_path: Path) -> None:
    page = watched.open("tab=path")
    page.locator("#map").click(position={"x": 50, "y": 60})
    page.locator("#set-a").click()
    a = state(page, "a")
    assert a == state(page, "z")
    picture = tmp_path / "b.png"
    Image.fromarray(bars()[0][1]).save(picture)
    page.locator("#file-b").set_input_files(picture)
    page.wait_for_timeout(500)
    b = state(page, "b")
    for way, mix in (("spherical", spherical), ("linear", torch.lerp)):
        page.locator("#way").select_option(way)
        page.wait_for_timeout(300)
        page.locator("#panel-path .film button").nth(4).click()
        expected = mix(torch.tensor([a]), torch.tensor([b]), torch.tensor(4 / 11))
        assert np.allclose(state(page, "z"), expected[0], atol=1e-4)
    page.locator("#swap").click()
    assert np.allclose(state(page, "a"), b)
    page.locator("#play").click()
    page.wait_for_timeout(400)
    assert page.locator("#play").inner_text() == "Stop"
    page.keyboard.press("Escape")
    page.locator("#play").click()
    page.locator("#panel-path .slot button.quiet").first.click()
    assert state(page, "a") == state(page, "z")


def test_your_image(watched: Watched, tmp_path: Path, finished: Path) -> None:
    page = watched.open("tab=image")
    x = bars()[0][7]
    picture = tmp_path / "mine.png"
    Image.fromarray(x).save(picture)
    page.locator("#file").set_input_files(picture)
    page.wait_for_selector("#score:has-text('of 48 training examples')", timeout=20_000)
    said = page.locator("#score").inner_text()
    score = float(re.findall(r"log p\(x\) = (-?[\d,.]+) ±", said)[0].replace(",", ""))
    assert np.isfinite(score)
    q = open_model(finished).model.encode(torch.from_numpy(x[None, None]))
    assert np.allclose(state(page, "z"), q.mean[0], atol=1e-4)
    assert page.locator("#original-name").inner_text() == "your image"
    near = page.locator("#panel-image .strip button").first
    assert "middle" in (near.get_attribute("title") or "")
    near.click()
    page.locator("#go-there").click()
    page.get_by_role("button", name="Set A").last.click()
    assert state(page, "tab") == "path"
    page.locator("#tab-image").click()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    page.locator("#file").set_input_files(bad)
    page.wait_for_selector("#notice:not([hidden])")
    assert "cannot be read" in page.locator("#notice").inner_text()
    assert watched.wrong
    watched.wrong = [entry for entry in watched.wrong if "422" not in entry]


def test_a_dropped_picture_is_taken(watched: Watched) -> None:
    page = watched.open()
    buffer = io.BytesIO()
    Image.fromarray(bars()[0][3]).save(buffer, "PNG")
    script = """(bytes) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
        document.dispatchEvent(new DragEvent("dragover", { dataTransfer: data, bubbles: true, cancelable: true }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })); }"""
    page.evaluate(script, list(buffer.getvalue()))
    page.wait_for_selector("#panel-image #score:has-text('log p(x)')")
    assert state(page, "tab") == "image"


def test_the_lasso_becomes_a_file(watched: Watched, finished: Path) -> None:
    page = watched.open()
    page.keyboard.press("l")
    box = page.locator("#map").bounding_box()
    assert box is not None
    corners = [(5, 5), (box["width"] - 5, 5), (box["width"] - 5, box["height"] - 5), (5, box["height"] - 5)]
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
    page.mouse.up()
    count = int(page.locator("#selected").inner_text().split()[0])
    assert 40 <= count <= 48
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "selection.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert len(rows) == count
    assert {row["class"] for row in rows} == {"top", "<b>middle</b>", "'=bottom"}
    opened = open_model(finished)
    first = rows[0]
    mean = opened.model.encode(torch.from_numpy(opened.prepared.x[[int(first["row"])]])).mean[0]
    assert np.allclose([float(first[f"mean_{d}"]) for d in range(4)], mean, atol=1e-4)
    page.locator("#lasso").click()
    page.locator("#clear").click()
    assert page.locator("#selection").is_hidden()


def test_the_curves_and_the_tour(watched: Watched) -> None:
    page = watched.open()
    page.locator("#tab-curves").click()
    assert page.locator("#panel-curves figure:visible").count() >= 6
    page.locator("#panel-curves canvas").first.hover()
    page.locator("#tab-sample").focus()
    page.keyboard.press("ArrowLeft")
    assert state(page, "tab") == "tour" or state(page, "tab") in ("image", "sample")
    page.locator("#tab-tour").click()
    page.wait_for_selector("#stop-title:has-text('cloud')")
    titles = [page.locator("#stop-title").inner_text()]
    for _ in range(6):
        page.keyboard.press("]")
        page.wait_for_timeout(250)
        titles.append(page.locator("#stop-title").inner_text())
        assert page.locator("#panel-tour .facts li").count() >= 1
    assert len(set(titles)) == 7
    page.locator("#tour-back").click()
    assert page.locator("#stop-title").inner_text() == titles[5]
    page.locator("#panel-tour .sheet button").first.click()
    page.locator("#tour-next").click()


def test_the_keys(watched: Watched) -> None:
    page = watched.open()
    page.locator("#map").focus()
    for key, name, value in (
        ("2", "view", "images"),
        ("3", "view", "field"),
        ("1", "view", "points"),
        ("p", "plane", "variance"),
    ):
        page.keyboard.press(key)
        assert state(page, name) == value
    before = state(page, "z")
    page.keyboard.press("r")
    page.wait_for_timeout(300)
    assert state(page, "z") != before
    page.keyboard.press("a")
    page.keyboard.press("b")
    assert state(page, "a") == state(page, "b") == state(page, "z")
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    for key in ("+", "-", "0", "[", "Escape"):
        page.keyboard.press(key)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.keyboard.press("d")
    assert page.evaluate(paper) != light
    page.locator("#theme").click()
    assert page.evaluate(paper) == light
    page.locator("#help").click()
    page.locator("#keys button").click()
    reached = set()
    for _ in range(110):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
    assert {"plane", "view", "depth", "lasso", "fit", "map", "random", "set-a", "theme"} <= reached
