"""The Python of the pages is run, as it stands there, one block after the other."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path

import pytest

from sfumato.verbs import listeners

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page.name for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "write_report", lambda path, **content: Path(path).write_text("<html>"))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    with chdir(tmp_path):
        for number, code in enumerate(blocks):
            exec(compile(code, f"{name}, block {number}", "exec"), names)


def test_pages_with_python_are_found() -> None:
    assert {"exchange.md", "sklearn.md"} <= set(PAGES)
