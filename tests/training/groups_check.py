"""Losses of several groups in a training. Run as a program where compiled: the test run wraps every function."""

import sys
import tempfile
from pathlib import Path

import torch
from compiled_check import losses
from training_helpers import At, differences, straight, terminate, trainer

from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.networks import MLP
from sfumato.objectives import (
    DIP,
    ELBO,
    IWAE,
    MMD,
    AdversarialPrior,
    Capacity,
    Contrastive,
    DensityRatio,
    LearnedSimilarity,
    PerPart,
    PriorEnergy,
    Renyi,
    SemiSupervised,
    TotalCorrelation,
)
from sfumato.training.engine import Way


def network(size, out, activate=False):
    """Return a small network that is the same every time."""
    with fixed_noise(8):
        return MLP((size,), (out,), hidden=(6,), activation="tanh", activate_output=activate)


OBJECTIVES = {  # of the size of z
    "elbo": lambda size=4: ELBO(free_bits=0.1),
    "path": lambda size=4: ELBO(kl="path"),
    "sum": lambda size=4: 0.5 * ELBO(samples=3) + 0.5 * IWAE(samples=3),
    "doubly": lambda size=4: IWAE(samples=3, gradient="doubly"),
    "per_part": lambda size=4: PerPart(encoder=IWAE(samples=2, outer=3), decoder=IWAE(samples=6)),
    "renyi": lambda size=4: Renyi(samples=3),
    "capacity": lambda size=4: ELBO(beta=0) + 10 * Capacity(3.0, WarmUp(steps=5)),
    "total": lambda size=4: ELBO() + 4 * TotalCorrelation(200),
    "dip": lambda size=4: ELBO() + DIP("II", 5.0, 5.0),
    "info": lambda size=4: ELBO(beta=0) + 10 * MMD(),
    "energy": lambda size=4: ELBO(beta=0) + 0.1 * PriorEnergy(),
    "contrastive": lambda size=4: ELBO(beta=0) + Contrastive(0.5),
    "factor": lambda size=4: ELBO() + 5 * DensityRatio(network(size, 1)),
    "adversarial": lambda size=4: ELBO(beta=0) + 2 * AdversarialPrior(network(size, 1)),
    "gan": lambda size=4: ELBO(beta=0) + LearnedSimilarity(network(64, 5, True), network(5, 1)),
    "m2": lambda size=4: SemiSupervised(network(64, 3), weight=2.0),
}


def with_objective(name):
    """Return a ``change`` for a trainer: one of the objectives above in the place of the ELBO."""

    def change(model, objective, train, validation, preprocessing):
        return model, OBJECTIVES[name](), train, validation, preprocessing

    return change


def agrees(name):
    """The compiled step is the plain one: losses, norms, and all weights, also those of the objective."""
    runs = [trainer(change=with_objective(name)) for _ in range(2)]
    plain, _ = losses(runs[0], Way(), steps=12)
    found, _ = losses(runs[1], Way(compiled=True), steps=12)
    assert runs[1].engine._is_function
    torch.testing.assert_close(found, plain, rtol=2e-5, atol=2e-5)
    weights = [torch.cat([each.detach().flatten() for each in run.state.parameters]) for run in runs]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def resumes(name):
    """A training that is interrupted goes on bit for bit, also with the objective's own networks."""
    arguments = {"steps": 30, "change": with_objective(name)}
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        whole = straight(root / "whole", **arguments)
        trainer(root / "run", listener=At(13, terminate), **arguments).fit()
        assert differences(root / "run", whole, **arguments) == []


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:]:
        agrees(chosen)
