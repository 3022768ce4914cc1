"""An extension of griffe: what our docstrings have that its reader of them does not know, put into markdown.

Examples stand at the end without a heading, and names are marked as Sphinx does.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*\n?(?:^.+\n?)*", re.MULTILINE)  # up to an empty line
ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


class Docstrings(griffe.Extension):
    """Puts a fence around every example, and shortens marked names to code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None and "```" not in obj.docstring.value:
            obj.docstring.value = EXAMPLE.sub(_fenced, ROLE.sub(r"`\1`", obj.docstring.value))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the docstring of the package, which is nobody's member."""
        self.on_object(obj=pkg)


def _fenced(found: re.Match[str]) -> str:
    return f"```pycon\n{found.group().rstrip()}\n```\n"
