"""The contract of ``sfumato.objectives``."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from contract import Case, Numbers, SpecContract, covered, documented, flat, numbers, public_classes
from torch import Tensor

from sfumato import objectives
from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.core.terms import Level, Terms
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
    NaivePenalty,
    PerPart,
    PriorEnergy,
    Renyi,
    SemiSupervised,
    StructuralSimilarity,
    Sum,
    TotalCorrelation,
)
from sfumato.priors import ClassConditional, StandardNormal

BATCH, DATA = 4, (1, 3, 3)
LABELS = torch.tensor([0, 2, -1, 1])


def leaves(dtype: torch.dtype, scale: float) -> dict[str, Tensor]:
    """Return what a model would have computed: posterior mean and log-variance, decoder output, class means."""
    shapes = {"mean": (BATCH, 2), "log_variance": (BATCH, 2), "output": (BATCH, *DATA), "means": (3, 2)}
    made = {name: numbers(*shape, seed=seed, dtype=dtype) for seed, (name, shape) in enumerate(shapes.items())}
    made["mean"], made["output"] = made["mean"] * scale, made["output"] * scale
    return {name: value.requires_grad_() for name, value in made.items()}


def terms_of(made: dict[str, Tensor], samples: int, labelled: bool = False, y: Tensor | None = None) -> Terms:
    dtype = made["mean"].dtype
    z = made["mean"] + (0.5 * made["log_variance"]).exp() * numbers(samples, BATCH, 2, seed=7, dtype=dtype)
    prior = ClassConditional(3, 2) if labelled else StandardNormal(2)
    prior = prior.to(dtype)
    labels = (LABELS if y is None else y) if labelled else None
    if labelled:
        del prior.means
        prior.means = made["means"]

    def observe(z: Tensor) -> torch.distributions.Distribution:
        mean = made["output"] + z.sum(-1)[..., None, None, None]
        return independent_normal(mean, torch.zeros(1, dtype=dtype), len(DATA))

    level = Level(z, independent_normal(made["mean"], made["log_variance"]), prior(labels))
    return Terms(
        numbers(BATCH, *DATA, seed=8, dtype=dtype),
        labels,
        (level,),
        observe(z),
        {"extra": made["output"].square().mean((1, 2, 3))},
        given=lambda others: terms_of(made, samples, labelled, others),
        draw_prior=lambda: numbers(BATCH, 2, seed=9, dtype=dtype),
        observe=observe,
    )


def kinds(objective) -> list[bool]:
    """Return whether there are labels: no or yes, or only yes for what needs them."""
    return [True] if isinstance(objective, Contrastive | SemiSupervised) else [False, True]


def call(objective, dtype: torch.dtype, scale: float) -> Numbers:
    found, objective = [], copy.deepcopy(objective).to(dtype)
    for labelled in kinds(objective):
        with fixed_noise(1):
            output = objective(terms_of(leaves(dtype, scale), objective.samples, labelled), 5)
        found += [*output.losses.values(), *output.values.values()]
    return found


def network(*shape: int) -> MLP:
    with fixed_noise(2):
        first = DATA if shape[0] == 9 else shape[:1]
        return MLP(first, (shape[-1],), hidden=shape[1:-1], activation="tanh")


def case(name: str, build) -> Case:
    return Case(name, build, call)


EXAMPLES = {
    "ELBO": [
        case("", ELBO),
        case("beta", lambda: ELBO(beta=4.0, samples=3)),
        case("warm-up", lambda: ELBO(schedule=WarmUp(steps=10))),
        case("free-bits", lambda: ELBO(free_bits=1.5)),
        case("sampled", lambda: ELBO(kl="sampled", samples=2)),
        case("path", lambda: ELBO(kl="path", samples=2)),
    ],
    "IWAE": [
        case("", IWAE),
        case("one", lambda: IWAE(samples=1)),
        case("miwae", lambda: IWAE(samples=3, outer=2)),
        case("doubly", lambda: IWAE(samples=3, outer=2, gradient="doubly")),
    ],
    "NaivePenalty": [
        case("", NaivePenalty),
        case("ratio", lambda: NaivePenalty(0.5, 0.01)),
        case("difference", lambda: NaivePenalty(variance="difference")),
    ],
    "Sum": [
        case("ciwae", lambda: 0.3 * ELBO(samples=4) + 0.7 * IWAE(samples=4)),
        case("info", lambda: ELBO(beta=0.5) + 9.5 * MMD()),
        case("factor", lambda: ELBO() + 6.0 * DensityRatio(network(2, 1))),
        case("doubly", lambda: IWAE(samples=4, gradient="doubly") + PriorEnergy()),
    ],
    "PerPart": [case("piwae", lambda: PerPart(encoder=IWAE(samples=3, outer=2), decoder=IWAE(samples=6)))],
    "Renyi": [case("", Renyi), case("elbo", lambda: Renyi(alpha=1.0)), case("sharp", lambda: Renyi(alpha=-2.0))],
    "Capacity": [case("", lambda: Capacity(2.0, WarmUp(steps=10)))],
    "PriorEnergy": [case("", PriorEnergy)],
    "StructuralSimilarity": [case("", lambda: StructuralSimilarity(scales=1, sigma=0.4, data_range=4.0))],
    "TotalCorrelation": [
        case("", lambda: TotalCorrelation(size=100)),
        case("stratified", lambda: TotalCorrelation(size=100, sampling="stratified")),
    ],
    "DIP": [case("", DIP), case("II", lambda: DIP("II", 5.0, 5.0))],
    "MMD": [case("", MMD), case("rbf", lambda: MMD("rbf", (0.5, 2.0)))],
    "Contrastive": [case("", lambda: Contrastive(temperature=0.5))],
    "DensityRatio": [case("", lambda: DensityRatio(network(2, 5, 1)))],
    "AdversarialPrior": [case("", lambda: AdversarialPrior(network(2, 5, 1)))],
    "LearnedSimilarity": [case("", lambda: LearnedSimilarity(network(9, 5), network(5, 1), similarity=0.1))],
    "SemiSupervised": [case("", lambda: SemiSupervised(network(9, 5, 3), weight=2.0, samples=2))],
}
BOUND = {"reconstruction", "kl", "elbo"}
GAUSSIAN = {"kl_mean", "kl_variance", "sigma", "extra"}


def test_every_public_class_has_examples() -> None:
    covered(objectives, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(objectives))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestObjectives(SpecContract):
    def test_one_number_for_each_example_and_reports_are_detached(self, case: Case) -> None:
        objective = case.build()
        for labelled in kinds(objective):
            output = objective(terms_of(leaves(torch.float32, 1.0), objective.samples, labelled), 5)
            assert set(output.losses) == set(objective.groups)
            said = set() if objective.any_samples else BOUND
            said = said if isinstance(objective, SemiSupervised) or not said else said | GAUSSIAN
            assert said <= set(output.values)
            assert output.values
            assert output.loss.shape == (BATCH,)
            for values in output.losses.values():
                assert values.shape == (BATCH,)
                assert values.requires_grad
            for values in output.values.values():
                assert values.shape == (BATCH,)
                assert not values.requires_grad

    def test_examples_do_not_touch_each_other(self, case: Case) -> None:
        """No mean over the batch hides in a loss, but where the objective says that it compares examples."""
        objective = case.build()
        for labelled in kinds(objective):
            made = leaves(torch.float32, 1.0)
            output = objective(terms_of(made, objective.samples, labelled), 5)
            sum(loss[1] for loss in output.losses.values()).backward()
            apart = [made[name].grad[[0, 2, 3]].abs().sum() == 0 for name in ("mean", "output") if compared(made[name])]
            assert all(apart) or any(part.compares for part in objective.modules() if hasattr(part, "compares"))

    @pytest.mark.parametrize("scale", [1.0, 1e4])
    def test_gradients_are_finite_and_reach_everything(self, case: Case, scale: float) -> None:
        objective = case.build()
        for labelled in kinds(objective):
            made = leaves(torch.float32, scale)
            output = objective(terms_of(made, objective.samples, labelled), 5)
            sum(loss.sum() for loss in output.losses.values()).backward()
            reached = {name for name, leaf in made.items() if compared(leaf)}
            for name in reached:
                assert torch.isfinite(made[name].grad).all(), name
            if objective.any_samples or scale > 1:
                assert reached & {"mean", "output"}
                continue
            expected = set(made) if labelled and not isinstance(objective, NaivePenalty) else set(made) - {"means"}
            assert all(name in reached and made[name].grad.abs().sum() > 0 for name in expected)

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

    def test_what_it_learns_is_in_its_networks(self, case: Case) -> None:
        objective = case.build()
        assert set(objective.networks) <= set(objective.groups)
        own = {id(each) for network in objective.networks.values() for each in network.parameters()}
        assert {id(each) for each in objective.parameters()} == own
        assert not list(objective.buffers())

    def test_penalties_of_the_parts_count(self, case: Case) -> None:
        objective, made = case.build(), leaves(torch.float64, 1.0)
        if objective.any_samples or kinds(objective) == [True]:
            return  # a term of a sum, whose bound counts them
        with_penalty = terms_of(made, objective.samples)
        without = dataclasses.replace(with_penalty, penalties={})
        with fixed_noise(1):
            more = objective.double()(with_penalty, 5).loss
        with fixed_noise(1):
            difference = more - objective(without, 5).loss
        torch.testing.assert_close(difference, with_penalty.penalties["extra"])


def compared(leaf: Tensor) -> bool:
    """Whether a gradient arrived."""
    return leaf.grad is not None


def test_a_sum_is_written_as_one() -> None:
    """Weights multiply, nothing is nested, and networks keep the weight 1."""
    objective = 2 * (ELBO() + 3 * MMD()) + DIP() * 0.5
    assert [(type(term).__name__, weight) for term, weight in objective.pairs()] == [
        ("ELBO", 2.0),
        ("MMD", 6.0),
        ("DIP", 0.5),
    ]
    assert isinstance(objective, Sum)
    assert objective.samples == 1
    record = terms_of(leaves(torch.float64, 1.0), 1)
    parts = [term(record, 5).losses["model"] for term, _ in objective.pairs()]
    torch.testing.assert_close(objective(record, 5).losses["model"], 2 * parts[0] + 6 * parts[1] + 0.5 * parts[2])
    values = objective(record, 5).values
    torch.testing.assert_close(values["elbo"], ELBO()(record, 5).values["elbo"])
    assert {"mmd", "dip"} <= set(values)
    adversary = DensityRatio(network(2, 1)).double()
    with fixed_noise(1):
        alone = adversary(record, 5).losses
    with fixed_noise(1):
        summed = (ELBO() + 10 * adversary)(record, 5).losses
    torch.testing.assert_close(summed["density_ratio"], alone["density_ratio"])
    torch.testing.assert_close(summed["model"], parts[0] + 10 * alone["model"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ELBO() + IWAE(samples=5), "share their draws of z, and these ask for 1 and 5"),
        (lambda: DensityRatio(network(2, 1)) + DensityRatio(network(2, 1)), "a network of their own called"),
        (lambda: Sum((ELBO(),), ()), "one weight for each term"),
        (lambda: PerPart(ELBO(), IWAE(samples=5)), "asks for 1, the decoder's for 5"),
        (lambda: PerPart(IWAE(gradient="doubly"), IWAE()), "one loss for the whole model"),
        (lambda: DensityRatio(network(2, 3)), r"out_shape=\(1,\); got \(3,\)"),
        (lambda: LearnedSimilarity(network(9, 5), network(4, 1)), r"a head for the features, \(5,\)"),
        (lambda: SemiSupervised(network(9, 1)), "one output a class"),
        (lambda: Contrastive()(terms_of(leaves(torch.float32, 1.0), 1), 0), "needs labels"),
        (lambda: SemiSupervised(network(9, 3))(terms_of(leaves(torch.float32, 1.0), 1), 0), "got no labels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
