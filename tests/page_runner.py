"""What is in a page, and running it: for a process of its own, in which shapes are not checked at every call."""

from __future__ import annotations

import io
import os
import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(?P<language>\w*)[ \t]*(?P<options>.*?)\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r'(\w+)="(.*?)"')


class Block(NamedTuple):
    """A fenced block: its language, the options of its fence, its text."""

    language: str
    options: dict[str, str]
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of the text of a page."""
    found = (match.group("language", "options", "text") for match in FENCE.finditer(page))
    return [Block(language, dict(OPTION.findall(options)), text) for language, options, text in found]


def prepare(cache: str) -> None:
    """Make this process quick: one thread, a short report, three evaluations of a training in place of 25."""
    os.environ |= {"COLUMNS": "118", "SFUMATO_CACHE": cache}
    import torch

    torch.set_num_threads(1)
    vars(import_module("sfumato.recipes.plan"))["EVALUATIONS"] = 3
    vars(import_module("sfumato.verbs.listeners"))["write_report"] = write_short_report


def write_short_report(path: str | Path, **content: object) -> None:
    """Stand where the report stands."""
    Path(path).write_text("<html>")


def run_page(page: str, folder: Path) -> None:
    """Run the blocks of the text of a page in ``folder``, one after the other, and compare what they print."""
    names: dict[str, object] = {}
    printed: str | None = None
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks(page):
            if "unrun" in block.options:
                continue
            if block.language in ("python", "bash"):
                printed = run_block(block, names)
            elif "title" in block.options:
                Path(block.options["title"]).write_text(block.text)
            elif block.language == "text" and printed is not None:
                assert_printed(block.text, printed)


def run_block(block: Block, names: dict[str, object]) -> str:
    """Run one block and return what it printed; ``names`` are those of the Python of the page."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        if block.language == "python":
            exec(compile(block.text, "the page", "exec"), names)
            return printed.getvalue()
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert not words or words[0] == "sfumato", f"cannot run: {line}"
            code = call(words[1:]) if words else 0
            assert code == 0, f"{line} ended with {code}\n{printed.getvalue()}"
    return printed.getvalue()


def call(arguments: list[str]) -> int:
    """Run a command in this process and return its exit code."""
    from sfumato.cli.main import run

    return run(arguments)


def assert_printed(expected: str, printed: str) -> None:
    """Every line of ``expected`` was printed, in this order, whatever the numbers; "…" stands for other lines."""
    there = iter(list(same_lines(printed)))
    for line in same_lines(expected):
        assert line == "…" or any(line == other for other in there), f"not printed: {line}\n\n{printed}"


def same_lines(text: str) -> Iterator[str]:
    """Yield the lines of ``text`` without their numbers and their alignment."""
    for line in text.splitlines():
        if line.strip():
            yield " ".join(re.sub(r"\d[\d,.]*", "#", line).split())
