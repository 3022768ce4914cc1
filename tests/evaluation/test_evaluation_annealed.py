"""Annealing against exact answers: linear-Gaussian models, and discrete ones that quadrature and enumeration know."""

import itertools
import math

import numpy as np
import pytest
import torch
from exact_models import (
    DIMS,
    LATENT,
    LOADING,
    OFFSET,
    SCALE,
    WEIGHTS,
    affine,
    data,
    linear_vae,
    log_evidence,
    log_joint,
)
from torch.distributions import MultivariateNormal

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Prior
from sfumato.distributions import Delta
from sfumato.evaluation import annealed
from sfumato.evaluation.annealed import (
    Annealing,
    annealed_bound,
    annealed_chains,
    sandwich,
    sigmoid_schedule,
    simulate,
)
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP, WithLabel
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal

SHIFTS = torch.tensor([[0.8, 0.0, -0.6, 0.3], [-0.5, 0.7, 0.0, 0.0], [0.0, -0.4, 0.9, -0.8]]).double()
SHORT = {"temperatures": 8, "chains": 4, "leapfrogs": 3, "burn_in": 7}


def labelled_vae():
    """A linear-Gaussian VAE whose decoder sees the label: p(x | y) = N(b + c_y, W W^T + v I)."""
    model = linear_vae(spread=1.4)
    decoder = MLP((LATENT + 3,), (1, DIMS), hidden=()).double()
    affine(decoder, torch.cat([LOADING, SHIFTS.T], 1), OFFSET)
    prior = ClassConditional(3, LATENT, WEIGHTS).double()
    prior.means.data.zero_()
    prior.log_frequencies.copy_(torch.tensor(WEIGHTS).double().log())
    return VAE(prior, model.posterior, WithLabel(decoder, 3), model.likelihood)


def log_evidence_labelled(x):
    covariance = LOADING @ LOADING.T + SCALE**2 * torch.eye(DIMS).double()
    parts = [MultivariateNormal(OFFSET + shift, covariance).log_prob(x) for shift in SHIFTS]
    return (torch.stack(parts, -1) + torch.tensor(WEIGHTS).double().log()).logsumexp(-1)


def log_evidence_mixture(x):
    return log_joint(x).logsumexp(-1)


CASES = {  # model, log p(x), start, temperatures at which 1/w has no heavy tail
    "prior": (lambda: linear_vae(spread=1.6), log_evidence, "prior", 50),
    "posterior": (lambda: linear_vae(spread=1.6), log_evidence, "posterior", 8),
    "narrow posterior": (lambda: linear_vae(spread=0.6), log_evidence, "posterior", 12),
    "class means": (lambda: linear_vae(1.3, classes="prior"), log_evidence_mixture, "posterior", 12),
    "class means, encoder sees": (lambda: linear_vae(1.5, classes="encoder"), log_evidence_mixture, "posterior", 12),
    "decoder sees": (labelled_vae, log_evidence_labelled, "posterior", 12),
}


def small_bernoulli(classes=0):
    """Five bits from two latent dimensions, whose posteriors are far from normal."""
    torch.manual_seed(1)
    decoder = MLP((2 + classes,), (1, 5), hidden=(8,), activation="tanh")
    decoder.layers[-1].weight.data.mul_(3)
    encoder = [MLP((5,), (2,), hidden=(8,)) for _ in range(2)]
    decoder = WithLabel(decoder, classes) if classes else decoder
    return VAE(StandardNormal(2), DiagonalGaussian(*encoder), decoder, Bernoulli((5,))).double()


def by_quadrature(model, x):
    """Return log p(x) from a product of two 60-point Gauss-Hermite rules, for every class if there are any."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    z = torch.cartesian_prod(nodes, nodes)
    log_mass = torch.cartesian_prod(weights.log(), weights.log()).sum(-1) - math.log(2 * math.pi)
    found = []
    for number in range(model.num_classes or 1):
        y = torch.full((1,), number) if model.num_classes else None
        with torch.no_grad():
            observation = model.decode(z.unsqueeze(1), y)
            found.append(torch.logsumexp(observation.log_prob(x) + log_mass.unsqueeze(-1), 0))
    return torch.stack(found, -1).logsumexp(-1) - math.log(len(found))


def standard_errors(values):
    """Return how many standard errors the mean of ``values``, one for each example, lies from 1."""
    return abs(float(values.mean()) - 1) / (float(values.std()) / math.sqrt(len(values)))


def spied(monkeypatch):
    """Return a list that gets (beta, step sizes) of every Hamiltonian step."""
    calls, own = [], annealed._hamiltonian

    def spy(path, point, beta, step, leapfrogs, noise):
        calls.append((beta, step.clone()))
        return own(path, point, beta, step, leapfrogs, noise)

    monkeypatch.setattr(annealed, "_hamiltonian", spy)
    return calls


def test_the_schedule_is_a_sigmoid_that_meets_both_ends():
    betas = sigmoid_schedule(1_000)
    assert (float(betas[0]), float(betas[-1]), len(betas)) == (0, 1, 1_001)
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas, 1 - betas.flip(0))
    low, quarter, high = (torch.sigmoid(torch.tensor(value).double()) for value in (-4, -2, 4))
    assert float(betas[250]) == pytest.approx(float((quarter - low) / (high - low)), abs=1e-12)
    assert sigmoid_schedule(1).tolist() == [0, 1]


@pytest.mark.parametrize("case", CASES)
def test_every_weight_is_unbiased_in_both_directions_with_few_temperatures(case):
    """E[w / p(x)] = 1 and E[p(x) / w] = 1 hold exactly for any schedule, and see a step that is slightly wrong."""
    build, truth, start, temperatures = CASES[case]
    model, settings, n = build(), Annealing(temperatures, 4, 3, 8, start), 2_000
    found = sandwich(model, n, settings, seed=5)
    exact = truth(simulate(model, n, seed=5)[0])
    assert found.lower.dtype == found.upper.dtype == torch.float64
    assert standard_errors((found.lower - exact).exp()) < 3
    assert standard_errors((exact - found.upper).exp()) < 3
    for error in (exact - found.lower, found.upper - exact):
        assert 3 * float(error.std()) / math.sqrt(n) < float(error.mean()) < 0.5


@pytest.mark.parametrize("case", CASES)
def test_with_enough_temperatures_the_estimate_is_within_a_hundredth_of_a_nat(case):
    build, truth, start, few = CASES[case]
    model, n = build(), 100
    x = simulate(model, n, seed=2)[0]
    error = annealed_bound(model, x, Annealing(8 * few, 32, 2, 20, start), seed=2) - truth(x)
    assert float(error.std()) / math.sqrt(n) < 0.008
    assert abs(float(error.mean())) < 0.01


def test_from_the_prior_every_posterior_is_reached():
    """The encoder of a model with class means knows nothing of them; from the prior nobody asks it."""
    model = linear_vae(spread=1.0, classes="prior")
    found = sandwich(model, 60, Annealing(200, 16, 3, 40, "prior"), seed=1)
    exact = log_evidence_mixture(simulate(model, 60, seed=1)[0])
    assert standard_errors((found.lower - exact).exp()) < 3.5
    assert standard_errors((exact - found.upper).exp()) < 3.5
    assert (found.upper - found.lower).mean() < 0.3


@pytest.mark.parametrize(("classes", "start"), [(0, "prior"), (3, "posterior")])
def test_a_discrete_model_against_quadrature_adds_up_to_one(classes, start):
    model = small_bernoulli(classes)
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 5)
    exact = by_quadrature(model, x)
    assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-6)
    bound = annealed_bound(model, x, Annealing(200, 64, 3, 30, start))
    assert abs(float((bound - exact).mean())) < 0.01
    torch.testing.assert_close(bound, exact, atol=0.15, rtol=0)
    assert float(bound.exp().sum()) == pytest.approx(1, abs=0.01)
    found = sandwich(model, 150, Annealing(60, 8, 3, 30), seed=1)
    truth = by_quadrature(model, simulate(model, 150, seed=1)[0])
    assert standard_errors((truth - found.upper).exp()) < 3.5
    assert standard_errors((found.lower - truth).exp()) < 3.5
    assert (found.upper - found.lower).mean() < 0.1


def test_at_the_exact_posterior_every_chain_has_the_evidence():
    x = data(5)
    chains = annealed_chains(linear_vae(), x, Annealing(6, 3, 2, 4, "posterior"))
    torch.testing.assert_close(chains.log_weights, log_evidence(x).expand(3, 5), atol=1e-10, rtol=0)


def test_one_temperature_is_importance_sampling_from_the_prior(monkeypatch):
    calls = spied(monkeypatch)
    model, x = linear_vae(), data(4)
    chains = annealed_chains(model, x, Annealing(1, 20_000, 5, 5, "prior"))
    assert calls == []
    assert chains.acceptance.isnan().all()
    z = annealed._Noise(x.device, 0).draws(model.prior(), (20_000, 4))
    expected = model.decode(z).log_prob(x)
    torch.testing.assert_close(chains.log_weights.mean(0), expected.mean(0), rtol=0.05, atol=0)
    torch.testing.assert_close(chains.log_weights.std(0), expected.std(0), rtol=0.05, atol=0)


def test_step_sizes_are_frozen_equal_in_both_directions_and_one_for_each_example(monkeypatch):
    calls = spied(monkeypatch)
    settings = Annealing(20, 4, 3, 10, "prior")
    sandwich(small_bernoulli(), 6, settings, seed=1)
    burn_in = annealed.SETTLING + 10
    assert len(calls) == burn_in + 19 + 19
    forwards, backwards = calls[burn_in : burn_in + 19], calls[burn_in + 19 :]
    for (beta, step), (other, back) in zip(forwards, reversed(backwards), strict=True):
        assert beta == pytest.approx(other)
        assert torch.equal(step, back)
    assert [beta for beta, _ in forwards] == sigmoid_schedule(20)[1:-1].tolist()
    assert len(set(forwards[-1][1].tolist())) == 6
    assert not torch.equal(forwards[0][1], forwards[-1][1])
    tuned = [step for _, step in calls[:burn_in]]
    assert all(not torch.equal(*pair) for pair in itertools.pairwise(tuned))


def test_the_chains_that_count_do_not_move_the_step_sizes(monkeypatch):
    """With other noise after the burn-in the step sizes stay."""
    calls = spied(monkeypatch)
    model, x, settings = linear_vae(), data(3), Annealing(12, 4, 3, 6, "prior")
    annealed_bound(model, x, settings, seed=1)
    own = annealed._anneal

    def noisy(path, z, betas, steps, leapfrogs, noise, tick):
        return own(path, z + 1, betas, steps, leapfrogs, annealed._Noise(x.device, 99), tick)

    monkeypatch.setattr(annealed, "_anneal", noisy)
    half = len(calls)
    annealed_bound(model, x, settings, seed=1)
    assert len(calls) == 2 * half
    for (_, step), (_, again) in zip(calls[:half], calls[half:], strict=True):
        assert torch.equal(step, again)


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_the_burn_in_finds_the_acceptance(start):
    for model, x in ((linear_vae(spread=1.5), data(20)), (small_bernoulli(), torch.eye(5).double())):
        acceptance = annealed_chains(model, x, Annealing(60, 32, 3, 60, start)).acceptance
        assert float(acceptance.mean()) == pytest.approx(0.65, abs=0.04)
        assert ((acceptance > 0.5) & (acceptance < 0.8)).all()


def test_a_hamiltonian_step_leaves_its_density_as_it_is():
    """From exact draws of p(z | x), with steps so long that half of them are refused, the moments stay."""
    model, x = linear_vae(), data(1).expand(20_000, DIMS)
    posterior = model.posterior(x)
    with annealed.measuring(model):
        path = annealed._Path(model, x, None, Annealing(1, 1, 1, 1, "prior"), None)
        noise = annealed._Noise(x.device, 3)
        point = path(noise.draws(posterior, (1,)))
        scale = float(posterior.base_dist.scale.mean())
        for _ in range(5):
            point, accepted = annealed._hamiltonian(path, point, 1.0, torch.full((20_000,), 1.7 * scale), 3, noise)
    assert 0.2 < float(accepted.mean()) < 0.9
    standard = ((point.z[0] - posterior.mean) / posterior.base_dist.scale).detach().numpy()
    assert abs(standard.mean(0)).max() < 0.03
    assert abs(standard.var(0) - 1).max() < 0.04


def test_chains_temperatures_and_leapfrogs_are_used_exactly(monkeypatch):
    model, x = small_bernoulli(), torch.eye(5).double()
    rows, ticks = [], []
    model.decoder.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[:-1].numel()))
    settings = Annealing(7, 3, 4, 5)
    assert annealed_chains(model, x, settings, tick=lambda: ticks.append(1)).log_weights.shape == (3, 5)
    burn_in = annealed.SETTLING + 5
    assert sum(rows) == 3 * 5 * (1 + 4 * burn_in + 1 + 4 * 6)
    assert len(ticks) == settings.rungs == burn_in + 7
    assert Annealing(1).rungs == 1


@pytest.mark.parametrize("classes", [0, 3])
def test_the_block_changes_no_draw(classes):
    model, settings = small_bernoulli(classes), Annealing(**SHORT)
    x = torch.eye(5).double()[:3]
    whole = annealed_bound(model, x, settings, seed=3)
    pair = sandwich(model, 3, settings, seed=3)
    for block in (1, 9):  # of 3 x 4 rows, which are one block otherwise
        torch.testing.assert_close(annealed_bound(model, x, settings, seed=3, block=block), whole)
        torch.testing.assert_close(sandwich(model, 3, settings, seed=3, block=block).upper, pair.upper)
    assert not torch.equal(annealed_bound(model, x, settings, seed=4), whole)


def test_the_seed_repeats_and_nothing_else_has_changed():
    model, x, settings = small_bernoulli().train(), torch.eye(5).double(), Annealing(**SHORT)
    before = torch.random.get_rng_state()
    first, pair = annealed_bound(model, x, settings, seed=1), sandwich(model, 4, settings, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(annealed_bound(model, x, settings, seed=1), first)
    assert torch.equal(sandwich(model, 4, settings, seed=1).upper, pair.upper)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_defect_6_a_broken_example_is_not_dropped():
    x = data(3)
    x[1] = torch.nan
    assert annealed_bound(linear_vae(), x, Annealing(**SHORT)).isnan().tolist() == [False, True, False]


def test_float32_agrees_with_float64():
    model, x, settings = linear_vae(spread=1.3), data(40), Annealing(40, 16, 3, 20)
    wide = annealed_bound(model, x, settings)
    narrow = annealed_bound(linear_vae(spread=1.3).float(), x.float(), settings)
    assert narrow.dtype == torch.float64
    assert abs(float((narrow - wide).mean())) < 0.01


class PointPrior(Prior):
    """A prior without a density."""

    latent_shape = (2,)

    def forward(self, y=None):
        return Delta(torch.zeros(2))


class Deaf(Network):
    """A decoder without a gradient."""

    def __init__(self):
        super().__init__((2,), (1, 5))
        self.bias = torch.nn.Parameter(torch.zeros(5))

    def compute(self, x):
        return x.detach().sum(-1, keepdim=True).round().expand(-1, 5)


def test_parts_that_cannot_be_annealed_are_refused_with_the_reason():
    encoder, decoder, x = MLP((5,), (2,)), MLP((2,), (1, 5)), torch.zeros(2, 5)
    point = VAE(StandardNormal(2), Dirac(encoder), decoder, Bernoulli((5,)))
    with pytest.raises(UserError, match="Delta, a part of this model, has none"):
        annealed_bound(point, x, Annealing(**SHORT))
    assert annealed_bound(point, x, Annealing(**SHORT, start="prior")).isfinite().all()
    gaussian = DiagonalGaussian(encoder, MLP((5,), (2,)))
    for call in (lambda model: annealed_bound(model, x, Annealing(**SHORT)), lambda model: sandwich(model, 2)):
        with pytest.raises(UserError, match="needs the densities"):
            call(VAE(PointPrior(), gaussian, decoder, Bernoulli((5,))))
        with pytest.raises(UserError, match="gradient"):
            call(VAE(StandardNormal(2), gaussian, Deaf(), Bernoulli((5,))))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperatures": 0}, "temperatures must be a whole number from 1"),
        ({"chains": 0}, "chains"),
        ({"leapfrogs": -1}, "leapfrogs"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(UserError, match=message):
        Annealing(**wrong)
