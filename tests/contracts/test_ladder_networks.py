"""The contract of ``sfumato.networks.ladder``."""

from __future__ import annotations

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes

from sfumato.networks import ladder
from sfumato.networks.ladder import ConvBottomUp, ConvTopDown, MLPBottomUp, MLPTopDown
from sfumato.networks.ladder.paths import beside


def up(path, dtype: torch.dtype, scale: float) -> Numbers:
    return path(numbers(3, *path.in_shape, dtype=dtype, scale=scale))


def down(path, dtype: torch.dtype, scale: float) -> Numbers:
    """Two draws of three examples, down all levels."""
    features = [numbers(3, *shape, dtype=dtype, seed=2) for shape in path.feature_shapes]
    found = [path.posterior(0, None, features[0])]
    state = path.begin(numbers(6, *path.latent_shapes[0], dtype=dtype, scale=scale))
    for level, shape in enumerate(path.latent_shapes[1:], 1):
        found += [path.prior(level, state), path.posterior(level, state, features[level])]
        state = path.merge(level, state, numbers(6, *shape, dtype=dtype, scale=scale, seed=level))
    return [*found, path.finish(state)]


EXAMPLES = {
    "MLPBottomUp": [Case("", lambda: MLPBottomUp((2, 3), levels=3, width=6, hidden=4), up)],
    "MLPTopDown": [Case("", lambda: MLPTopDown((2, 3, 4), (2, 3, 2), width=6, hidden=4), down)],
    "ConvBottomUp": [Case("", lambda: ConvBottomUp((2, 7, 9), (4, 3), (1, 2), hidden=3), up)],
    "ConvTopDown": [
        Case("", lambda: ConvTopDown((2, 1, 7, 9), 2, 1, (4, 3), (1, 2), hidden=3), down),
        Case("sizes-without-levels", lambda: ConvTopDown((1, 1, 9, 9), 2, 1, (4, 3, 3), (0, 2, 0), hidden=3), down),
    ],
}


def test_every_public_class_has_examples() -> None:
    covered(ladder, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(ladder))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:")


@flat(EXAMPLES)
class TestPaths(ModuleContract):
    pass


@flat({name: cases for name, cases in EXAMPLES.items() if name.endswith("TopDown")})
def test_a_fresh_ladder_has_standard_priors_below_the_top(case: Case) -> None:
    path = case.build()
    state = path.begin(torch.randn(6, *path.latent_shapes[0]))
    for level, shape in enumerate(path.latent_shapes[1:], 1):
        assert path.prior(level, state).shape == (6, 2, *shape)
        assert (path.prior(level, state) == 0).all()
        state = path.merge(level, state, torch.randn(6, *shape))
    assert path.finish(state).shape == (6, *path.out_shape)


def test_features_serve_every_sample() -> None:
    rows, features = torch.zeros(6, 2), torch.arange(6.0).reshape(3, 2)
    assert torch.equal(beside(rows, features), features.repeat(2, 1))
    assert torch.equal(beside(rows[:3], features), features)
