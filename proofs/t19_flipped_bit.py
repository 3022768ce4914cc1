"""T19: one bit of one process's weights, averages or moments flipped in memory: found and named."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from typing import Any

import pytest
import torch
from process_helpers import together
from training_helpers import trainer

from proofs.proof import Budget, Mutants, Result, workspace
from sfumato.core.processes import Differs
from sfumato.training import Trainer

AIM, SHORT = 200, 0
COUNT = 3
LOWEST = 3
WHAT = ("model", "averaged")
UNNOTICED = "nobody noticed"
SHORTER = {"steps": 24, "log_every": 4, "evaluate_every": 12, "checkpoint_every": 6}


def run(budget: Budget, seed: int) -> Result:
    """Draw a process, a step, a tensor, a place and a bit."""
    dice, result, rounded = random.Random(seed), Result(), 0
    with workspace() as place:
        while budget.open(result.cases):
            rank, step, bit, spot = dice.randrange(COUNT), dice.randrange(23), dice.randrange(20), dice.randrange(10**6)
            what = dice.choice(WHAT)
            shutil.rmtree(place / "run", ignore_errors=True)
            with result.case(f"bit {bit} of the {what} of process {rank} at step {step}"):
                drawn = (rank, step, bit, spot, what)
                said = together(COUNT, lambda own, drawn=drawn: _work(place / "run", own, drawn))
                due = next(each for each in (6, 12, 18, 24) if each > step)
                result.fired += said[rank][1]
                if what == "averaged" and bit < LOWEST and all(each[0] == UNNOTICED for each in said):
                    assert len({each[2] for each in said}) == 1, "nobody noticed, and they differ"
                    rounded += 1  # before the next look at it: an average forgets, and all are the same again
                    continue
                for sentence, _, _ in said:
                    assert f"of process {rank} of {COUNT} differs" in sentence, sentence
                found = re.search(r"step (\d+): the weights", said[0][0])
                assert found, said[0][0]
                assert int(found[1]) == due, f"found at step {found[1]}, not at {due}"
    result.note = f"{rounded} low bits of an average rounded away, all processes the same again" * bool(rounded)
    return result


def _work(folder: Any, own: int, drawn: tuple[int, int, int, int, str]) -> list[Any]:
    rank, step, bit, spot, what = drawn
    right, fired = Trainer._step, []

    def flip(self: Any, number: int) -> Any:
        verdict = right(self, number)
        if (own, number) == (rank, step):
            fired.append(number)
            tensors = list(getattr(self.state, what).parameters())
            bits = tensors[spot % len(tensors)].data.view(torch.int32).view(-1)
            bits[spot % len(bits)] ^= 1 << bit
        return verdict

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", flip)
        run = trainer(folder, **SHORTER)
        try:
            run.fit()
        except Differs as error:
            return [str(error), len(fired), ""]
    parts = [tensor.detach().numpy().tobytes() for what in WHAT for tensor in getattr(run.state, what).parameters()]
    return [UNNOTICED, len(fired), hashlib.sha256(b"".join(parts)).hexdigest()]


def trusting(patch: pytest.MonkeyPatch) -> None:
    """Compare nothing."""
    patch.setattr(Trainer, "_check_weights", lambda self: None)


def mutants() -> Mutants:
    """Return what must turn it red."""
    return {"weights that nobody compares": trusting}
