"""A command that several processes run together, started by torchrun or accelerate launch: one of them speaks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sfumato.core.errors import Diverged, SfumatoError, UserError

GRACE = 3.0  # seconds


def as_one(work: Callable[[bool], int]) -> int:
    """Return the exit code of ``work(first)``; of several processes only the first one speaks.

    What goes wrong in all of them is said by the first, for which the others wait a little: whoever started them may
    end all when one has left. Each says itself that another one is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return work(True)
    from sfumato.core.processes import Differs, Heard, Lost
    from sfumato.training.runtime import close_processes

    first = int(os.environ.get("RANK", "0")) == 0
    try:
        code = work(first)
    except SfumatoError as error:
        if first or isinstance(error, Lost):
            raise
        time.sleep(GRACE)
        if isinstance(error, Heard | UserError | Differs | Diverged):
            return error.exit_code
        raise
    if code and not first:
        time.sleep(GRACE)
    close_processes()
    return code
