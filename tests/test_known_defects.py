"""Defects of existing VAE software, one test each. The numbers are those of the list that the project keeps of them.

Some are here; the others are held by the tests of the room they belong to, and :data:`HELD` says by which.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from proofs.short_forms import missing_tests
from torch.distributions import Normal, kl_divergence

from sfumato.core.errors import UserError
from sfumato.core.schedules import Constant, WarmUp, WarmUpCosine
from sfumato.data import Examples
from sfumato.likelihoods import Bernoulli, Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO, IWAE
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.training import TrainingConfig
from sfumato.training.state import TrainingState
from sfumato.training.validation import validate

BOUNDS, EVALUATION, LOOP = (
    "evaluation/test_evaluation_bounds",
    "evaluation/test_evaluation_whole",
    "training/test_training_loop",
)
PROCESSES, STREAMS = "training/test_training_processes", "data/test_data_streams"
HERE = "test_known_defects"
HELD = {
    1: [f"{HERE}::test_defect_1_reconstruction_and_kl_are_both_summed"],
    2: [f"{HERE}::test_defect_2_the_kl_weight_is_one_by_default_and_reaches_beta_after_every_warm_up"],
    3: [
        f"{HERE}::test_defect_3_validation_has_the_kl_weight_of_training",
        f"{LOOP}::test_defect_3_validation_and_training_report_the_same_objective_at_the_same_beta",
    ],
    4: [f"{BOUNDS}::test_defect_4_exactly_k_draws_are_decoded_and_the_encoder_runs_once"],
    5: [
        f"{LOOP}::test_defect_5_the_last_small_batch_counts_what_it_should",
        f"{EVALUATION}::test_defect_5_means_are_over_examples_and_agree_with_the_exact_answer",
    ],
    6: [
        f"{BOUNDS}::test_defect_6_a_broken_example_is_not_dropped",
        f"{EVALUATION}::test_defect_6_one_bad_example_shows",
    ],
    7: [f"{PROCESSES}::test_processes_equal_one", f"{PROCESSES}::test_a_flipped_bit_is_found_and_the_process_named"],
    8: [
        "data/test_data_order::test_every_epoch_visits_every_example_once",
        f"{STREAMS}::test_every_example_comes_once_an_epoch_and_ranks_share_one",
        f"{PROCESSES}::test_every_example_of_a_batch_once",
    ],
    9: [f"{LOOP}::test_defect_9_clipping_is_after_the_backward_pass_and_before_the_step"],
    10: ["training/test_training_resume::test_defect_10_resume_pairs_current_weights_with_the_current_optimizer"],
    11: [
        f"{HERE}::test_defect_11_the_learned_variance_is_trained",
        f"{LOOP}::test_defect_11_a_learned_variance_is_in_the_optimizer",
    ],
    12: ["exchange/test_exchange_diffusers::test_export_of_a_run"],
    13: ["data/test_data_inspection::test_the_test_split_decides_nothing"],
    14: [
        "io/test_io_model::test_a_pickle_offered_as_a_model",
        f"{HERE}::test_defect_14_nothing_in_the_package_pickles",
    ],
    15: [f"{LOOP}::test_defect_15_bf16_is_for_training_steps_only"],
    16: [
        f"{HERE}::test_defect_16_a_bernoulli_log_likelihood_is_that_of_a_bit",
        f"{EVALUATION}::test_defect_16_grey_values_under_bernoulli_are_refused",
    ],
    17: [f"{HERE}::test_defect_17_the_kl_is_reported_with_its_own_sign"],
    18: [f"{HERE}::test_defect_18_no_log_variance_is_too_large"],
    19: [f"{PROCESSES}::test_validation_is_that_of_one_to_the_last_bit"],
    20: [
        f"{HERE}::test_defect_20_the_reported_importance_bound_is_the_bound",
        f"{BOUNDS}::test_defect_20_the_bound_has_no_log_k_too_much_and_rises_with_k",
    ],
}


def test_every_row_of_the_list_is_held_by_a_test() -> None:
    assert sorted(HELD) == list(range(1, 21))
    assert [test for tests in HELD.values() for test in missing_tests(tests)] == []


def test_defect_14_nothing_in_the_package_pickles() -> None:
    """No module imports a pickler, and nothing calls torch's own loading and saving."""
    source = Path(__file__).parents[1] / "src"
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"pickle", "joblib", "dill", "cloudpickle", "shelve"}, (
                path
            )
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr not in ("load", "save"), path


def vae(size: int = 3, likelihood=None) -> VAE:
    posterior = DiagonalGaussian(MLP((size,), (2,)), MLP((size,), (2,)))
    likelihood = likelihood or Gaussian((size,), variance="fixed")
    return VAE(StandardNormal(2), posterior, MLP((2,), likelihood.parameter_shape), likelihood)


@pytest.mark.parametrize("size", [1, 10, 784])
def test_defect_1_reconstruction_and_kl_are_both_summed(size: int) -> None:
    """Averaging one of them over its dimensions is a silent beta of hundreds."""
    model, x = vae(size), torch.randn(4, size)
    terms = model(x)
    output = ELBO()(terms, 0)
    mean = model.decode(terms.z[0]).mean[0]
    reconstruction = -Normal(mean, torch.ones(())).log_prob(x).sum(-1)
    q = terms.levels[0].posterior.base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(torch.zeros(()), torch.ones(()))).sum(-1)
    torch.testing.assert_close(output.values["reconstruction"], reconstruction)
    torch.testing.assert_close(output.values["kl"], kl)
    torch.testing.assert_close(output.losses["model"], reconstruction + kl)


def test_defect_2_the_kl_weight_is_one_by_default_and_reaches_beta_after_every_warm_up() -> None:
    terms = vae()(torch.randn(4, 3))
    full = ELBO()(terms, 0).losses["model"]
    reconstruction = -terms.log_likelihood[0]
    assert (full - reconstruction > 0).all(), "the KL term is there"
    for schedule in (Constant(), WarmUp(1), WarmUp(1000, start=0.5)):
        assert torch.equal(ELBO(schedule=schedule)(terms, 1000).losses["model"], full)
    with pytest.raises(UserError, match="ends at beta"):
        ELBO(schedule=WarmUpCosine(1000))


class Few(Examples):
    """Four rows."""

    def __init__(self) -> None:
        self.x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return 4

    def batch(self, indices):
        return self.x[indices], None


@pytest.mark.parametrize("step", [0, 5, 10, 50])
def test_defect_3_validation_has_the_kl_weight_of_training(step: int) -> None:
    model, objective, rows = vae(), ELBO(beta=3.0, schedule=WarmUp(10)), Few()
    weight = 3.0 * min(1.0, step / 10)
    found = validate(model, objective, rows, torch.nn.Identity(), step, 50, 0, torch.device("cpu"))
    assert found["loss"] == pytest.approx(found["reconstruction"] + weight * found["kl"], rel=1e-5)
    assert found["final_loss"] == pytest.approx(found["reconstruction"] + 3.0 * found["kl"], rel=1e-5)


@pytest.mark.parametrize("variance", ["shared", "per_dimension"])
def test_defect_11_the_learned_variance_is_trained(variance: str) -> None:
    model = vae(likelihood=Gaussian((3,), variance=variance))
    optimizer = TrainingState(model, TrainingConfig(steps=10)).optimizer
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(model.likelihood.log_variance) in trained
    before = model.likelihood.log_variance.detach().clone()
    ELBO()(model(torch.randn(4, 3)), 0).losses["model"].mean().backward()
    optimizer.step()
    assert (model.likelihood.log_variance != before).all()


def test_defect_16_a_bernoulli_log_likelihood_is_that_of_a_bit() -> None:
    """Every data set has mass 1: over all binary images the masses sum to one. Grey values are refused by the data."""
    likelihood = Bernoulli((3,))
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    total = likelihood(torch.randn(1, 3)).log_prob(images).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-6)


def test_defect_17_the_kl_is_reported_with_its_own_sign() -> None:
    for kl in ("analytic", "sampled"):
        terms = vae()(torch.randn(64, 3), None, 50)
        values = ELBO(kl=kl)(terms, 0).values
        assert float(values["kl"].mean()) > 0
        torch.testing.assert_close(values["elbo"], -values["reconstruction"] - values["kl"])
    assert (values["kl_mean"] >= 0).all()
    assert (values["kl_variance"] >= 0).all()


@pytest.mark.parametrize("value", [1e4, 1e9, -1e9, math.inf])
def test_defect_18_no_log_variance_is_too_large(value: float) -> None:
    model = vae()
    torch.nn.init.constant_(model.posterior.log_variance.layers[-1].bias, value)
    output = ELBO()(model(torch.randn(4, 3)), 0)
    output.losses["model"].mean().backward()
    assert torch.isfinite(output.losses["model"]).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_defect_20_the_reported_importance_bound_is_the_bound(k: int) -> None:
    """K is the number of samples inside the logarithm; no surrogate, whose value is too high, under its name."""
    terms = vae()(torch.randn(4, 3), None, IWAE(samples=k).samples)
    output = IWAE(samples=k)(terms, 0)
    weights = terms.log_likelihood + terms.log_prior - terms.log_posterior
    assert weights.shape == (k, 4)
    bound = torch.stack([torch.logsumexp(weights[:, row], 0) - math.log(k) for row in range(4)])
    torch.testing.assert_close(output.values["iwae"], bound)
    torch.testing.assert_close(output.losses["model"], -bound)
    surrogate = (weights.softmax(0) * weights).sum(0)
    assert k == 1 or (surrogate > bound).all()
