"""Files of every format, small, and mutations of them; work on them in a process with little memory and little time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from streams_helpers import table
from training_helpers import Child

from proofs import ROOT
from proofs.proof import Result
from sfumato.core.errors import SfumatoError
from sfumato.io.tensors import pack

CORPUS = ROOT / "proofs" / "corpus"
ROOM = 2 << 30
SECONDS = 1.0
IMAGES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP"}
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1)


def noise(*shape: int) -> Any:
    """Return bytes that are the same every time."""
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def seeds(place: Path) -> dict[str, list[bytes]]:
    """Return format -> whole files."""
    found: dict[str, list[bytes]] = {}
    for suffix, name in IMAGES.items():
        found[suffix] = [_image(noise(8, 8), name), _image(noise(9, 7, 3), name)]
    for array in (noise(12, 8, 8), noise(20, 3).astype(np.float64)):
        stream = io.BytesIO()
        np.save(stream, array)
        found.setdefault("npy", []).append(stream.getvalue())
        stream = io.BytesIO()
        np.savez_compressed(stream, x=array, y=np.arange(len(array)) % 3)
        found.setdefault("npz", []).append(stream.getvalue())
    rows = "".join(f'{row},{row / 7:.3f},{"xyz"[row % 3]},"{row % 2}"\n' for row in range(24))
    found["csv"] = [f"age,income,kind,other\n{rows}".encode(), f"\ufeffa;b;c;d\n{rows}".replace(",", ";").encode()]
    found["parquet"] = [table(place / "t.parquet").read_bytes()]
    members = [(f"a/{n:03}.png", _image(noise(8, 8), "PNG")) for n in range(6)]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in [*members, *((f"a/{n:03}.cls", b"%d" % (n % 2)) for n in range(6))]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found["tar"] = [stream.getvalue()]
    found["safetensors"] = [pack({"w": torch.arange(12.0).view(3, 4), "b": torch.ones(3, dtype=torch.float64)})]
    config = ROOT / "tests" / "golden" / "format-1" / "classes" / "model" / "config.json"
    found["json"] = [config.read_bytes(), json.dumps({"a": [1, 2.5, None, True, {"b": "c"}]}).encode()]
    return found


def _image(array: Any, name: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, name)
    return stream.getvalue()


def mutated(data: bytes, dice: random.Random, other: bytes = b"") -> bytes:
    """Return ``data`` changed in one to four ways: bits, bytes, numbers, cuts, repeats, moves, pieces of ``other``."""
    found = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, size = dice.randrange(len(found) + 1), dice.choice((1, 2, 4, 8, 64))
        kind = dice.randrange(8)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            found[at : at + size] = dice.randbytes(size)
        elif kind == 2:
            width = dice.choice((1, 2, 4, 8))
            number = dice.choice(NUMBERS) % 256**width
            found[at : at + width] = number.to_bytes(width, dice.choice(("little", "big")))
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            del found[at : at + size]
        elif kind == 5:
            found[at:at] = found[at : at + 16 * size]
        elif kind == 6:
            found[at:at] = dice.choice((b"\0", b"\xff", b"-", b'"', b",", b"\n", b"[", b"1e999", b"../", b"=")) * size
        elif other:
            start = dice.randrange(len(other))
            found[at : at + 4 * size] = other[start : start + 4 * size]
        if not found:
            break
    return bytes(found[:1_000_000])


def kept(suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the finds of earlier runs."""
    for path in sorted(CORPUS.glob(f"*.{suffix}")):
        yield path.name, path.read_bytes()


def keep(suffix: str, data: bytes) -> str:
    """Keep a find for ever, and return its name."""
    CORPUS.mkdir(exist_ok=True)
    name = f"{hashlib.sha256(data).hexdigest()[:12]}.{suffix}"
    (CORPUS / name).write_bytes(data)
    return name


class Late(BaseException):
    """Something takes too long."""


def guarded(result: Result, suffix: str, files: list[tuple[str, bytes]], read: Callable[[bytes], str]) -> None:
    """Let a child ``read`` files with 2 GB and a second each; only errors of our own may come out.

    Args:
        result: gets the cases; every one fires, for every file is another one than the whole.
        suffix: the format.
        files: (name, content).
        read: raises, or returns what is wrong, or "".
    """
    reader, writer = os.pipe()

    def work() -> int:
        space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (space + ROOM, space + ROOM))
        signal.signal(signal.SIGALRM, _late)
        for number, (_, data) in enumerate(files):
            os.write(writer, f"{number} begins\n".encode())
            begin = time.process_time()
            problem = _tried(read, data)
            if time.process_time() - begin > SECONDS:
                problem = problem or f"{time.process_time() - begin:.1f} s"
            if problem:
                os.write(writer, f"{number} {' '.join(problem.split())[:300]}\n".encode())
        return 0

    child = Child(work)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    code = child.wait(60)
    begun = [int(line.split()[0]) for line in lines if line.endswith(" begins")]
    problems = {int(line.split()[0]): line.partition(" ")[2] for line in lines if not line.endswith(" begins")}
    if code and begun:
        problems[begun[-1]] = f"the process ended with {code}"
    result.cases, result.fired = result.cases + len(begun), result.fired + len(begun)
    for number, problem in problems.items():
        name, data = files[number]
        result.fail(f"{suffix} {keep(suffix, data) if data else name}: {problem}")
    rest = files[begun[-1] + 1 :] if code and begun else []
    if rest:
        guarded(result, suffix, rest, read)


def _tried(read: Callable[[bytes], str], data: bytes) -> str:
    signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)  # of a clock on the wall; the law is one of work
    try:
        return read(data)
    except SfumatoError as error:
        text = str(error)
        return (
            ""
            if "\n" not in text and len(text) < 1_000 and text.endswith((".", "?"))
            else f"no sentence: {text[:200]!r}"
        )
    except Late:
        return "it does not end"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _late(number: int, frame: object) -> None:
    raise Late
