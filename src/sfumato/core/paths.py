"""Paths: those that a person typed, what to say where they do not exist, and the folder for caches. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from sfumato.core.errors import UserError, did_you_mean


def show(path: Path) -> str:
    """Return the short name of ``path`` for a sentence: the last part, with a slash after a folder."""
    return f"{path.name}/" if path.is_dir() else path.name


def cache_folder() -> Path:
    """Return the folder for what can be made again: ``SFUMATO_CACHE``, or the user's folder for caches."""
    root = os.environ.get("SFUMATO_CACHE")
    return Path(root) if root else platformdirs.user_cache_path("sfumato")


def check_exists(source: str, names: Iterable[str]) -> Path:
    """Return ``source`` as a path that exists.

    Args:
        source: what was typed.
        names: the built-in names, which it might have meant.

    Raises:
        UserError: it does not exist; says what is there instead.
    """
    path = Path(source).expanduser()
    try:
        path.stat()
        return path
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"'{source[:100]}' cannot be read ({reason}). Give a folder or file that can.") from None
    folder, names = path.parent, list(names)
    entries = _visible(folder)
    near = did_you_mean(path.name, [entry.rstrip("/") for entry in entries] + names)
    meant = f" {near}" if near.startswith("Did you mean") else ""
    place = "this folder" if folder == Path() else f"{folder}/"
    shown = ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "") if entries else "nothing"
    raise UserError(f"'{source}' does not exist.{meant} In {place}: {shown}. Built in: {', '.join(names)}.")


def _visible(folder: Path) -> list[str]:
    try:
        return sorted(show(entry) for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []
