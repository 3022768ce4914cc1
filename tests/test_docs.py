"""The pages are run: every block of Python and every command, page by page, in one folder, in their order.

A block of ``text`` after one that runs is what it printed, but for numbers and lines of "…". A block that is not run
says why, in the attribute ``unrun`` of its fence, and is counted here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from page_runner import FENCE, assert_printed, blocks, call, prepare, run_page
from sfumato.cli.app import ORDER

DOCS = Path(__file__).parent.parent / "docs"
PACKAGE = DOCS.parent / "src" / "sfumato"
PAGES = {page.name: page.read_text() for page in sorted(DOCS.glob("*.md"))}
COMMAND = re.compile(
    r"^\s*(\$ |sfumato [a-z]|pip |python |torchrun |accelerate |curl |hf |import |from \w+ import )", re.MULTILINE
)
LANGUAGES = {"python", "bash", "text", "yaml"}
RUNNING = {
    name
    for name, page in PAGES.items()
    if any(block.language in ("python", "bash") and "unrun" not in block.options for block in blocks(page))
}
PREPARED = {"commands.md", "explorer.md", "evaluation.md", "recipes.md", "speed.md"}  # these find photos/ and a run
UNRUN = {
    "article.md": 1,
    "article.zh.md": 1,
    "evaluation.md": 1,
    "exchange.md": 2,
    "explorer.md": 1,
    "index.md": 1,
    "notebooks.md": 1,
    "scaling.md": 1,
    "serve.md": 2,
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """A process for the pages, started without what the tests do to every import."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with ProcessPoolExecutor(1, get_context("spawn"), prepare, (cache,)) as process:
        yield process


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, elsewhere: ProcessPoolExecutor) -> Path:
    """A folder with ``photos/``, 60 images of three classes, and the finished run ``runs/photos``; only for reading."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    for number, name in enumerate(("circle", "square", "star")):
        (folder / "photos" / name).mkdir(parents=True)
        for item in range(20):
            image = random.integers(60 * number, 60 * number + 90, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(image).save(folder / "photos" / name / f"{item:02}.png")
    words = ["--steps", "5", "--latent-dim", "2", "--recipe", "article", "--quiet"]
    train = ["train", str(folder / "photos"), *words, "--out", str(folder / "runs" / "photos")]
    assert elsewhere.submit(call, train).result() == 0
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if page in RUNNING])
def test_the_page_runs(
    page: str, tmp_path: Path, elsewhere: ProcessPoolExecutor, request: pytest.FixtureRequest
) -> None:
    if page in PREPARED:
        shutil.copytree(request.getfixturevalue("prepared"), tmp_path, dirs_exist_ok=True)
    elsewhere.submit(run_page, PAGES[page], tmp_path).result()


def test_a_page_that_says_what_is_not_printed_is_found_out() -> None:
    assert_printed("photos/\n…\n  images   30", "photos/\nsize 3\n  images       600\n")
    with pytest.raises(AssertionError, match="not printed: other #"):
        assert_printed("images 1\nother 3", "other 3\nimages 2")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(PAGES[page]):
        assert block.language in LANGUAGES, f"a block without a known language: {block.text}"
        assert block.language in ("python", "bash") or not COMMAND.search(block.text), f"not run: {block.text}"
    outside = FENCE.sub("", PAGES[page])
    assert "```" not in outside
    assert not [line for line in outside.splitlines() if line.startswith("    ") and COMMAND.match(line)]


def test_what_is_not_run_is_known() -> None:
    found = {
        page: [block.options["unrun"] for block in blocks(PAGES[page]) if "unrun" in block.options] for page in PAGES
    }
    assert {page: len(reasons) for page, reasons in found.items() if reasons} == UNRUN
    assert all(len(reason.split()) > 2 for reasons in found.values() for reason in reasons)


def test_pages_that_run_are_found() -> None:
    assert {"exchange.md", "sklearn.md", "start.md", "commands.md", *PREPARED} <= RUNNING


def test_every_command_is_on_its_page() -> None:
    assert set(ORDER) == set(re.findall(r"^\| `([\w-]+)` \|", PAGES["commands.md"], re.MULTILINE))


def test_the_pages_and_the_navigation_are_the_same() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text()
    assert {name for name in PAGES if f": {name}\n" not in navigation} == set()


def test_every_room_is_on_the_page_of_the_api() -> None:
    listed = set(re.findall(r"^::: ([\w.]+)$", PAGES["api.md"], re.MULTILINE))
    rooms = {"sfumato"} | {
        f"sfumato.{place.parent.name}" for place in PACKAGE.glob("*/__init__.py") if "__all__" in place.read_text()
    }
    assert rooms - {"sfumato.report", "sfumato.claims", "sfumato.app"} <= listed
