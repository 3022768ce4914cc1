"""How long a decode takes in the browser: the pointer is dragged over the map of an MNIST-size model.

The time is the page's own, from the wish for a decode to its pixels in the canvas; wishes that come meanwhile are
merged into the next one. The server and a headless Chromium share the machine. Also: the same request over a kept
connection without a browser; how long the page takes to be there; how long a map of very many points takes to be drawn
again; what the site without a server weighs, and how long it takes for a decode.

    python benchmarks/explorer.py            the recipe mlp on fashion-mnist-mini, trained for some steps
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import sfumato
from certificate import certificate, write_result
from sfumato import app
from sfumato.app import explore
from sfumato.app.site import write_site

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
MOVES = 300
PAUSE_MS = 16
MANY = 60_000
REDRAW = """(n) => {
    const { world } = window.sfumato, { map, model, geometry } = world;
    const of = (i) => i % geometry.n;
    const mean = Float32Array.from({ length: n * geometry.dims }, (_, k) => {
        const d = k % geometry.dims;
        return geometry.mean[of((k - d) / geometry.dims) * geometry.dims + d] + 0.3 * Math.sin(k);
    });
    world.model = { ...model, mean, label: Int32Array.from({ length: n }, (_, i) => model.label[of(i)]) };
    world.geometry = new geometry.constructor(world.model);
    return Array.from({ length: 30 }, () => {
        const began = performance.now();
        map.drawBase();
        map.base.getContext("2d").getImageData(0, 0, 1, 1);
        return performance.now() - began;
    }).slice(5);
}"""
DECODE = """async () => {
    const { world } = window.sfumato, z = world.geometry.of(0), times = [];
    for (let k = 0; k < 300; k++) {
        const began = performance.now();
        await world.backend.decode(z, -1);
        times.push(performance.now() - began);
    }
    return times;
}"""


def browser_times(address: str, site: str) -> dict[str, Any]:
    """Return what the page measured while the pointer was dragged, and the rest, ms."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        began = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("html[data-ready]", state="attached")
        ready = 1000 * (time.perf_counter() - began)
        page.wait_for_timeout(2_000)
        found = {"drag": drag(page), "slider": slide(page)}
        found["redraw"] = summary(page.evaluate(REDRAW, MANY)) | {"points": MANY}
        page.goto(site)
        page.wait_for_selector("html[data-ready]", state="attached")
        found["site_decode"] = summary(page.evaluate(DECODE))
        version = browser.version
        browser.close()
    return {"chromium": version, "page_ready_ms": ready, **found}


def weights(site: Path) -> dict[str, int]:
    """Return the bytes of every file of the site, and of the page that the server has."""
    files = {item.name: item.stat().st_size for item in sorted(site.iterdir())}
    return files | {
        "served page": sum(item.stat().st_size for item in (Path(app.__file__).parent / "static").iterdir())
    }


def drag(page: Page) -> dict[str, float]:
    """Drag over the map, slowly enough for every position to be wished for."""
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.evaluate("() => { window.sfumato.times.length = 0; }")
    page.mouse.move(box["x"] + 80, box["y"] + 80)
    page.mouse.down()
    for move in range(MOVES):
        page.mouse.move(box["x"] + 80 + 1.5 * move % 500, box["y"] + 80 + 1.1 * move % 400)
        page.wait_for_timeout(PAUSE_MS)
    page.mouse.up()
    return summary(page.evaluate("() => window.sfumato.times"))


def slide(page: Page) -> dict[str, float]:
    """Move the first slider step by step."""
    page.evaluate("() => { window.sfumato.times.length = 0; }")
    slider = page.locator("#sliders input").first
    slider.focus()
    for _ in range(100):
        slider.press("ArrowRight")
        page.wait_for_timeout(PAUSE_MS)
    return summary(page.evaluate("() => window.sfumato.times"))


def wire_times(address: str, dims: int) -> dict[str, float]:
    """Return the times of the same request over a kept connection, ms."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").strip("/"))
    times = []
    for _ in range(500):
        began = time.perf_counter()
        connection.request("POST", "/explorer/decode", bytes(4 * dims))
        connection.getresponse().read()
        times.append(1000 * (time.perf_counter() - began))
    connection.close()
    return summary(times)


def summary(times: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and count, ms."""
    ordered = sorted(times)
    return {"median_ms": statistics.median(ordered), "p95_ms": ordered[int(0.95 * len(ordered))], "n": len(ordered)}


def main() -> None:
    """Train, serve, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--run", type=Path, help="a run that is there, in place of training one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder) / "run"
        if arguments.run is None:
            command = ["train", "fashion-mnist-mini", "--recipe", "mlp", "--steps", str(arguments.steps)]
            more = ["--latent-dim", "16", "--out", str(run), "--quiet"]
            subprocess.run([sys.executable, "-m", "sfumato", *command, *more], check=True)
        model, page = sfumato.load(run), write_site(run, Path(folder) / "site")
        with explore(run, port=0, open=False) as explorer:
            connection = http.client.HTTPConnection(explorer.address.removeprefix("http://").strip("/"))
            connection.request("GET", "/explorer/state")  # the first one reads the run
            connection.getresponse().read()
            connection.close()
            result = {
                "certificate": certificate(recipe=f"mlp, latent {model.model.latent_dim}", seeds=[0]),
                "what": "a decode of one image, from the wish to the pixels",
                "data_shape": list(model.preprocessing.shape),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "wire": wire_times(explorer.address, model.model.latent_dim),
                "browser": browser_times(explorer.address, page.as_uri()),
                "bytes": weights(page.parent),
            }
    print(json.dumps(result["wire"]), json.dumps(result["browser"]))
    print(write_result("explorer", result))


if __name__ == "__main__":
    main()
