"""A plugin of pytest that shuffles the tests by SFUMATO_SHUFFLE, files and within files: for T29."""

from __future__ import annotations

import os
import random

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle; tests of a file stay together, for their fixtures are shared."""
    dice = random.Random(int(os.environ.get("SFUMATO_SHUFFLE", "0")))
    files = sorted({str(item.path) for item in items})
    dice.shuffle(files)
    places = {name: place for place, name in enumerate(files)}
    keys = {item: dice.random() for item in items}
    items.sort(key=lambda item: (places[str(item.path)], keys[item]))
