"""Load hostile and good models under an audit hook and print, as json, what was imported, run, opened or called."""

import builtins
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from io_helpers import in_memory, tiny, tiny_spec

from sfumato.core.errors import UserError
from sfumato.io.folder import load_model, save_model

GADGETS = sorted(
    {
        *(f"{module}.{name}" for module in ("os", "subprocess", "builtins", "torch", "shutil", "pickle") for name in
          ("system", "Popen", "eval", "exec", "load", "rmtree", "loads", "__import__", "open", "popen", "call")),
        *dir(builtins),
        *dir(torch.nn),
        *("nn.Linear", "torch.nn.Linear", "io_helpers.Tiny", "__main__.Tiny", "Tiny.__init__", "tiny", "TINY", " Tiny"),
        *("Tiny ", "Tiny\0", "Tiny()", "Τiny", "Tіny", "", "__class__", "spec_kind", "TinyLinear", "../Tiny", "\ud83d"),
    }
)  # fmt: skip
FORBIDDEN = ("import", "exec", "compile", "pickle.find_class", "os.system", "os.fork", "os.exec", "os.posix_spawn")
EVENTS = []


def watch(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in FORBIDDEN or event.startswith(("socket.", "subprocess.", "ctypes.")):
        EVENTS.append(event)


def refused(spec):
    """Whether a model of ``spec`` is refused for its name."""
    with in_memory(spec):
        try:
            load_model("model", kind="tiny")
        except UserError as error:
            return "there is no tiny" in str(error)
    return False


def main():
    """Print the report."""
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder) / "model"
        save_model(good, tiny(), card={"classes": ["a"]})
        load_model(good, kind="tiny")
        sys.addaudithook(watch)
        eval("1")
        (Path(folder) / "x").write_bytes(b"")
        seen = list(EVENTS)
        EVENTS.clear()
        load_model(good, kind="tiny")
        accepted = [name for name in GADGETS if not refused({"class": name, "width": 1})]
        inner = set(GADGETS) - {"TinyLinear"}
        accepted += [name for name in inner if not refused(tiny_spec(part={"class": name, "width": 3}))]
        forbidden = list(EVENTS)
    report = {"names": len(GADGETS), "seen by the watch": seen, "not refused": accepted, "forbidden": forbidden}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
