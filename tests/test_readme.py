"""The README's Python is run, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 25
    names: dict[str, object] = {}
    exec(compile(code.replace("steps=200", "steps=20"), "README.md", "exec"), names)
    trousers = names["trousers"]
    assert trousers.shape == (8, 1, 28, 28)  # type: ignore[attr-defined]
    assert 0 <= float(trousers.min()) < float(trousers.max()) <= 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", re.findall(r"`(\w+\.[A-Z]\w+)`", README))
def test_the_table_names_what_exists(name: str) -> None:
    import importlib

    room, member = name.split(".")
    if room == "Terms":
        return
    assert hasattr(importlib.import_module(f"sfumato.{room}"), member)
