"""A run that may still train: its newest weights, its metrics, and how likely its training data are."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.app.guard import Refused, log
from sfumato.app.snapshot import MOST_POINTS, POINTS, Snapshot, take_snapshot
from sfumato.core.errors import SfumatoError, UserError
from sfumato.io.run import RunFolder
from sfumato.verbs.opening import is_run, open_model
from sfumato.verbs.state import read_state

LOOK_EVERY = 1.0
SCORED = 500
SCORE_SAMPLES = 16
SCORE_BATCH = 20


@dataclass(eq=False)
class Likely:
    """log p(x), nats, of training examples: as many as are scored so far, and whether these are all."""

    snapshot: Snapshot
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    ready: bool = False


@dataclass(eq=False)
class Watched:
    """The folder of a run or a model, looked at again when it changes.

    Args:
        path: the folder.
        points: how many training examples the map shows at most.

    ``snapshot`` is None until a run has its first checkpoint. The first call of :meth:`look` reads; later ones, at most
    one each second, only compare names and, when they differ, read in the thread that asked. Whoever asks meanwhile
    gets the snapshot before.
    """

    path: Path
    points: int = POINTS
    snapshot: Snapshot | None = None
    _mark: Any = None
    _looked: float = -1e9
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _likely: Likely | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> RunFolder | None:
        """The run, or None for a model folder alone."""
        return RunFolder(self.path) if is_run(self.path) else None

    @property
    def name(self) -> str:
        """What to call it."""
        path = self.path.resolve()
        return path.parent.name if path.name == "model" and is_run(path.parent) else path.name

    def look(self) -> Snapshot | None:
        """Return the newest snapshot; the one before where the newest cannot be read (it is being written).

        Raises:
            SfumatoError: there is nothing to show and never was, or the folder is damaged.
        """
        if not self._looking.acquire(blocking=self.snapshot is None):
            return self.snapshot
        try:
            return self._look()
        finally:
            self._looking.release()

    def looked(self) -> Snapshot | None:
        """Return the newest snapshot; whatever is wrong with the folder is said without its path."""
        try:
            return self.look()
        except SfumatoError as error:
            log.warning("%s", error)
            sentence = "expected the files of a whole run; some are missing or damaged. The terminal says which."
            raise Refused(409, sentence) from None

    def state(self) -> dict[str, Any]:
        """Return how far the run is, ready for json."""
        folder = self.folder
        if folder is None:
            return {"kind": "model", "finished": True, "step": None, "steps": None}
        try:
            state = read_state(folder)
        except SfumatoError:
            return {"kind": "run", "finished": False, "step": None, "steps": None}
        return {"kind": "run", "finished": state.finished, "step": state.step, "steps": state.steps}

    def metrics(self, start: int) -> tuple[list[dict[str, Any]], int]:
        """Return the logged lines from number ``start`` on, and how many there are; a resumed run may have fewer."""
        folder = self.folder
        lines = folder.metrics.read() if folder is not None else []
        return lines[start:], len(lines)

    def newest(self) -> Snapshot:
        """Return the newest snapshot; refuse where there is none yet."""
        found = self.looked()
        if found is None:
            raise Refused(409, "expected a run with a checkpoint; this one has none yet. Ask again in a moment.")
        return found

    def likely(self) -> tuple[NDArray[np.float64], bool]:
        """Return log p(x), nats, of training examples of the newest weights so far, and whether that is all of them.

        A thread computes them, some at a time, so that whoever asks for a decoding does not wait for it.
        """
        snapshot = self.snapshot
        if snapshot is None or snapshot.rows is None or not snapshot.served.has_evidence:
            return np.empty(0), True
        with self._starting:
            if self._likely is None or self._likely.snapshot is not snapshot:
                self._likely = Likely(snapshot)
                threading.Thread(target=self._score, args=(self._likely,), daemon=True).start()
            ready = self._likely.ready  # looked at first: the values are there before it is set
            return self._likely.values, ready

    def _score(self, likely: Likely) -> None:
        """Score examples of a snapshot until it is no longer the newest."""
        snapshot = likely.snapshot
        chosen = np.random.default_rng(0).permutation(len(snapshot.x))[:SCORED]
        try:
            for start in range(0, len(chosen), SCORE_BATCH):
                if self.snapshot is not snapshot:
                    return
                rows = chosen[start : start + SCORE_BATCH]
                found, _ = snapshot.served.score(snapshot.x[rows], SCORE_SAMPLES, start)
                likely.values = np.concatenate([likely.values, found])
        except Exception:
            log.exception("the training examples cannot be scored")
        likely.ready = True

    def _look(self) -> Snapshot | None:
        if time.monotonic() - self._looked < LOOK_EVERY and self._mark is not None:
            return self.snapshot
        self._looked = time.monotonic()
        mark = self._newest()
        if mark == self._mark:
            return self.snapshot
        if mark is None:
            self._mark = mark
            return None
        version = self.snapshot.version + 1 if self.snapshot else 1
        try:
            self.snapshot = take_snapshot(open_model(self.path), version, self.points, self.snapshot)
            self._mark = mark
        except SfumatoError:
            if self.snapshot is None and (self.folder is None or self._finished()):
                raise
        return self.snapshot

    def _newest(self) -> Any:
        """Return what changes when there are new weights; None where there are none yet."""
        folder = self.folder
        if folder is None:
            return "model"
        if folder.model.is_dir():
            return ("model", folder.model.stat().st_mtime_ns)
        steps = folder.open_checkpoints().steps()
        return steps[-1] if steps else None

    def _finished(self) -> bool:
        folder = self.folder
        return folder is not None and folder.model.is_dir()


def watch(path: str | Path, points: int = POINTS) -> Watched:
    """Return the watched folder of a run, even of one without a checkpoint yet, or of a model.

    Raises:
        UserError: it is neither.
    """
    if points and not 2 <= points <= MOST_POINTS:
        raise UserError(f"--points must be a whole number from 2 to {MOST_POINTS:,}; got {points:,}.")
    path = Path(path).expanduser()
    watched = Watched(path, points)
    if watched.folder is None or not (path / "run.json").exists():
        watched.look()
    return watched
