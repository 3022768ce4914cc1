"""The process that ``sfumato.explore`` and ``serve`` start: asked by one line of json, ended when its input closes."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any


def main() -> None:
    """Read what to serve, say where it is, serve until the one who asked is gone."""
    asked = json.loads(sys.stdin.readline())
    from sfumato.core.errors import SfumatoError

    try:
        from sfumato.app.running import open_explorer, open_service
        from sfumato.app.server import new_ticket, serve

        ticket = new_ticket()
        if asked["what"] == "service":
            app, where = open_service(asked["run"], port=asked["port"])
        else:
            app, where = open_explorer(asked["run"], port=asked["port"], points=asked["points"], ticket=ticket)
    except SfumatoError as error:
        _say({"error": str(error), "exit_code": error.exit_code})
        return
    threading.Thread(target=_until_closed, daemon=True).start()
    frame = f"{where.address.replace('127.0.0.1', 'localhost')}?frame={ticket}"
    serve(app, where, lambda: _say({"address": where.address, "frame": frame}))


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _until_closed() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
