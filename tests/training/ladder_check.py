"""A ladder in training."""

import tempfile
from pathlib import Path

from training_helpers import At, differences, straight, terminate, trainer

from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import InMemory
from sfumato.data.preprocessing import Binarise
from sfumato.likelihoods import Bernoulli
from sfumato.models import HierarchicalVAE
from sfumato.networks.ladder import ConvBottomUp, ConvTopDown, MLPBottomUp, MLPTopDown
from sfumato.objectives import ELBO
from sfumato.priors import ClassConditional, StandardNormal


def with_ladder(model, objective, train, validation, preprocessing):
    """Put a ladder of two levels, with classes, in the place of a tiny model; levels have free bits."""
    with fixed_noise(3):
        up, down = MLPBottomUp((64,), 2, 8, 6), MLPTopDown((4, 3), (1, 64), 8, 6)
        ladder = HierarchicalVAE(ClassConditional(3, 4), up, down, Bernoulli((64,)))
    return ladder, ELBO(schedule=WarmUp(20), free_bits=0.3), train, validation, preprocessing


def with_convolutions(model, objective, train, validation, preprocessing):
    """Put a ladder of convolutions over 8x8 images in the place of a tiny model."""
    shape, widths, levels = (1, 8, 8), (4, 3), (1, 1)
    with fixed_noise(3):
        up, down = ConvBottomUp(shape, widths, levels, 3), ConvTopDown((1, *shape), 3, 1, widths, levels, 3)
        ladder = HierarchicalVAE(StandardNormal(3), up, down, Bernoulli(shape))
    images = [InMemory(split.x.view(-1, *shape)) for split in (train, validation)]
    return ladder, objective, *images, Binarise(shape, "dynamic")


def resumes(change):
    """A training that is interrupted goes on bit for bit."""
    arguments = {"steps": 30, "change": change}
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        whole = straight(root / "whole", **arguments)
        trainer(root / "run", listener=At(13, terminate), **arguments).fit()
        assert differences(root / "run", whole, **arguments) == []
