"""A finished run of tiny images, and a browser that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from app_helpers import application, bars, served
from browser_helpers import CHROMIUM, FLAGS, Watched
from cli_helpers import rare_evaluations, short_reports
from playwright.sync_api import Browser, sync_playwright

from sfumato.cli.main import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on 60 images of 8x8, three classes; only for reading."""
    folder = tmp_path_factory.mktemp("finished")
    x, y = bars()
    np.savez(folder / "tiny.npz", x=x, y=y, class_names=np.array(["top", "<b>middle</b>", "=bottom"]))
    with chdir(folder), rare_evaluations(), short_reports():
        assert run(["train", "tiny.npz", "--steps", "60", "--latent-dim", "4", "--quiet"]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(finished: Path) -> Iterator[str]:
    with served(lambda bound: application(finished, house=bound.house)) as where:
        yield where.address


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    watched = Watched(browser, address)
    yield watched
    watched.context.close()
    assert not watched.wrong
