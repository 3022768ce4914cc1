"""The sentence for a command line that does not parse."""

from __future__ import annotations

import difflib
from typing import Any


def sentence(error: Any) -> str:
    """Return one sentence for a usage error of typer.

    Only its public face is used: the message, and what was typed.
    """
    context: Any = getattr(error, "ctx", None)
    name = getattr(context, "info_name", None) or "sfumato"
    option = getattr(error, "option_name", None)
    message = str(error.format_message()).strip()
    if "requires an argument" in message:
        return f"{option} needs a value.  `sfumato COMMAND -h` says which."
    if "does not take a value" in message:
        return f"{option} takes no value.  Leave out what follows the =."
    if option is not None:
        return f"{name} has no option {option}.{_meant(context, str(option))}"
    parameter = getattr(error, "param", None)
    if parameter is not None and message.startswith("Missing"):
        words = (context.command.epilog if context else "").splitlines()
        example = next((line.strip() for line in words if line.strip().startswith("sfumato ")), f"sfumato {name} -h")
        what = parameter.metavar or str(parameter.name).upper()
        return f"{name} needs {what}.  For instance: {example}"
    if "unexpected extra argument" in message:
        extra = message.partition("(")[2].rpartition(")")[0] or message
        return f"{name} does not know what to do with '{extra}'.  `sfumato {name} -h` shows examples."
    return f"{message[:1].lower()}{message[1:]}" if message else "the command line cannot be read"


def _meant(context: Any, option: str) -> str:
    """Return the nearest option, or where to find all of them."""
    known = [flag for item in context.command.params for flag in (*item.opts, *item.secondary_opts)] if context else []
    near = difflib.get_close_matches(option, [flag for flag in known if flag.startswith("--")], n=1, cutoff=0.6)
    if near:
        return f"  Did you mean {near[0]}?"
    return f"  `sfumato {context.info_name} -h` shows all." if context else ""
