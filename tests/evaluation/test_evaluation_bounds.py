import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_models import MEANS, data, linear_vae, log_evidence, log_joint
from torch import nn

from sfumato.core.errors import UserError
from sfumato.evaluation import bounds, class_bounds, class_posterior, elbo_terms, evidence_bound, importance_bound
from sfumato.evaluation.bounds import DRAWN_ROWS
from sfumato.evaluation.measuring import measuring
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import StandardNormal


def small_bernoulli(seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(
        StandardNormal(1),
        DiagonalGaussian(MLP((5,), (1,), hidden=(8,)), MLP((5,), (1,), hidden=(8,))),
        MLP((1,), (1, 5), hidden=(8,), activation="tanh"),
        Bernoulli((5,)),
    ).double()


@pytest.mark.parametrize("samples", [1, 2, 7, 50])
def test_at_the_exact_posterior_every_bound_is_the_evidence(samples):
    x = data(9)
    bound = importance_bound(linear_vae(), x, samples=samples, seed=samples)
    torch.testing.assert_close(bound, log_evidence(x), atol=1e-10, rtol=0)
    assert bound.dtype == torch.float64


def test_elbo_at_the_exact_posterior_with_sampled_terms_is_the_evidence():
    """With the sampled KL every draw gives log p(x); the closed form agrees in the mean over draws."""
    x = data(5)
    found = elbo_terms(linear_vae(), x, samples=20_000)
    torch.testing.assert_close(found["elbo"], log_evidence(x), atol=0.05, rtol=0)
    torch.testing.assert_close(found["kl"], found["kl_mean"] + found["kl_variance"])


def test_defect_20_the_bound_has_no_log_k_too_much_and_rises_with_k():
    x = data(200)
    model, exact = linear_vae(spread=1.8), log_evidence(x)
    means = [float((importance_bound(model, x, samples=k) - exact).mean()) for k in (1, 4, 16, 256)]
    assert means == sorted(means)
    assert means[0] < -0.3
    assert abs(means[-1]) < 0.02
    one = elbo_terms(model, x, samples=4_000)["elbo"]
    many = torch.stack([importance_bound(model, x, samples=1, seed=seed) for seed in range(300)]).mean(0)
    torch.testing.assert_close(many, one, atol=0.5, rtol=0)
    assert abs(float((many - one).mean())) < 0.02


def test_a_discrete_model_against_quadrature():
    model = small_bernoulli()
    # As wide as the prior, so that the weights are bounded.
    model.posterior.log_variance.layers[-1].weight.data.zero_()
    model.posterior.log_variance.layers[-1].bias.data.fill_(0.5)
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 5)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.from_numpy(nodes).unsqueeze(-1)
    with torch.no_grad():
        observation = model.likelihood(model.decoder(z).unsqueeze(1))
        log_weights = torch.from_numpy(np.log(weights) - 0.5 * math.log(2 * math.pi)).unsqueeze(-1)
        exact = torch.logsumexp(observation.log_prob(x) + log_weights, 0)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-10)
    bound = importance_bound(model, x, samples=20_000)
    torch.testing.assert_close(bound, exact, atol=0.04, rtol=0)
    assert abs(float((bound - exact).mean())) < 0.005
    assert float(bound.exp().sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("samples", "block"), [(1, None), (37, None), (100, 64), (5_001, None)])
def test_defect_4_exactly_k_draws_are_decoded_and_the_encoder_runs_once(samples, block):
    model, x = small_bernoulli(), torch.ones(6, 5).double()
    rows, calls = [], []
    model.decoder.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[:-1].numel()))
    model.posterior.register_forward_hook(lambda *_: calls.append(1))
    importance_bound(model, x, samples=samples, block=block)
    assert sum(rows) == samples * 6
    assert len(calls) == 1
    assert max(rows) <= (block or DRAWN_ROWS)


def test_the_block_changes_no_draw():
    model, x = small_bernoulli(), torch.eye(5).double()
    whole = importance_bound(model, x, samples=80, seed=3)
    for block in (1, 7, 100, 10**9):
        torch.testing.assert_close(importance_bound(model, x, samples=80, seed=3, block=block), whole)
    assert not torch.equal(importance_bound(model, x, samples=80, seed=4), whole)


def test_the_seed_repeats_and_torchs_own_state_is_left_alone():
    model, x = small_bernoulli(), torch.eye(5).double()
    before = torch.random.get_rng_state()
    first = importance_bound(model, x, samples=10, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(importance_bound(model, x, samples=10, seed=1), first)


def test_the_streamed_sum_survives_tiny_likelihoods():
    model = linear_vae(spread=0.5)
    x = 1e3 * data(3)
    bound = importance_bound(model, x, samples=50)
    assert bound.isfinite().all()
    assert (bound < -1e4).all()


def test_defect_6_a_broken_example_is_not_dropped():
    x = data(3)
    x[1] = torch.nan
    assert importance_bound(linear_vae(), x, samples=20).isnan().tolist() == [False, True, False]


def test_a_point_mass_is_refused_with_the_reason():
    model = VAE(StandardNormal(1), Dirac(MLP((5,), (1,))), MLP((1,), (1, 5)), Bernoulli((5,)))
    with pytest.raises(UserError, match=r"Dirac is a point mass.*DiagonalGaussian"):
        importance_bound(model, torch.zeros(2, 5), samples=3)
    with pytest.raises(UserError, match="1 or more; got 0"):
        importance_bound(small_bernoulli(), torch.zeros(2, 5).double(), samples=0)


def test_exact_conditional_evidence_and_bayes_with_an_encoder_that_sees_the_label():
    model, x, joint = linear_vae(classes="encoder"), data(8), log_joint(data(8))
    for number, centre in enumerate(MEANS):
        bound = importance_bound(model, x, torch.full((8,), number), samples=3)
        torch.testing.assert_close(bound, log_evidence(x, centre), atol=1e-10, rtol=0)
    torch.testing.assert_close(evidence_bound(model, x, samples=3), joint.logsumexp(-1), atol=1e-10, rtol=0)
    torch.testing.assert_close(class_posterior(model, x, samples=3), joint.log_softmax(-1), atol=1e-10, rtol=0)


def test_evidence_of_unlabelled_x_when_only_the_prior_sees_the_label():
    model, x, joint = linear_vae(spread=1.3, classes="prior"), data(8), log_joint(data(8))
    evidence = evidence_bound(model, x, samples=20_000)
    torch.testing.assert_close(evidence, joint.logsumexp(-1), atol=0.05, rtol=0)
    mixture = importance_bound(model, x, samples=50, seed=2)
    torch.testing.assert_close(evidence_bound(model, x, samples=50, seed=2), mixture, atol=1e-10, rtol=0)
    shared = class_bounds(model, x, samples=50, seed=2)
    for number in range(3):
        own = importance_bound(model, x, torch.full((8,), number), samples=50, seed=2)
        torch.testing.assert_close(shared[:, number], own, atol=1e-10, rtol=0)
    posterior = class_posterior(model, x, samples=20_000).exp()
    torch.testing.assert_close(posterior, joint.softmax(-1), atol=0.02, rtol=0)


def test_shared_draws_are_decoded_once_for_all_classes():
    model = linear_vae(classes="prior")
    rows = []
    model.decoder.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[:-1].numel()))
    class_bounds(model, data(4), samples=25)
    assert sum(rows) == 25 * 4


def test_a_decoder_that_sees_the_label_with_equal_classes():
    torch.manual_seed(0)
    model = VAE(
        StandardNormal(1),
        DiagonalGaussian(MLP((5,), (1,)), MLP((5,), (1,))),
        WithLabel(MLP((4,), (1, 5)), 3),
        Bernoulli((5,)),
    )
    x = torch.eye(5)
    bounds = torch.stack([importance_bound(model, x, torch.full((5,), y), samples=40) for y in range(3)], -1)
    expected = bounds.logsumexp(-1) - math.log(3)
    torch.testing.assert_close(evidence_bound(model, x, samples=40), expected, atol=1e-6, rtol=0)


def test_class_bounds_need_classes():
    with pytest.raises(UserError, match="no classes"):
        class_bounds(linear_vae(), data(2), samples=1)


def test_measuring_restores_every_module_and_refuses_narrow_weights():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(2, 2)))
    model[1].eval()
    seen = []
    with pytest.raises(ZeroDivisionError), measuring(model):
        seen.append((model.training, torch.is_grad_enabled(), 1 / 0))
    assert seen == []
    with measuring(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False, False]
    with pytest.raises(UserError, match="float32 or wider"), measuring(model.bfloat16()):
        pass


def test_bounds_ignore_autocast():
    model, x = small_bernoulli().float(), torch.eye(5)
    plain = importance_bound(model, x, samples=10)
    exact = importance_bound(small_bernoulli(), x.double(), samples=4_000)
    torch.testing.assert_close(importance_bound(model, x, samples=4_000), exact, atol=0.1, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        with measuring(model):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.equal(importance_bound(model, x, samples=10), plain)
        assert elbo_terms(model, x)["elbo"].dtype == torch.float32


@pytest.mark.parametrize("check", ["agrees", "goes_on"])
def test_a_compiled_bound(check):
    program = Path(__file__).with_name("compiled_bound.py")
    done = subprocess.run([sys.executable, program, check], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_compiling_pays_for_long_evaluations_only():
    model = linear_vae()
    size = sum(parameter.numel() for parameter in model.decoder.parameters())
    assert not bounds.pays_to_compile(model, int(0.9e13 / size))
    assert bounds.pays_to_compile(model, int(1.1e13 / size))
