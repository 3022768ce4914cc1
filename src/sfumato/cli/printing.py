"""What is printed where: results to stdout, talk to stderr, both plain where nobody watches."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 160


def console(*, stderr: bool) -> Console:
    """Return a console; without a terminal, or with NO_COLOR or TERM=dumb, it writes no control code."""
    stream = sys.stderr if stderr else sys.stdout
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    watched = stream.isatty()
    return Console(
        file=stream,
        force_terminal=watched and not plain,
        color_system=None if plain or not watched else "auto",
        width=None if watched else WIDE,
        highlight=False,
        markup=False,
        emoji=False,
    )


def say(sentence: str) -> None:
    """Print a line of talk."""
    console(stderr=True).print(Text(sentence), soft_wrap=True)


def show(line: str) -> None:
    """Print a line of the result."""
    console(stderr=False).print(Text(line), soft_wrap=True)


def show_json(value: Any) -> None:
    """Print a result as json."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def print_columns(out: Console, rows: Sequence[Sequence[str]], *, dim: int | None = None, indent: int = 0) -> None:
    """Print rows in aligned columns; on a terminal, the widest column is broken where there is no room.

    Args:
        out: where to.
        rows: the cells.
        dim: the column that matters less.
        indent: spaces on the left.
    """
    if not rows:
        return
    count = max(len(row) for row in rows)
    if not out.is_terminal:
        widths = [max(len(row[place]) for row in rows if len(row) > place) for place in range(count)]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
            out.print(" " * indent + "   ".join(cells).rstrip(), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 3, 0, 0), pad_edge=False)
    widest = max(range(count), key=lambda place: max(len(row[place]) for row in rows if len(row) > place))
    for place in range(count):
        table.add_column(style="dim" if place == dim else "", no_wrap=place != widest)
    for row in rows:
        first, *rest = [*row, *[""] * (count - len(row))]
        table.add_row(Text(" " * indent + first), *map(Text, rest))
    out.print(table)


def next_block(*commands: Sequence[str]) -> str:
    """Return the last block: commands to copy."""
    lines = [shlex.join(["sfumato", *command]) for command in commands]
    return "\n".join(f"{'next:' if number == 0 else '':<7}{line}" for number, line in enumerate(lines))


def flags(given: Mapping[str, Any]) -> list[str]:
    """Return the options that say ``given`` again, without those that are None.

    >>> flags({"label": "bought", "seed": None, "conditional": False})
    ['--label', 'bought', '--no-conditional']
    """
    words = []
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", str(value)]
    return words


def percent(entry: Mapping[str, Any]) -> str:
    """Return a fraction with its standard error as a percentage."""
    value, error = entry.get("value"), entry.get("standard_error")
    if value is None:
        return "-"
    return f"{value:.1%}".replace("%", " %") if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"
