"""Libraries that come with an extra: imported when they are needed, and missed in one sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sfumato.core.errors import UserError


def library(module: str, extra: str, who: str) -> Any:
    """Return the module.

    Args:
        module: its name, dots and all.
        extra: of sfumato, that it comes with.
        who: needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != top:
            raise
        raise UserError(f"{who} needs {top}, which is not installed. Run: pip install 'sfumato[{extra}]'.") from None
