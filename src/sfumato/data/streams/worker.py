"""A process that decodes images; started by ``pool.py``, one for each worker.

It reads one line of json for each batch, decodes it into memory that it shares with its parent, and answers with one
line. It ends when its parent does. Nothing but Pillow and numpy is loaded: 0.2 s and 40 MB where torch takes seconds.
"""

from __future__ import annotations

import json
import mmap
import signal
import sys
import types
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent


def without_torch() -> None:
    """Let the modules of ``sfumato.data`` be imported without its ``__init__``, which loads torch."""
    sys.path[:] = [str(HERE.parents[2]), *(part for part in sys.path if Path(part or ".").resolve() != HERE)]
    for name, folder in (("sfumato.data", HERE.parent), ("sfumato.data.streams", HERE)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer until there are no more requests.

    The first line is [the shared memory's descriptor, its size, the decoder]; each other one a list of places. The
    first 8 bytes of the memory say which of them is being decoded, for whoever asks why this process died.
    """
    import numpy as np

    from sfumato.core.errors import SfumatoError
    from sfumato.data.streams.decoding import Decoder, Place

    descriptor, size, tree = json.loads(requests.readline())
    decoder = Decoder.from_json(tree)
    with mmap.mmap(descriptor, size) as memory:
        current = np.frombuffer(memory, dtype=np.int64, count=1)
        room = np.frombuffer(memory, dtype=np.uint8, offset=8)
        each = int(np.prod(decoder.shape))
        for line in requests:
            answer = ""
            try:
                for number, place in enumerate(json.loads(line)):
                    current[0] = number
                    decoder(Place(*place), room[number * each : (number + 1) * each].reshape(decoder.shape))
            except SfumatoError as error:
                answer = str(error)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        del current, room


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process by its pipe
    without_torch()
    serve(sys.stdin, sys.stdout)
