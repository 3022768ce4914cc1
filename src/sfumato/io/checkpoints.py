"""Checkpoints of a run: one writer, each complete or absent, the highest one that verifies is the latest.

    checkpoints/step-00001234/   model.safetensors  optimizer.safetensors  ...  state.json  manifest.json

Time stamps are never read. A damaged checkpoint is named, kept aside, and the one before is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError
from sfumato.io import store
from sfumato.io.store import DamagedError, NoRoom, shown
from sfumato.io.tensors import pack, unpack

STATE = "state.json"
SUFFIX = ".safetensors"
ROOM = 1.2
_STEP = re.compile(rf"(?:{re.escape(store.OLD)})?step-(\d{{8,15}})")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        step: the number of steps done.
        tensors: file stem ("model", "ema", "optimizer") -> name -> tensor, on the CPU.
        state: everything else, as plain json.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class Checkpoints:
    """The folder of a run's checkpoints. Only the holder of the run's lock may save.

    Args:
        folder: made with the first checkpoint, not before.
        keep: how many of the latest stay, at least 2.

    ``warnings`` collects sentences for the user; whoever prints them empties it.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(f"keep must be at least 2, so that one stays while another is written; got {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.warnings: list[str] = []

    def steps(self) -> list[int]:
        """Return the steps that a checkpoint stands for, ascending, verified or not."""
        with store.explained(self.folder, "read"):
            names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted({int(match[1]) for match in map(_STEP.fullmatch, names) if match})

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        protect: Collection[int] = (),
    ) -> Path:
        """Write a checkpoint, read it back, and only then remove the ones that are not needed any more.

        Args:
            step: the number of steps done; not below the highest checkpoint. The same step again replaces it.
            tensors: file stem -> name -> tensor.
            state: plain json.
            protect: steps that stay beside the latest (the best one).

        Returns:
            the folder of the checkpoint, durable.

        Raises:
            NoRoom: too little room, found out before or while writing; what was there is still good: try again later.
            SfumatoError: it could not be written for another reason.
        """
        highest = max(self.steps(), default=step)
        if step < highest:
            raise ValueError(f"a checkpoint of step {step} would not be the latest: there is one of step {highest}")
        files = {f"{stem}{SUFFIX}": pack(named) for stem, named in tensors.items()}
        files[STATE] = strict_json.dump({"step": step, "state": dict(state)})
        strict_json.parse(files[STATE], STATE)  # what could not be read again is not written
        store.sweep(self.folder)
        self._check_room(sum(map(len, files.values())))
        path = self._path(step)
        store.write_folder(path, files, replace=True)
        if store.read_folder(path, files) != files:
            raise SfumatoError(f"{shown(path)} reads back other than it was written. Check the disk.")
        self._rotate(protect)
        return path

    def latest(self) -> Checkpoint | None:
        """Return the highest checkpoint that verifies, or None where there is none.

        A damaged one is named in ``warnings`` and kept aside as ``damaged-...``.

        Raises:
            UserError: a format version that this sfumato does not know. SfumatoError: it may not be read.
        """
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except DamagedError as error:
                self._set_aside(self._path(step), error)
        return None

    def load(self, step: int) -> Checkpoint:
        """Return the checkpoint of ``step``.

        Raises:
            DamagedError: a file of it is missing, cut, changed, or one too many.
            UserError: there is none, or its format version is unknown.
        """
        path = self._path(step)
        if step not in self.steps():
            there = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{shown(self.folder)} has no checkpoint of step {step}. There are: {there}.")
        if path.is_symlink():
            raise DamagedError(f"{shown(path)} is a link, which is not followed.")
        files = store.read_folder(path)
        try:
            content = strict_json.parse(files.pop(STATE), shown(path / STATE))
            tensors = {name.removesuffix(SUFFIX): unpack(data, shown(path / name)) for name, data in files.items()}
            right = set(content) == {"step", "state"} and all(name.endswith(SUFFIX) for name in files)
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise DamagedError(f"{shown(path)} is not a checkpoint ({error}).") from None
        if not right or content["step"] != step:
            raise DamagedError(f"{shown(path)} holds another checkpoint than its name says.")
        return Checkpoint(step, tensors, content["state"])

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints above ``step``, the highest first: training goes on from there another way."""
        for later in reversed(self.steps()):
            if later > step:
                store.discard(self._path(later))

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _check_room(self, size: int) -> None:
        """Raise NoRoom unless 1.2 times ``size`` bytes are free."""
        with store.explained(self.folder):
            store.make_folder(self.folder)
            disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < ROOM * size:
            raise NoRoom(
                f"{shown(self.folder)} has room for {free / 1e6:,.1f} MB; a checkpoint needs {ROOM * size / 1e6:,.1f}. "
                "Free some space, or choose another disk."
            )

    def _rotate(self, protect: Collection[int]) -> None:
        for step in self.steps()[: -self.keep]:
            if step not in protect:
                try:
                    store.discard(self._path(step))
                except SfumatoError as error:  # an old one that stays does no harm
                    self.warnings.append(str(error))

    def _set_aside(self, path: Path, problem: DamagedError) -> None:
        """Rename a damaged checkpoint, where we may; say it in any case."""
        aside, number = path.with_name(f"damaged-{path.name}"), 1
        while os.path.lexists(aside):
            number += 1
            aside = path.with_name(f"damaged-{path.name}-{number}")
        try:
            os.rename(path, aside)
            store.sync_folder(path.parent)
        except OSError:
            aside = path
        self.warnings.append(f"{problem} The checkpoint before it is used; this one is kept as {shown(aside)}.")
