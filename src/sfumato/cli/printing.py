"""What is printed where: results to stdout, talk to stderr, both plain where nobody watches."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 160
GAP = "   "


class Talk:
    """stderr that goes silent when nobody hears it any more: a training does not end with its terminal or pipe."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, or not."""
        with self._heard():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        with self._heard():
            self.stream.flush()

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # a pipe without a reader, a terminal that was closed, a full disk
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def console(*, stderr: bool) -> Console:
    """Return a console; without a terminal, or with NO_COLOR or TERM=dumb, it writes no control code."""
    stream = cast(IO[str], Talk(sys.stderr)) if stderr else sys.stdout
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


def print_columns(
    out: Console, rows: Sequence[Sequence[str]], *, keep: int = 1, dim: int | None = None, indent: int = 0
) -> None:
    """Print rows in aligned columns; on a narrow terminal only the first stay so, and what follows them flows.

    Args:
        out: where to.
        rows: the cells.
        keep: how many columns stay aligned on a narrow terminal.
        dim: the column that matters less.
        indent: spaces on the left.
    """
    if not rows:
        return
    count = max(len(row) for row in rows)
    full = [(" " * indent + row[0], *row[1:], *[""] * (count - len(row))) for row in rows]
    widths = [max(len(row[place]) for row in full) for place in range(count)]
    if out.is_terminal and sum(widths) + len(GAP) * (count - 1) > out.width:
        table = Table.grid(padding=(0, len(GAP), 0, 0))
        for _ in range(keep):
            table.add_column(no_wrap=True)
        for row in full:
            cells = [
                Text(cell, style="dim" if keep + place == dim else "") for place, cell in enumerate(row[keep:]) if cell
            ]
            table.add_row(*row[:keep], Text(" · ").join(cells))
        out.print(table)
        return
    for row in full:
        line = Text()
        for place, cell in enumerate(row):
            last = not any(row[place + 1 :])
            line.append(cell if last else f"{cell:<{widths[place]}}{GAP}", style="dim" if place == dim else "")
            if last:
                break
        out.print(line, soft_wrap=True)


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
