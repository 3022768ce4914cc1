"""A plugin of pytest that makes the first test of a run fail, whichever it is: T29 must notice."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first one fail."""

    def fails() -> None:
        raise AssertionError("planted")

    items[0].runtest = fails  # type: ignore[method-assign]
