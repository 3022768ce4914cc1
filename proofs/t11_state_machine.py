"""T11: any sequence of saves, crashes, damages, deletions, copies, clocks and strangers agrees with a model of it."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from io_helpers import at_call, is_right, leftovers, save
from training_helpers import Child

from proofs.proof import MEMORY, Budget, Mutants, Result
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints

AIM, SHORT = 10_000, 25
LENGTH = 12
BLOCK = 100
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
STRANGERS = ("photos", "step-12", "step-abcdefgh", "step-000000030.bak", ".DS_Store", "damaged-step-00000003", "step")


class Machine(RuleBasedStateMachine):
    """The folder of checkpoints, and beside it what should be in there: step -> whether it is good."""

    sequences: ClassVar[int] = 0
    fired: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="sfumato-proof-", dir=MEMORY))
        self.folder = self.place / "checkpoints"
        self.folder.mkdir()
        self.there: dict[int, bool] = {}
        self.links: set[int] = set()
        Machine.sequences += 1

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.place)

    def _look(self) -> None:
        """Compare the latest with the model's; what is damaged above it is set aside by looking."""
        checkpoints = Checkpoints(self.folder)
        found = checkpoints.latest()
        good = max((step for step, right in self.there.items() if right), default=None)
        assert (found.step if found else None) == good, f"expected {good}, got {found.step if found else None}"
        assert found is None or is_right(found), "a wrong checkpoint was accepted"
        above = [step for step in self.there if good is None or step > good]
        assert len(checkpoints.warnings) == len(above), "a damaged one was not named"
        for step in above:
            del self.there[step]
        self.links &= set(self.there)
        assert checkpoints.steps() == sorted(self.there)

    def _next(self) -> int:
        self._look()
        return max(self.there, default=0) + 3

    @rule()
    def look(self) -> None:
        """Find the latest."""
        self._look()

    @rule()
    def save(self) -> None:
        """Save, and keep two."""
        step = self._next()
        save(self.folder, step)
        self.there[step] = True
        self._rotated()
        assert not leftovers(self.folder), "leftovers"

    def _rotated(self) -> None:
        for old in sorted(self.there)[:-2]:
            del self.there[old]

    @rule(number=st.integers(1, 60))
    def crash(self, number: int) -> None:
        """Die at a call of a save; the old ones or the new one are there."""
        step = self._next()

        def work() -> int:
            with pytest.MonkeyPatch.context() as patch, at_call(patch, number, lambda: os._exit(9), calls=CALLS):
                save(self.folder, step)
            return 0

        died = Child(work).wait() == 9
        Machine.fired += died
        steps = Checkpoints(self.folder).steps()
        if step in steps or not died:
            self.there[step] = True
        for old in sorted(set(self.there) - set(steps)):
            assert len(self.there) > 2, "one was removed before the new one was there"
            del self.there[old]

    @rule(data=st.data())
    def damage(self, data: Any) -> None:
        """Change a byte of a file."""
        if folders := sorted(set(self.there) - self.links):
            step = data.draw(st.sampled_from(folders))
            files = sorted((self.folder / f"step-{step:08d}").iterdir())
            path = data.draw(st.sampled_from(files))
            content = bytearray(path.read_bytes())
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            before = self.there[step]
            path.write_bytes(content)
            self.there[step] = False if before else self._verifies(step)
            Machine.fired += 1

    def _verifies(self, step: int) -> bool:
        """Whether a second damage undid the first."""
        try:
            Checkpoints(self.folder).load(step)
        except store.DamagedError:
            return False
        return True

    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        """Remove a checkpoint."""
        if folders := sorted(set(self.there) - self.links):
            step = data.draw(st.sampled_from(folders))
            shutil.rmtree(self.folder / f"step-{step:08d}")
            del self.there[step]

    @rule(data=st.data(), ahead=st.integers(1, 40))
    def copy(self, data: Any, ahead: int) -> None:
        """Copy a checkpoint to the name of a later step: it is not that one."""
        if folders := sorted(set(self.there) - self.links):
            step = data.draw(st.sampled_from(folders))
            target = max(self.there) + ahead
            shutil.copytree(self.folder / f"step-{step:08d}", self.folder / f"step-{target:08d}")
            self.there[target] = False
            Machine.fired += 1

    @rule(data=st.data(), stamp=st.integers(0, 2**31))
    def clock(self, data: Any, stamp: int) -> None:
        """Give a folder another time."""
        if folders := sorted(set(self.there) - self.links):
            step = data.draw(st.sampled_from(folders))
            os.utime(self.folder / f"step-{step:08d}", (stamp, stamp))

    @rule(name=st.sampled_from(STRANGERS), is_file=st.booleans())
    def stranger(self, name: str, is_file: bool) -> None:
        """Put something there that is nobody's business."""
        path = self.folder / name
        if not os.path.lexists(path):
            path.write_bytes(b"?") if is_file else path.mkdir()

    @rule(ahead=st.integers(1, 40))
    def link(self, ahead: int) -> None:
        """Put a link under the name of a later step."""
        target = max(self.there, default=0) + ahead
        (self.folder / f"step-{target:08d}").symlink_to("photos")
        self.there[target] = False
        self.links.add(target)
        Machine.fired += 1


def run(budget: Budget, seed: int) -> Result:
    """Let hypothesis draw sequences, and shrink what does not agree."""
    result, number = Result(), seed
    Machine.sequences = Machine.fired = 0
    while budget.open(Machine.sequences) and not result.failures:
        count = int(min(BLOCK, budget.cases - Machine.sequences)) if math.isfinite(budget.cases) else BLOCK
        how = settings(
            max_examples=max(1, count),
            stateful_step_count=LENGTH,
            derandomize=False,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        with result.case(f"sequences from seed {number}", 0):
            run_state_machine_as_test(seeded(number)(Machine), settings=how)
        number += 1
    result.cases, result.fired = Machine.sequences, Machine.fired
    return result


def by_clock(patch: pytest.MonkeyPatch) -> None:
    """Take the newest for the latest."""
    right = Checkpoints.steps

    def steps(self: Checkpoints) -> list[int]:
        return sorted(right(self), key=lambda step: os.lstat(self._path(step)).st_mtime)

    patch.setattr(Checkpoints, "steps", steps)


def follows(patch: pytest.MonkeyPatch) -> None:
    """Take a checkpoint for what its name says."""
    right = Checkpoints.load

    def load(self: Checkpoints, step: int) -> Any:
        try:
            return right(self, step)
        except store.DamagedError as error:
            if "than its name says" not in str(error):
                raise
            held = next(step for step in self.steps() if "than its name" not in str(error) or step)
            return right(self, held)

    patch.setattr(Checkpoints, "load", load)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"the newest is the latest": by_clock, "the name is believed": follows}
