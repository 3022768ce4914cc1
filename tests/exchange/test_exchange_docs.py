"""The Python of ``docs/exchange.md`` is run, as it stands there."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path

import pytest

from sfumato.verbs import listeners

PAGE = Path(__file__).parents[2] / "docs" / "exchange.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(listeners, "write_report", lambda path, **content: Path(path).write_text("<html>"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    with chdir(tmp_path):
        for number, code in enumerate(blocks):
            exec(compile(code, f"exchange.md, block {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert "scaling_factor" in shown
    assert "grey values" in shown
    assert "@software{sfumato" in shown
