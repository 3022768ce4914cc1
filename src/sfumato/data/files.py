"""Files that are offered as data: which endings there are, what may be opened, and what to say where not."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sfumato.core.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARRAY_SUFFIXES = (".npy", ".npz")
TABLE_SUFFIXES = (".csv", ".parquet")
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def check_regular(path: Path) -> None:
    """Raise UserError unless ``path`` is a regular file (no pipe, socket or device)."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path.name} should be a regular file; it is a pipe, socket or device. Copy it to a file.")


def check_memory(size: int, source: str) -> None:
    """Raise UserError when ``size`` bytes are more than this machine's memory."""
    memory = machine_memory()
    if memory is not None and size > memory:
        raise UserError(
            f"{source} would take {size / 2**30:,.1f} GiB; expected to fit into this machine's {memory / 2**30:,.1f}. "
            "Take a part of it, or smaller numbers."
        )


def machine_memory() -> int | None:
    """Return the bytes of this machine's memory, None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def refuse_pickle(path: Path) -> None:
    """Raise the UserError for a pickle offered as data."""
    raise UserError(
        f"{path.name} is a pickle, which can run code when it is opened; expected a folder of images, .npy, .npz, "
        f".csv or .parquet. Where you trust it, convert it once: numpy.save('{path.stem}.npy', array)."
    )


def suffix_counts(names: Iterable[str]) -> str:
    """Return "12 .txt, 1 .md" for file names, the commonest first; "nothing" without any."""
    counts = Counter(Path(name).suffix.lower() or "(no ending)" for name in names)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(6)) or "nothing"
