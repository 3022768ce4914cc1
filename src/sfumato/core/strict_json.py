"""Reading json that somebody else wrote: bounded in size and depth, no duplicate keys, no NaN or Infinity."""

from __future__ import annotations

import json
import math
from typing import Any

from sfumato.core.errors import UserError

MAX_BYTES = 1_000_000
MAX_DEPTH = 32


def parse(data: bytes, source: str, max_bytes: int = MAX_BYTES) -> Any:
    """Parse ``data`` as strict json.

    Args:
        data: the bytes of the file.
        source: what to call the file in an error.
        max_bytes: refuse anything longer.

    Returns:
        dictionaries, lists, strings, numbers, booleans and None.

    Raises:
        UserError: too long, too deep, not utf-8, not json, a key twice, NaN or Infinity.
    """
    if len(data) > max_bytes:
        raise UserError(
            f"{source} should be json of at most {max_bytes:,} bytes; it has {len(data):,}. Use the original file."
        )

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_pairs, parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:  # not utf-8, not json, a number of thousands of digits, too deep
        raise UserError(f"{source} is not valid json ({error}). Use the original file.") from None
    check_depth(value, source)
    return value


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        twice = next(key for key, _ in items if sum(key == other for other, _ in items) > 1)
        raise ValueError(f"it names the key '{twice}' twice")
    return result


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text}, which is not a json number")
    return value


def check_depth(value: Any, source: str, depth: int = 0) -> None:
    """Raise UserError when ``value`` nests deeper than 32 levels."""
    if depth > MAX_DEPTH:
        raise UserError(f"{source} nests deeper than {MAX_DEPTH} levels. Use the original file.")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_depth(item, source, depth + 1)


def dump(value: Any) -> bytes:
    """Return ``value`` as indented utf-8 json with a final newline; non-finite numbers are refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
