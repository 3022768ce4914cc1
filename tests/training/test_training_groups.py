"""Losses of several groups: each changes its own parameters, in every way to compute a step, over every stop."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groups_check import OBJECTIVES, resumes, with_objective
from process_helpers import distance, exact_trainer, numbers, together
from training_helpers import COUNT, tiny, trainer

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.data.preprocessing import Binarise
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE, HierarchicalVAE
from sfumato.networks import MLP
from sfumato.networks.ladder import MLPBottomUp, MLPTopDown
from sfumato.objectives import ELBO, IWAE, Contrastive, NaivePenalty, TotalCorrelation
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.training.engine import Engine
from sfumato.training.groups import backward, gathered
from sfumato.training.runtime import Runtime
from sfumato.training.several import grouped

ADVERSARIES = ("factor", "adversarial", "gan", "m2")


# --- each loss changes its own parameters ---


def test_a_parameter_moves_along_the_losses_of_its_groups():
    one, two, three = (torch.nn.Parameter(torch.tensor(value)) for value in (2.0, 3.0, 5.0))
    losses = losses_of(one, two, three)
    places = {"model": [0, 1], "encoder": [0], "other": [2]}
    backward(losses, places, [one, two, three])
    expected = [3 * 5 + 2 * 2 * 3, 2 * 5, 7 * 2]  # d model + d encoder; d model; d other
    assert [float(each.grad) for each in (one, two, three)] == expected
    again = losses_of(one, two, three).items()
    every = {name: torch.autograd.grad(loss, [one, two, three], allow_unused=True) for name, loss in again}
    zeros = {name: [torch.zeros(()) if each is None else each for each in row] for name, row in every.items()}
    assert [float(each) for each in gathered(zeros, places)] == expected


def losses_of(one, two, three):
    return {"model": one * two * three, "encoder": one**2 * two, "other": 7 * three * one}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradients_of_a_step_are_those_of_each_loss_by_its_own_parameters(name):
    run = trainer(change=with_objective(name))
    found = run._differentiate(run._order(7), 7, 1 / 16)
    gradients = [None if each.grad is None else each.grad.clone() for each in run.state.parameters]
    run.state.optimizer.zero_grad()
    raw, y = run.train.batch(run._order(7))
    with fixed_noise(run.noise_of(7)):
        output = run.objective(run.model(run.preprocessing(raw), y, run.objective.samples), 7)
    groups = {"model": run.model.parameters(), **run.model.halves}
    groups |= {group: network.parameters() for group, network in run.objective.networks.items()}
    expected = dict.fromkeys(map(id, run.state.parameters))
    for group, loss in output.losses.items():
        own = list(groups[group])
        for parameter, gradient in zip(
            own, torch.autograd.grad(loss.mean(), own, retain_graph=True, allow_unused=True), strict=True
        ):
            if gradient is not None:
                before = expected[id(parameter)]
                expected[id(parameter)] = gradient if before is None else before + gradient
    for parameter, gradient in zip(run.state.parameters, gradients, strict=True):
        if expected[id(parameter)] is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected[id(parameter)])
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    torch.testing.assert_close(found.norm, torch.stack(squares).sum().sqrt())  # one norm of all together
    own = [gradients[place] for place in range(len(gradients)) if place >= len(list(run.model.parameters()))]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in own)


# --- a training ---


@pytest.mark.parametrize("name", ADVERSARIES)
def test_networks_of_an_objective_are_trained_and_not_averaged_or_delivered(name, tmp_path):
    run = trainer(tmp_path / "run", change=with_objective(name), steps=6)
    before = [each.detach().clone() for each in run.objective.parameters()]
    names = set(run.delivered.state_dict())
    run.fit()
    assert all(not torch.equal(one, other) for one, other in zip(before, run.objective.parameters(), strict=True))
    assert set(run.model.state_dict()) == names
    assert set(run.state.best_weights) == names
    tensors, _ = run.state.capture()
    assert set(tensors["objective"]) == set(run.objective.state_dict())
    lines = [line for line in run.folder.metrics.read() if line["split"] == "train"]
    (own,) = run.objective.networks
    assert all(line["loss"] == line["loss"] and own in {*line, "classifier"} for line in lines)


def test_an_adversary_is_no_part_of_the_loss_that_the_best_step_is_chosen_by():
    run = trainer(change=with_objective("adversarial"))
    output = run._differentiate(run._order(0), 0, 1.0).output
    assert output.losses["prior_discriminator"].min() > 0
    assert torch.equal(output.loss, output.losses["model"])
    found = run._validate()
    assert found["loss"] == pytest.approx(found["reconstruction"] + 2 * found["adversarial"], rel=1e-6)


@pytest.mark.parametrize("name", ["factor", "gan", "per_part"])
def test_a_stop_changes_nothing(name):
    resumes(name)


def test_a_skipped_step_changes_no_network(monkeypatch):
    run = trainer(change=with_objective("factor"))
    run._step(0)
    before = [each.detach().clone() for each in run.state.parameters]
    right = Engine._compute

    def broken(self, *arguments):
        output = right(self, *arguments)
        losses = {**output.losses, "density_ratio": output.losses["density_ratio"] * float("nan")}
        return replace(output, losses=losses)

    monkeypatch.setattr(Engine, "_compute", broken)
    assert run._step(1) == "skip"
    assert all(torch.equal(one, other) for one, other in zip(before, run.state.parameters, strict=True))


def test_compiled_steps_agree_with_plain_ones():
    folder = Path(__file__).parent
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "groups_check.py", "doubly", "gan"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_losses_of_several_groups_share_no_step_with_other_runs():
    runs = [trainer(change=with_objective(name)) for name in ("doubly", "doubly", "path", "path", "factor")]
    assert grouped(runs) == [[0], [1], [2, 3], [4]]


# --- several processes ---

COUPLED = {
    "total": lambda: ELBO() + 4.0 * TotalCorrelation(COUNT),
    "stratified": lambda: ELBO() + 4.0 * TotalCorrelation(COUNT, "stratified"),
    "contrastive": lambda: ELBO() + Contrastive(0.5),
    "per_part": OBJECTIVES["per_part"],
}


def coupled_trainer(name):
    """Return a trainer in float64 whose noise belongs to the example."""
    settings = {"steps": 20, "batch_size": 40, "log_every": 2, "evaluate_every": 10, "checkpoint_every": 10}
    made = exact_trainer("conditional", **settings)
    model, train, validation, config = made.delivered, made.train, made.validation, made.config
    return type(made)(model, COUPLED[name](), train, validation, made.preprocessing, config)


def fitted(run):
    run.fit()
    return numbers(run)


def test_processes_equal_one_where_examples_are_compared():
    """The whole batch is compared, whoever has its examples; the last batch leaves a process of four without one."""
    found = together(4, lambda rank: {name: fitted(coupled_trainer(name)) for name in COUPLED})
    for name in COUPLED:
        alone = fitted(coupled_trainer(name))
        for each in found:
            assert distance(each[name], alone) < 1e-10, name


def test_processes_agree_on_an_adversary():
    def work(rank):
        run = trainer(change=with_objective("factor"), steps=4)
        run.fit()
        return [float(each.detach().double().sum()) for each in run.objective.parameters()]

    one, other = together(2, work)
    assert one == other


# --- every objective with every model ---


def flat(prior):
    networks = (MLP((64,), (4,), hidden=(8,)) for _ in range(2))
    return VAE(prior, DiagonalGaussian(*networks), MLP((4,), (1, 64), hidden=(8,)), Bernoulli((64,)))


def ladder(prior):
    return HierarchicalVAE(prior, MLPBottomUp((64,), 2, 8, 6), MLPTopDown((4, 3), (1, 64), 8, 6), Bernoulli((64,)))


def points(prior):
    return VAE(prior, Dirac(MLP((64,), (4,))), MLP((4,), (1, 64)), Bernoulli((64,)))


MODELS = {"flat": flat, "ladder": ladder, "points": points}
PRIORS = {"plain": lambda: StandardNormal(4), "classes": lambda: ClassConditional(3, 4)}
SHARED = {"doubly", "per_part", "gan"}  # need an encoder and a decoder that share no weights
DENSITY = {"elbo", "path", "sum", "doubly", "per_part", "renyi", "naive", "capacity", "factor", "total", "dip", "m2"}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", [*OBJECTIVES, "naive"])
def test_a_step_of_every_objective_with_every_model(name, kind, prior):
    """It is finite and reaches the networks, or it is refused in one sentence."""
    _, _, train, _, _ = tiny("conditional")
    model = MODELS[kind](PRIORS[prior]())
    sizes = sum(shape[0] for shape in model.level_shapes)
    objective = NaivePenalty() if name == "naive" else OBJECTIVES[name](sizes)

    def step():
        engine = Engine(model, objective, Binarise((64,), "dynamic"), Runtime(torch.device("cpu"), False), 16)
        raw, y = train.batch(torch.arange(16))
        return engine.differentiate(raw, y, 3, 1 / 16)

    if kind == "ladder" and name in SHARED:
        with pytest.raises(UserError, match="x from z share weights"):
            step()
    elif kind == "points" and name in DENSITY:
        with pytest.raises(UserError, match=r"^[A-Z][\w() >]+ needs .*Use DiagonalGaussian"):
            step()
    else:
        found = step()
        assert torch.isfinite(found.loss)
        assert 0 < float(found.norm) < float("inf")
        assert all(bool(torch.isfinite(value).all()) for value in found.output.values.values())


def test_parts_that_share_weights_are_no_halves():
    """A prior that holds the encoder, for instance."""
    model = flat(StandardNormal(4))
    assert set(model.halves) == {"encoder", "decoder"}
    assert len([*model.halves["encoder"], *model.halves["decoder"]]) == len(list(model.parameters()))
    model.prior.encoder = model.posterior
    assert model.halves is None
    with pytest.raises(UserError, match="VAE has no such half"):
        Engine(model, IWAE(gradient="doubly"), Binarise((64,), "dynamic"), Runtime(torch.device("cpu"), False), 16)


def test_a_loss_without_parameters_is_refused():
    class Lost(ELBO):
        groups = ("model", "elsewhere")

    with pytest.raises(UserError, match="a loss called 'elsewhere' and no network of that name"):
        Engine(flat(StandardNormal(4)), Lost(), Binarise((64,), "dynamic"), Runtime(torch.device("cpu"), False), 16)
