"""T22: bombs and oddities: little memory, under two seconds, one sentence, nothing written beside them."""

from __future__ import annotations

import functools
import gzip
import io
import os
import random
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from proofs.mutating import guarded
from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core.strict_json import parse
from sfumato.data import images as images_module
from sfumato.data import load_dataset
from sfumato.io.tensors import unpack

AIM, SHORT = 60, 60
Bomb = Callable[[Path], Path]


def _npy(header: str, values: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


def _header(shape: object, descr: str = "<f8") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def _file(name: str, content: bytes) -> Bomb:
    def make(place: Path) -> Path:
        (place / name).write_bytes(content)
        return place / name

    return make


def _npz(member: str, content: bytes, count: int = 1, level: int = 9) -> Bomb:
    def make(place: Path) -> Path:
        with (
            warnings.catch_warnings(),
            zipfile.ZipFile(place / "b.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive,
        ):
            warnings.simplefilter("ignore")  # that a name comes twice
            for number in range(count):
                archive.writestr(member.format(number), content)
        return place / "b.npz"

    return make


def _picture(content: bytes, suffix: str = "png") -> Bomb:
    def make(place: Path) -> Path:
        (place / "photos").mkdir()
        for number in range(2):
            (place / "photos" / f"{number}.{suffix}").write_bytes(content)
        return place / "photos"

    return make


def _png(width: int, height: int, rows: int = 1) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    body = zlib.compress(bytes(rows), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _text_png(size: int) -> bytes:
    stream = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "y" * size, zip=True)
    Image.new("L", (8, 8)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _gif(frames: int) -> bytes:
    stream = io.BytesIO()
    many = [Image.new("L", (8, 8), number % 256) for number in range(frames)]
    many[0].save(stream, "GIF", save_all=True, append_images=many[1:])
    return stream.getvalue()


def _bmp(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "BMP")
    data = bytearray(stream.getvalue())
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _tar(*members: tuple[str, bytes, bytes]) -> Bomb:
    """Members as (name, type, content), written by hand so that any name goes."""

    def make(place: Path) -> Path:
        with tarfile.open(place / "b.tar", "w") as archive:
            for name, kind, content in members:
                info = tarfile.TarInfo(name)
                info.type, info.size = kind, len(content) if kind == tarfile.REGTYPE else 0
                info.linkname = "/etc/passwd"
                archive.addfile(info, io.BytesIO(content))
        return place / "b.tar"

    return make


def _huge_tar(place: Path) -> Path:
    info = tarfile.TarInfo("a/0.png")
    info.size = 2**40
    (place / "b.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return place / "b.tar"


def _pipe(name: str) -> Bomb:
    def make(place: Path) -> Path:
        os.mkfifo(place / name)
        return place / name

    return make


def _pipe_inside(place: Path) -> Path:
    (place / "photos").mkdir()
    os.mkfifo(place / "photos" / "a.png")
    return place / "photos"


def _loop(place: Path) -> Path:
    (place / "photos").mkdir()
    (place / "photos" / "again").symlink_to(".")
    (place / "photos" / "itself.png").symlink_to("itself.png")
    return place / "photos"


def _deep_folders(place: Path) -> Path:
    path = place / "photos"
    for _ in range(150):
        path /= "a"
    path.mkdir(parents=True)
    return place / "photos"


def _device(place: Path) -> Path:
    (place / "x.npy").symlink_to("/dev/zero")
    return place / "x.npy"


ZEROS = bytes(32 << 20)
LINE = ",".join(["1"] * 50) + "\n"
BOMBS: dict[str, Bomb] = {
    "npy of 32 GiB in 128 bytes": _file("x.npy", _npy(_header((2**32,)))),
    "npy of 2^63 values": _file("x.npy", _npy(_header((2**62, 4)))),
    "npy of a product that is small again": _file("x.npy", _npy(_header((2**32, 2**32)))),
    "npy of negative sizes": _file("x.npy", _npy(_header((-4, -4)), bytes(128))),
    "npy of no size": _file("x.npy", _npy(_header((0, 10**9)))),
    "npy of many axes": _file(
        "x.npy", _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1," * 25 + "), }", b"1")
    ),
    "npy of objects": _file("x.npy", _npy(_header((4,), "|O"), b"cos\nsystem\n(S'true'\ntR.")),
    "npy of records": _file(
        "x.npy", _npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,), }", bytes(32))
    ),
    "npy of wide texts": _file("x.npy", _npy(_header((4,), "<U1000000000"))),
    "npy whose header runs": _file("x.npy", _npy("__import__('os').system('touch /tmp/sfumato-pwned')")),
    "npy whose header nests": _file("x.npy", _npy("(" * 110)),
    "npy with a header of 4 GiB": _file("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"),
    "npy of true and false shapes": _file("x.npy", _npy(_header((True, 4)), bytes(32))),
    "npz one to a thousand": _npz("x.npy", _npy(_header((4 << 20,))) + ZEROS),
    "npz that says less than it holds": _npz("x.npy", _npy(_header((4,))) + ZEROS),
    "npz of 20,000 members": _npz("x{}.npy", _npy(_header((4,)), bytes(32)), 20_000, 1),
    "npz of a path": _npz("../../x.npy", _npy(_header((4, 2)), bytes(64))),
    "npz of an absolute path": _npz("/tmp/sfumato-x.npy", _npy(_header((4, 2)), bytes(64))),
    "npz of the same name": _npz("x.npy", _npy(_header((4, 2)), bytes(64)), 2),
    "npz that is empty": _npz("readme.txt", b""),
    "npz in an npz": _npz("x.npy", b"PK\x03\x04" + bytes(100)),
    "npz that is text": _file("b.npz", b"hello"),
    "png of 88 Mpx": _picture(_png(9_400, 9_400)),
    "png of 18 Mpx, all there": _picture(_png(4_200, 4_200, 4_201 * 4_200)),
    "png of 2^31 rows": _picture(_png(2**31 - 1, 2**31 - 1)),
    "png of no width": _picture(_png(0, 10)),
    "png one to a thousand": _picture(_png(3_900, 3_900, 3_901 * 3_900)),
    "png with a text of 64 MB": _picture(_text_png(64 << 20)),
    "gif of 2,000 frames": _picture(_gif(2_000), "gif"),
    "bmp of 2^31 columns": _picture(_bmp(2**31 - 1, 2), "bmp"),
    "bmp of negative columns": _picture(_bmp(-8, 8), "bmp"),
    "bmp that says 88 Mpx": _picture(_bmp(9_400, 9_400), "bmp"),
    "jpg that is a png": _picture(_png(8, 8, 72), "jpg"),
    "png that is empty": _picture(b""),
    "png that is a program": _picture(b"#!/bin/sh\ntouch /tmp/sfumato-pwned\n"),
    "png that is a gzip bomb": _picture(gzip.compress(ZEROS)),
    "tiff that points to itself": _picture(b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "tiff"),
    "tiff of 65,535 tags": _picture(b"II*\0\x08\0\0\0\xff\xff" + bytes(4_000), "tiff"),
    "webp that is cut": _picture(b"RIFF\xff\xff\xff\xffWEBPVP8X", "webp"),
    "a pipe named npy": _pipe("x.npy"),
    "a pipe named csv": _pipe("x.csv"),
    "a pipe named png": _pipe_inside,
    "links that go round": _loop,
    "150 folders": _deep_folders,
    "a device": _device,
    "csv with an open quote": _file("x.csv", b'a,b\n1,"2\n' + b"3,4\n" * 200_000),
    "csv of one line of 8 MB": _file("x.csv", b"a\n" + b"1" * (8 << 20)),
    "csv of 100,000 columns": _file("x.csv", b",".join(b"c%d" % n for n in range(100_000)) + b"\n"),
    "csv of ragged rows": _file("x.csv", b"a,b\n1\n1,2,3\n"),
    "csv of zeros": _file("x.csv", bytes(1 << 20)),
    "csv of 1e999": _file("x.csv", b"a,b\n1e999,1\n"),
    "csv of the same name": _file("x.csv", b"a,a\n1,2\n"),
    "csv of half a letter": _file("x.csv", b"a,b\n1,\xe2\x82\n"),
    "csv in utf-16": _file("x.csv", "a,b\n1,2\n".encode("utf-16")),
    "csv of wide rows": _file("x.csv", LINE.encode() * 3 + b"1\n"),
    "parquet that is cut": _file("x.parquet", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"),
    "parquet of nothing": _file("x.parquet", b"PAR1PAR1"),
    "tar of a path": _tar(("../../out.png", tarfile.REGTYPE, _png(8, 8, 72))),
    "tar of an absolute path": _tar(("/tmp/sfumato-out.png", tarfile.REGTYPE, _png(8, 8, 72))),
    "tar of a link": _tar(("a/0.png", tarfile.SYMTYPE, b"")),
    "tar of a hard link": _tar(("a/0.png", tarfile.LNKTYPE, b"")),
    "tar of a device": _tar(("a/0.png", tarfile.CHRTYPE, b"")),
    "tar of a terabyte": _huge_tar,
    "tar of nothing": _file("b.tar", bytes(10_240)),
}
HARMLESS = (
    "npy of many axes",
    "npz of a path",
    "npz of an absolute path",
    "npz of the same name",
    "gif of 2,000 frames",
    "png one to a thousand",
    "jpg that is a png",
)
BYTES: dict[str, Callable[[], object]] = {
    "json nested 100,000 deep": lambda: parse(b"[" * 100_000, "x.json"),
    "json nested 40 deep": lambda: parse(b"[" * 40 + b"]" * 40, "x.json"),
    "json of a number of 900,000 digits": lambda: parse(b"9" * 900_000, "x.json"),
    "json of 2 MB": lambda: parse(b'"' + b"x" * 2_000_000 + b'"', "x.json"),
    "json of NaN": lambda: parse(b"[NaN]", "x.json"),
    "json of a key twice": lambda: parse(b'{"a": 1, "a": 2}', "x.json"),
    "json of 60,000 keys": lambda: parse(b"{" + b",".join(b'"%d":0' % n for n in range(60_000)) + b',"0":1}', "x.json"),
    "safetensors with a header of 2^63": lambda: unpack(b"\xff" * 7 + b"\x7f{}", "x.safetensors"),
    "safetensors that overlap": lambda: unpack(_overlapping(), "x.safetensors"),
    "safetensors of 2^60 values": lambda: unpack(_claiming([2**30, 2**30]), "x.safetensors"),
}


def _claiming(shape: list[int], end: int = 8) -> bytes:
    head = f'{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()
    return len(head).to_bytes(8, "little") + head + bytes(8)


def _overlapping() -> bytes:
    entry = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
    head = f'{{"a":{{{entry}}},"b":{{{entry}}}}}'.encode()
    return len(head).to_bytes(8, "little") + head + bytes(8)


def run(budget: Budget, seed: int) -> Result:
    """Throw each of them; all of the list, whatever the budget says, for there is no other half of it."""
    result, names = Result(), [*BOMBS, *BYTES]
    random.Random(seed).shuffle(names)
    with workspace() as place:
        for number, name in enumerate(names):
            spot = place / str(number)
            spot.mkdir()
            path = BOMBS[name](spot) if name in BOMBS else spot
            before = _tree(place)
            guarded(result, "bomb", [(name, b"")], functools.partial(_thrown, name, path))
            result.require(_tree(place) == before, f"{name}: something was written")
    for trace in ("/tmp/sfumato-pwned", "/tmp/sfumato-x.npy", "/tmp/sfumato-out.png"):
        result.require(not os.path.exists(trace), f"{trace} was written")
    return result


def _thrown(name: str, path: Path, _: bytes) -> str:
    return _read(path, name) if name in BOMBS else _refuse(BYTES[name])


def _read(path: Path, name: str) -> str:
    """Read what is there; only oddities that are whole files may be taken."""
    dataset = load_dataset(path, split=(1.0, 0.0, 0.0))
    if name not in HARMLESS:
        return "it was taken"
    size = getattr(dataset.x, "nbytes", 0)
    return "" if size < 600 << 20 else f"{size >> 20} MB were taken"


def _refuse(work: Callable[[], object]) -> str:
    work()
    return "it was taken"


def _tree(place: Path) -> set[str]:
    found = set()
    for folder, folders, names in os.walk(place):
        found |= {os.path.join(folder, name) for name in (*folders, *names)}
    return found


def any_size(patch: pytest.MonkeyPatch) -> None:
    """Decode pictures of any size."""
    patch.setattr(images_module, "MAX_PIXELS", 10**12)
    patch.setattr("sfumato.data.loading.MAX_PIXELS", 10**12)
    usual = load_dataset.__kwdefaults__ or {}
    patch.setattr(load_dataset, "__kwdefaults__", {**usual, "max_pixels": 10**12})


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"pictures of any size": any_size}
