"""Mutants that no test kills, with the reason why each changes nothing that anybody could see."""

from __future__ import annotations

from collections.abc import Mapping

HARMLESS: Mapping[str, str] = {
    "app/guard.py: address: int = 2048  ->  address: int = 2049": "a limit that is one larger",
    "app/guard.py: body: int = 16000000  ->  body: int = 16000001": "a limit that is one larger",
    "app/guard.py: super().__init__(sentence)  ->  None": "whoever answers takes the sentence by its name",
    "core/spec.py: Count = Annotated[int, Range(0, 2 ** 53)]  ->  Count = Annotated[int, Range(0, 3 ** 53)]": (
        "a limit beyond any count"
    ),
    "data/arrays.py: _CHUNK = 1 << 24  ->  _CHUNK = 1 << 25": "how much is read at once: only memory changes",
    "data/arrays.py: _CHUNK = 1 << 24  ->  _CHUNK = 2 << 24": "how much is read at once: only memory changes",
    "data/arrays.py: _MAX_HEADER = 10000  ->  _MAX_HEADER = 10001": "a limit that is one larger",
    "data/arrays.py: def read(self, size: int=0, /) -> bytes:  ->  def read(self, size: int=1, /) -> bytes:": (
        "numpy always says how much it wants"
    ),
}
