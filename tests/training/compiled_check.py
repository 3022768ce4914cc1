"""Compiled steps. Run as a program, which prints a json object, check -> what is wrong or nothing: the test run's type
checker wraps every function, which torch.compile cannot read. One program for all, as it takes long to begin.
"""

import json
import tempfile
import traceback
from functools import partial
from pathlib import Path

import torch
from ladder_check import with_ladder
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


def agrees(function=True, **arguments):
    """Over the warm-up of the KL term, with labels, unlabelled examples, drawn pixels, and a variance of the batch."""
    plain, weights = losses(trainer(**arguments), Way())
    run = trainer(**arguments)
    found, compiled_weights = losses(run, Way(compiled=True))
    assert run.engine._compiled is not None
    assert run.engine._is_function == function
    torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(compiled_weights, weights, rtol=1e-3, atol=1e-4)


def lays_out():
    """Channels side by side, as written and compiled: the same losses, and gradients that lie as their weights do."""
    plain, weights = losses(trainer(change=with_convolutions), Way(), steps=12)
    for way in (Way(convolutions="channels last"), Way(compiled=True, convolutions="channels last")):
        run = trainer(change=with_convolutions)
        assert run.engine.ways()[-1].convolutions == "channels last"
        found, others = losses(run, way, steps=12)
        torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-4)


def resumes():
    """A training that is interrupted goes on bit for bit, compiled as it was."""
    arguments = {"engine": "compiled", "steps": 30}
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        whole = straight(root / "whole", **arguments)
        run = trainer(root / "run", listener=At(13, terminate), **arguments)
        run.fit()
        assert run.engine.way.compiled
        assert differences(root / "run", whole, **arguments) == []


CHECKS = {
    "labels": partial(agrees, kind="conditional"),
    "a variance that remembers its batch": partial(agrees, kind="optimal", function=False),
    "a ladder": partial(agrees, change=with_ladder),
    "resumed": resumes,
    "channels last": lays_out,
}


def what_is_wrong(check):
    """Return a traceback, or nothing."""
    try:
        check()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: what_is_wrong(check) for name, check in CHECKS.items()}))
