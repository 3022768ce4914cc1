"""The contract of ``sfumato.objectives``."""

from __future__ import annotations

import copy

import pytest
import torch
from contract import Case, Numbers, SpecContract, covered, documented, flat, numbers, public_classes
from torch import Tensor

from sfumato import objectives
from sfumato.core.gaussians import independent_normal
from sfumato.core.schedules import WarmUp
from sfumato.core.terms import Level, Terms
from sfumato.objectives import ELBO, IWAE, NaivePenalty
from sfumato.priors import ClassConditional, StandardNormal

BATCH = 4
LABELS = torch.tensor([0, 2, -1, 1])


def leaves(dtype: torch.dtype, scale: float) -> dict[str, Tensor]:
    """Return what a model would have computed: posterior mean and log-variance, decoder output, class means."""
    shapes = {"mean": (BATCH, 2), "log_variance": (BATCH, 2), "output": (BATCH, 3), "means": (3, 2)}
    made = {name: numbers(*shape, seed=seed, dtype=dtype) for seed, (name, shape) in enumerate(shapes.items())}
    made["mean"], made["output"] = made["mean"] * scale, made["output"] * scale
    return {name: value.requires_grad_() for name, value in made.items()}


def terms_of(made: dict[str, Tensor], samples: int, labelled: bool = False) -> Terms:
    dtype = made["mean"].dtype
    z = made["mean"] + (0.5 * made["log_variance"]).exp() * numbers(samples, BATCH, 2, seed=7, dtype=dtype)
    prior = ClassConditional(3, 2) if labelled else StandardNormal(2)
    prior = prior.to(dtype)
    if labelled:
        del prior.means
        prior.means = made["means"]
    observation = independent_normal(made["output"] + z.sum(-1, keepdim=True), torch.zeros(3, dtype=dtype))
    level = Level(z, independent_normal(made["mean"], made["log_variance"]), prior(LABELS if labelled else None))
    x = numbers(BATCH, 3, seed=8, dtype=dtype)
    return Terms(x, LABELS if labelled else None, (level,), observation, {"extra": made["output"].square().mean(-1)})


def call(objective, dtype: torch.dtype, scale: float) -> Numbers:
    found = []
    for labelled in (False, True):
        output = objective(terms_of(leaves(dtype, scale), objective.samples, labelled), 5)
        found += [*output.losses.values(), *output.values.values()]
    return found


def case(name: str, build) -> Case:
    return Case(name, build, call)


EXAMPLES = {
    "ELBO": [
        case("", ELBO),
        case("beta", lambda: ELBO(beta=4.0, samples=3)),
        case("warm-up", lambda: ELBO(schedule=WarmUp(steps=10))),
        case("free-bits", lambda: ELBO(free_bits=1.5)),
        case("sampled", lambda: ELBO(kl="sampled", samples=2)),
    ],
    "IWAE": [case("", IWAE), case("one", lambda: IWAE(samples=1))],
    "NaivePenalty": [
        case("", NaivePenalty),
        case("ratio", lambda: NaivePenalty(0.5, 0.01)),
        case("difference", lambda: NaivePenalty(variance="difference")),
    ],
}


def test_every_public_class_has_examples() -> None:
    covered(objectives, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(objectives))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestObjectives(SpecContract):
    @pytest.mark.parametrize("labelled", [False, True])
    def test_one_number_for_each_example_and_reports_are_detached(self, case: Case, labelled: bool) -> None:
        objective = case.build()
        output = objective(terms_of(leaves(torch.float32, 1.0), objective.samples, labelled), 5)
        assert set(output.losses) == {"model"}
        assert {"reconstruction", "kl", "elbo", "kl_mean", "kl_variance", "sigma", "extra"} <= set(output.values)
        for values in output.losses.values():
            assert values.shape == (BATCH,)
            assert values.requires_grad
        for values in output.values.values():
            assert values.shape == (BATCH,)
            assert not values.requires_grad

    @pytest.mark.parametrize("labelled", [False, True])
    def test_examples_do_not_touch_each_other(self, case: Case, labelled: bool) -> None:
        """No mean over the batch hides in a loss: the last small batch counts what it should."""
        objective, made = case.build(), leaves(torch.float32, 1.0)
        objective(terms_of(made, objective.samples, labelled), 5).losses["model"][1].backward()
        assert made["mean"].grad[[0, 2, 3]].abs().sum() == 0
        assert made["output"].grad[[0, 2, 3]].abs().sum() == 0

    @pytest.mark.parametrize("labelled", [False, True])
    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_gradients_are_finite_and_reach_everything(self, case: Case, labelled: bool, scale: float) -> None:
        objective, made = case.build(), leaves(torch.float32, scale)
        objective(terms_of(made, objective.samples, labelled), 5).losses["model"].sum().backward()
        for name, leaf in made.items():
            if name == "means" and (not labelled or isinstance(objective, NaivePenalty)):
                continue  # no term with these means in it
            assert leaf.grad is not None, name
            assert torch.isfinite(leaf.grad).all(), name
            assert leaf.grad.abs().sum() > 0, name

    def test_float32_agrees_with_float64(self, case: Case) -> None:
        pairs = zip(call(case.build(), torch.float32, 1.0), call(case.build(), torch.float64, 1.0), strict=True)
        for single, double in pairs:
            torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)

    def test_a_deep_copy_says_the_same(self, case: Case) -> None:
        objective = case.build()
        pairs = zip(
            call(objective, torch.float64, 1.0), call(copy.deepcopy(objective), torch.float64, 1.0), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)

    def test_has_nothing_to_learn(self, case: Case) -> None:
        assert not case.build().state_dict()

    def test_penalties_of_the_parts_count(self, case: Case) -> None:
        objective, made = case.build(), leaves(torch.float64, 1.0)
        with_penalty = terms_of(made, objective.samples)
        without = Terms(with_penalty.x, None, with_penalty.levels, with_penalty.observation)
        difference = objective(with_penalty, 5).losses["model"] - objective(without, 5).losses["model"]
        torch.testing.assert_close(difference, with_penalty.penalties["extra"])
