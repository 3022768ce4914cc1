"""The entry point: runs a command and turns whatever goes wrong into one sentence and an exit code.

0 done, 1 failed, 2 the user's mistake, 3 diverged, 129, 130 and 143 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from sfumato.cli import app as application
from sfumato.cli import (  # noqa: F401 - they register their commands
    claims,
    exporting,
    fitting,
    judging,
    looking,
    making,
    serving,
    sweeping,
    training,
)
from sfumato.cli.mistakes import sentence
from sfumato.core.errors import SfumatoError

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line of this process, and end it."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    try:
        code = application.app(rest, standalone_mode=False, prog_name="sfumato")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return explain(error)


def explain(error: Exception) -> int:
    """Print one sentence about ``error`` and return its exit code."""
    if isinstance(error, SfumatoError):
        return _error(str(error), error.exit_code)
    if hasattr(error, "format_message"):
        return _error(sentence(error), MISTAKE)
    name, text = type(error).__name__, " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return _error("out of memory. Use a smaller --batch or --size, or a smaller --recipe.", FAILED)
    return _error(
        f"this should not happen: {name}: {text}. Run it again with --debug and report what it prints.", FAILED
    )


def _error(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
