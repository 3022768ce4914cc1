"""A page in a headless Chromium, and everything that it says or asks for that it should not."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
with_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
READY = "html[data-ready]"


class Watched:
    """A page, and everything that it said or asked for that it should not have."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True, **options)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.address = address
        self.page.on("console", lambda message: self.wrong.append(f"console {message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.wrong.append(f"asked {request.url}")

    def open(self, state: str = "") -> Page:
        self.page.goto(self.address + (f"#{state}" if state else ""))
        self.page.wait_for_selector(READY, state="attached", timeout=20_000)
        return self.page


def state(page: Page, name: str) -> Any:
    return page.evaluate(
        "(name) => { const v = window.sfumato.state[name]; return v?.length && v.map ? [...v] : v; }", name
    )


def pixels(page: Page, canvas: str) -> list[int]:
    script = """(id) => { const c = document.querySelector(id);
        const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(c, 0, 0);
        return [...copy.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); }"""
    found: list[int] = page.evaluate(script, canvas)
    return found


def settled(page: Page) -> None:
    """Wait until nothing is decoded any more."""
    for _ in range(200):
        page.wait_for_timeout(25)
        if not page.evaluate("() => window.sfumato.decodes.busy"):
            return
