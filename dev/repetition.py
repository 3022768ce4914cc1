"""How much of the code stands there twice: the lines that a window of eight repeats, without docstrings and imports.

    python dev/repetition.py            # of src; exit 1 above 3 %
    python dev/repetition.py FOLDER     # of another package, to compare

A line counts as repeated if it lies in a window of eight lines that stood somewhere before, word for word. Docstrings,
imports, comments, blank lines and lone brackets are not lines. What is left is what could be removed.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

WINDOW = 8
MOST = 0.03
LONE = set("()[]{},:")


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Return (number, text) of the lines that count."""
    source = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        docstring = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        text = " ".join(line.split("  # ")[0].split())
        if number not in left_out and text and not text.startswith("#") and set(text) - LONE:
            found.append((number, text))
    return found


def repeated(root: Path) -> tuple[int, int, list[str]]:
    """Return how many lines there are, how many are repeated, and where each run of them begins and what it repeats."""
    seen: dict[tuple[str, ...], str] = {}
    total = again = 0
    places: list[str] = []
    for path in sorted(root.rglob("*.py")):
        lines = lines_of(path)
        total += len(lines)
        covered: set[int] = set()
        for start in range(len(lines) - WINDOW + 1):
            window = tuple(text for _, text in lines[start : start + WINDOW])
            here = f"{path}:{lines[start][0]}"
            if window in seen:
                if start not in covered:
                    places.append(f"{here} repeats {seen[window]}")
                covered |= set(range(start, start + WINDOW))
            else:
                seen[window] = here
        again += len(covered)
    return total, again, places


def main() -> int:
    """Print the share, and the places where there is too much."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src")
    total, again, places = repeated(root)
    share = again / max(1, total)
    print("\n".join(places))
    print(f"{again:,} of {total:,} lines are repeated, {share:.2%}; at most {MOST:.0%}")
    return int(share > MOST)


if __name__ == "__main__":
    sys.exit(main())
