"""The exceptions of sfumato: one sentence that says what was expected, what came, and what to do.

The exit code of the command line hangs on the class: 1 failed, 2 the user's mistake, 3 diverged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SfumatoError(Exception):
    """Something failed that the user cannot be blamed for (a full disk, a lost file)."""

    exit_code = 1


class UserError(SfumatoError):
    """A mistake in what was given: an option, a file, an array, a configuration."""

    exit_code = 2


class Diverged(SfumatoError):
    """Training produced non-finite numbers and could not recover."""

    exit_code = 3


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` with the nearest of ``choices``, or all of them when none is near."""
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Choose from: {listed(names)}." if names else ""


def listed(names: Iterable[str], most: int = 40) -> str:
    """Return ``names`` with commas, each cut after 80 characters, and how many more there are.

    >>> listed("abcd", most=3)
    'a, b, c and 1 more'
    """
    every = [str(name)[:80] for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more:,} more" if more > 0 else "")
