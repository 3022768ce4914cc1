"""The words in which people say what they want, shared by the command line and Python. Imports nothing heavy."""

from __future__ import annotations

import re

from sfumato.core.errors import UserError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
_MOST_SECONDS = 30 * 86_400


def seconds_of(duration: str | float, where: str = "--time") -> float:
    """Return the seconds of "30s", "10m", "1h" or "1h30m", or of a number of seconds.

    Raises:
        UserError: anything else, nothing at all, or more than 30 days.

    >>> seconds_of("1h30m")
    5400.0
    """
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration.replace(" ", ""))
        parts = match.groups() if match else (None, None, None)
        seconds = sum(float(part) * size for part, size in zip(parts, (3600, 60, 1), strict=True) if part)
    else:
        seconds = float(duration)
    if not 0 < seconds <= _MOST_SECONDS:
        raise UserError(f"{where} must be a duration such as 30s, 10m or 1h, at most 30 days; got '{duration}'.")
    return seconds


def shares_of(text: str, where: str = "--split") -> tuple[float, ...]:
    """Return the numbers of "0.8,0.1,0.1".

    >>> shares_of("0.8,0.1,0.1")
    (0.8, 0.1, 0.1)
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3:
        raise UserError(f"{where} must be three shares, for instance 0.8,0.1,0.1; got '{text}'.")
    return shares


def size_of(text: str, where: str = "--size") -> int | tuple[int, int]:
    """Return the side of "64", or height and width of "48x64".

    >>> size_of("48x64")
    (48, 64)
    """
    match = re.fullmatch(r"(\d{1,5})(?:[x,](\d{1,5}))?", text)
    if not match:
        raise UserError(f"{where} must be a side in pixels, or height and width: 64 or 48x64; got '{text}'.")
    first, second = match.groups()
    return int(first) if second is None else (int(first), int(second))


def time_text(seconds: float) -> str:
    """Return seconds as a person says them.

    >>> time_text(185.2)
    '3 min 05 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
