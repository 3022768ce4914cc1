"""T26: traversal strings, markup and formulas in every name that comes from data: they stay text.

In a real browser they are held by ``tests/app/test_app_page.py``; here tables, pages, folders and shards.
"""

from __future__ import annotations

import csv
import html.parser
import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams_helpers import png, write_shard

from proofs.mutating import noise
from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core import html as tables
from sfumato.core.errors import UserError
from sfumato.data import load_dataset
from sfumato.io import store
from sfumato.verbs import writing

AIM, SHORT = 2_000, 80
FORMULAS = ("=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'/c calc'!A1", '=HYPERLINK("http://x")')
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style><svg onload=alert(1)>",
    '"><b>',
    "&lt;b",
)
PATHS = ("../x", "../../etc/passwd", "/etc/passwd", "..\\x", "a/../../b", "x\0y", "con", "~root", ".", "..", "%2e%2e/x")


class Tags(html.parser.HTMLParser):
    """Collects what a browser would take for markup."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and its handlers."""
        self.found += [tag, *(name for name, _ in attrs if name.startswith("on"))]


def run(budget: Budget, seed: int) -> Result:
    """Draw a hostile name and a place for it."""
    dice, result = random.Random(seed), Result()
    proofs = (_table, _page, _folder, _shard)
    with workspace() as place:
        while budget.open(result.cases):
            prove = proofs[result.cases % len(proofs)]
            name = dice.choice(FORMULAS + MARKUP + PATHS)
            name = name if dice.random() < 0.7 else name + dice.choice(FORMULAS + MARKUP + PATHS)
            spot = place / str(result.cases)
            spot.mkdir()
            with result.case(f"{name!r} in {prove.__name__[1:]}"):
                before = _outside(place, spot)
                prove(spot, name)
                result.fired += 1
                assert _outside(place, spot) == before, "something was written elsewhere"
    return result


def _outside(place: Path, spot: Path) -> set[str]:
    return {name for name in os.listdir(place) if name != spot.name}


def _table(spot: Path, name: str) -> None:
    """No cell of an exported table begins as a formula does."""
    name = name.replace("\0", "")
    path = writing.write_table(spot / "out.csv", [name, "b"], np.ones((2, 2)), [name, "x"])
    for row in csv.reader(io.StringIO(path.read_bytes().decode())):
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), f"a formula: {cell!r}"
            plain = name.replace("\r", "\n")
            assert cell in ("1", "b", "class", "x", plain, f"'{plain}"), f"another text: {cell!r}"


def _page(spot: Path, name: str) -> None:
    """A name in a table of a page is text."""
    tags = Tags()
    tags.feed(tables.table(name, [(name, name)]))
    assert set(tags.found) <= {"div", "strong", "table", "tr", "td"}, f"markup: {tags.found}"


def _folder(spot: Path, name: str) -> None:
    """No name of a file in a folder leaves it."""
    try:
        store.write_folder(spot / "folder", {name: b"x"})
    except ValueError:
        return
    assert sorted(os.listdir(spot / "folder")) == sorted([name, store.MANIFEST])


def _shard(spot: Path, name: str) -> None:
    """Members of a shard are read, never made; names that leave it are refused."""
    member = name.replace("\0", "") or "x"
    write_shard(spot / "s.tar", [(f"{member}.png", png(noise(8, 8))), ("b.png", png(noise(8, 8)))])
    before = sorted(os.listdir(spot))
    _quietly(lambda: load_dataset(spot / "s.tar", split=(1.0, 0.0, 0.0)))
    assert sorted(os.listdir(spot)) == before, "a member was written"


def _quietly(work: Any) -> None:
    try:
        work()
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"no sentence: {error}") from error


def believed(patch: pytest.MonkeyPatch) -> None:
    """Write texts as they come."""
    patch.setattr(writing, "no_formula", lambda text: text)


def raw(patch: pytest.MonkeyPatch) -> None:
    """Put texts into a page as they come."""
    patch.setattr(tables, "escape", lambda text: text)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"texts that are formulas": believed, "texts that are markup": raw}
