"""Run as a program: the test run's type checker wraps every function, which torch.compile cannot read."""

import sys
import tempfile
from pathlib import Path

import torch
from training_helpers import At, differences, straight, terminate, trainer, with_convolutions

from sfumato.training.engine import Way


def losses(run, way, steps=24):
    """Return the loss and the gradient's norm of every step, and the weights at the end."""
    run.engine.way, found = way, []
    right = run.state.guard.judge
    run.state.guard.judge = lambda loss, norm: found.append((loss, norm)) or right(loss, norm)
    for step in range(steps):
        assert run._step(step) == "accept"
    return torch.tensor(found), torch.cat([p.detach().flatten() for p in run.model.parameters()])


def agrees(kind):
    """Over the warm-up of the KL term, with labels, unlabelled examples, drawn pixels, and a variance of the batch."""
    plain, weights = losses(trainer(kind=kind), Way())
    run = trainer(kind=kind)
    found, compiled_weights = losses(run, Way(compiled=True))
    assert run.engine._compiled is not None
    assert run.engine._is_function == (kind != "optimal"), "which remembers the variance of its batch"
    torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(compiled_weights, weights, rtol=1e-3, atol=1e-4)


def lays_out(kind):
    """Channels side by side, as written and compiled: the same losses, and gradients that lie as their weights do."""
    plain, weights = losses(trainer(change=with_convolutions), Way(), steps=12)
    for way in (Way(channels_last=True), Way(compiled=True, channels_last=True)):
        run = trainer(change=with_convolutions)
        assert run.engine.ways()[-1].channels_last
        found, others = losses(run, way, steps=12)
        torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-4)


def resumes(kind):
    """A training that is interrupted goes on bit for bit, compiled as it was."""
    arguments = {"engine": "compiled", "steps": 30, "kind": kind}
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        whole = straight(root / "whole", **arguments)
        run = trainer(root / "run", listener=At(13, terminate), **arguments)
        run.fit()
        assert run.engine.way.compiled
        assert differences(root / "run", whole, **arguments) == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"agrees": agrees, "lays_out": lays_out, "resumes": resumes}[sys.argv[1]](sys.argv[2])
