"""The terms that are added to a bound, against exact values and independent computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from exact_models import MEANS, data, linear_vae, log_evidence
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.gaussians import independent_normal
from sfumato.core.interfaces import Network
from sfumato.core.schedules import WarmUp
from sfumato.core.terms import Level, Terms
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
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
    PriorEnergy,
    Renyi,
    SemiSupervised,
    TotalCorrelation,
)
from sfumato.objectives.density_ratio import permuted
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import StandardNormal


def record(mean: Tensor, log_variance: Tensor, z: Tensor, y: Tensor | None = None) -> Terms:
    """Return terms of a flat model with this posterior and these draws, under N(0, I)."""
    zero = torch.zeros(mean.shape[1]).double()
    level = Level(z, independent_normal(mean, log_variance), independent_normal(zero, zero))
    return Terms(torch.zeros(len(mean), 1).double(), y, (level,), independent_normal(z[..., :1], zero[:1]))


def value(objective, terms: Terms, step: int = 0) -> Tensor:
    return objective(terms, step).losses["model"]


# --- Renyi, capacity, energy ---


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_renyi_by_hand(alpha: float) -> None:
    terms = linear_vae(spread=1.5)(data(4), None, 7)
    weights = terms.log_weights.detach().numpy()
    power = 1 - alpha
    by_hand = np.log(np.exp(power * weights).mean(0)) / power if power else weights.mean(0)
    torch.testing.assert_close(value(Renyi(alpha, samples=7), terms).detach(), -torch.tensor(by_hand))
    if alpha == 0:
        torch.testing.assert_close(value(Renyi(0.0, 7), terms), value(IWAE(7), terms))
    near = value(Renyi(1 + 1e-7, 7), terms)
    torch.testing.assert_close(near, value(ELBO(kl="sampled", samples=7), terms), rtol=1e-4, atol=1e-4)


def test_renyi_at_the_exact_posterior_is_the_evidence() -> None:
    x = data(3)
    for alpha in (-1.0, 0.3, 1.0, 3.0):
        torch.testing.assert_close(-value(Renyi(alpha, 5), linear_vae()(x, None, 5)).detach(), log_evidence(x))


def test_capacity_by_hand() -> None:
    terms = linear_vae(spread=0.5)(data(4))
    kl = terms.kl.sum(0)
    assert kl.min() < 4.25 < kl.max()
    objective = Capacity(8.5, WarmUp(steps=10))
    for step, allowed in ((0, 0.0), (5, 4.25), (10, 8.5), (99, 8.5)):
        torch.testing.assert_close(value(objective, terms, step), (kl - allowed).abs())
        assert float(objective(terms, step).values["capacity"][0]) == allowed
    whole = ELBO(beta=0) + 100 * objective
    torch.testing.assert_close(value(whole, terms, 5), -terms.log_likelihood[0] + 100 * (kl - 4.25).abs())


def test_the_energy_of_a_point_is_half_its_square() -> None:
    model = VAE(StandardNormal(2), Dirac(MLP((3,), (2,))), MLP((2,), (1, 3)), Gaussian((3,), "fixed")).double()
    terms = model(torch.ones(2, 3).double())
    expected = 0.5 * terms.z[0][0].square().sum(-1) + math.log(2 * math.pi)
    torch.testing.assert_close(value(PriorEnergy(), terms), expected)
    both = value(ELBO(beta=0) + 0.1 * PriorEnergy(), terms)
    torch.testing.assert_close(both, -terms.log_likelihood[0] + 0.1 * expected)


# --- total correlation ---

CENTRES = torch.tensor([[0.0, 0.0], [1.5, 1.0], [-1.0, -2.0], [2.0, 2.5]]).double()
SCALE = 0.7


def mixture(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exact log q(z), and log q(z_d) for every dimension, of the four posteriors."""
    each = torch.distributions.Normal(CENTRES, SCALE).log_prob(z.unsqueeze(1))
    return each.sum(-1).logsumexp(1) - math.log(4), each.logsumexp(1) - math.log(4)


def exact_total_correlation() -> float:
    """By quadrature on a grid."""
    line = torch.linspace(-6, 7, 261).double()
    grid = torch.cartesian_prod(line, line)
    joint, each = mixture(grid)
    return float((joint.exp() * (joint - each.sum(-1))).sum() * (line[1] - line[0]) ** 2)


def test_weighted_total_correlation_of_all_data_is_the_exact_one_and_a_known_constant() -> None:
    """With the whole split in the batch every density is too low by log N: that of z once, those of z_d d times."""
    rows = CENTRES.repeat(500, 1)
    z = rows + SCALE * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
    exact = exact_total_correlation()
    assert exact > 0.3
    joint, each = mixture(z)
    sampled = float((joint - each.sum(-1)).mean())
    error = float((joint - each.sum(-1)).std()) / 2000**0.5
    assert abs(sampled - exact) < 4 * error
    found = []
    for start in range(0, 2000, 4):
        part = record(
            CENTRES, torch.full((4, 2), 2 * math.log(SCALE), dtype=torch.float64), z[start : start + 4].unsqueeze(0)
        )
        found.append(float(value(TotalCorrelation(size=4), part)[0]))
    assert np.mean(found) - math.log(4) == pytest.approx(sampled, abs=1e-10)


def test_stratified_weights_have_no_bias() -> None:
    """Over all batches of 3 of the 4 examples that begin with one, the mean of the estimate of q(z) is q(z)."""
    objective = TotalCorrelation(size=4, sampling="stratified")
    z = torch.tensor([0.4, -0.3]).double()
    joint, each = mixture(z.unsqueeze(0))
    for first in range(4):
        estimates = []
        for others in itertools.permutations([other for other in range(4) if other != first], 2):
            centres = CENTRES[[first, *others]]
            row = z.expand(3, 2)  # of which the first is scored
            found = objective.log_densities(row, centres, torch.full((3, 2), SCALE, dtype=torch.float64))
            estimates.append([float(found[0][0].exp()), *found[1][0].exp().tolist()])
        expected = [float(joint.exp()), *each[0].exp().tolist()]
        assert np.mean(estimates, 0).tolist() == pytest.approx(expected, rel=1e-12)


def test_total_correlation_of_a_batch_by_loops() -> None:
    torch.manual_seed(1)
    mean, log_variance = torch.randn(2, 5, 3).double()
    z = torch.randn(2, 5, 3).double()
    for sampling, weight in (("weighted", lambda i, j: 1 / (50 * 5)), ("stratified", stratified_weight)):
        total = 0.0
        for i in range(5):
            table = np.array(
                [
                    [
                        math.exp(-0.5 * (z[0, i, d] - mean[j, d]) ** 2 / math.exp(log_variance[j, d]))
                        / math.sqrt(2 * math.pi * math.exp(log_variance[j, d]))
                        for d in range(3)
                    ]
                    for j in range(5)
                ]
            )
            weights = np.array([weight(i, j) for j in range(5)])
            total += np.log(weights @ table.prod(1)) - np.log(weights @ table).sum()
        found = value(TotalCorrelation(50, sampling), record(mean, log_variance, z))
        torch.testing.assert_close(found, torch.full((5,), total / 5, dtype=torch.float64))


def stratified_weight(i: int, j: int) -> float:
    if i == j:
        return 1 / 50
    return (50 - 4) / (50 * 4) if j == (i + 1) % 5 else 1 / 4


def test_a_batch_of_one_has_no_total_correlation() -> None:
    for sampling in ("weighted", "stratified"):
        one = record(torch.ones(1, 2).double(), torch.zeros(1, 2).double(), torch.zeros(1, 1, 2).double())
        assert float(value(TotalCorrelation(9, sampling), one)) == pytest.approx(0, abs=1e-12)


# --- covariance, kernels, labels ---


@pytest.mark.parametrize("kind", ["I", "II"])
def test_dip_by_numpy(kind: str) -> None:
    torch.manual_seed(2)
    mean, log_variance = torch.randn(2, 6, 3).double()
    covariance = np.cov(mean.numpy(), rowvar=False, bias=True)
    covariance += np.diag(log_variance.exp().mean(0).numpy()) if kind == "II" else 0
    off = covariance - np.diag(np.diag(covariance))
    expected = 2.0 * (off**2).sum() + 3.0 * ((np.diag(covariance) - 1) ** 2).sum()
    found = value(DIP(kind, 2.0, 3.0), record(mean, log_variance, mean.unsqueeze(0)))
    torch.testing.assert_close(found, torch.full((6,), expected, dtype=torch.float64))


def expected_kernel(kernel: str, scale: float, apart: float, variance: float) -> float:
    """Return E k(a, b) in two dimensions, a - b from N((apart, 0), variance I)."""
    size = 4 * scale**2

    def gaussian(width: float) -> float:
        """E exp(-|a - b|^2 / width)."""
        return math.exp(-(apart**2) / (width + 2 * variance)) / (1 + 2 * variance / width)

    if kernel == "rbf":
        return gaussian(size)
    times, weights = np.polynomial.laguerre.laggauss(60)  # C / (C + r^2) is the mean of exp(-t r^2 / C) over t
    return float(sum(weight * gaussian(size / time) for time, weight in zip(times, weights, strict=True)))


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_of_gaussians_is_the_closed_form_on_average(kernel: str) -> None:
    """N((1, 0), 0.25 I) and N(0, I), from batches of 8: without bias, where the usual estimate is far too high."""
    torch.manual_seed(4)
    scales = (0.5, 1.5)
    exact = np.mean(
        [
            expected_kernel(kernel, s, 0, 0.5)
            + expected_kernel(kernel, s, 0, 2)
            - 2 * expected_kernel(kernel, s, 1, 1.25)
            for s in scales
        ]
    )
    objective, found = MMD(kernel, scales), []
    for _ in range(1500):
        z, u = 0.5 * torch.randn(8, 2).double(), torch.randn(8, 2).double()
        z[:, 0] += 1
        found.append(float(objective.distance(z, u)))
    error = np.std(found) / len(found) ** 0.5
    assert error < 0.05 * exact
    assert abs(np.mean(found) - exact) < 4 * error


def test_contrastive_by_loops() -> None:
    torch.manual_seed(5)
    z, y = torch.randn(6, 3).double(), torch.tensor([0, 0, 1, -1, 0, 2])
    losses = []
    for i in range(6):
        similar = [float(torch.cosine_similarity(z[i], z[a], 0)) / 0.4 for a in range(6)]
        below = sum(math.exp(similar[a]) for a in range(6) if a != i)
        alike = [p for p in range(6) if p != i and y[p] == y[i] >= 0]
        losses.append(-np.mean([math.log(math.exp(similar[p]) / below) for p in alike]) if alike else 0.0)
    found = value(Contrastive(0.4), record(z, torch.zeros(6, 3).double(), z.unsqueeze(0), y))
    torch.testing.assert_close(found, torch.full((6,), np.mean(losses), dtype=torch.float64))


# --- networks of their own ---


class Given(Network):
    """A function in the place of a network."""

    def __init__(self, function, size: int, out: int = 1) -> None:
        super().__init__((size,), (out,))
        self.function = function

    def compute(self, x: Tensor) -> Tensor:
        return self.function(x).reshape(len(x), -1)


def test_the_best_discriminator_gives_the_total_correlation() -> None:
    """Two numbers of correlation 0.8: log q(z) - log q(z_1) q(z_2) is quadratic, its mean -1/2 log(1 - 0.64)."""
    torch.manual_seed(6)
    whole = torch.distributions.MultivariateNormal(
        torch.zeros(2).double(), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    )
    alone = torch.distributions.Normal(torch.zeros(2).double(), 1.0)
    best = DensityRatio(Given(lambda z: whole.log_prob(z) - alone.log_prob(z).sum(-1), 2))
    z = whole.sample((4000,))
    output = best(record(z, torch.zeros_like(z), z.unsqueeze(0)), 0)
    ratio, exact = output.losses["model"], -0.5 * math.log(1 - 0.64)
    assert abs(float(ratio.mean()) - exact) < 4 * float(ratio.std()) / 4000**0.5
    for other in (lambda z: 0.5 * best.discriminator.function(z), lambda z: best.discriminator.function(z) + 0.4):
        worse = DensityRatio(Given(other, 2))(record(z, torch.zeros_like(z), z.unsqueeze(0)), 0)
        assert worse.losses["density_ratio"].mean() > output.losses["density_ratio"].mean()


def test_permuted_codes_keep_every_dimension_and_lose_what_joins_them() -> None:
    z = torch.arange(300.0).unsqueeze(1).expand(300, 3).contiguous()
    mixed = permuted(z)
    assert torch.equal(mixed.sort(0).values, z)
    assert abs(float(torch.corrcoef(mixed.T)[0, 1])) < 0.2
    assert not torch.equal(mixed[:, 0], mixed[:, 1])


def test_adversarial_prior_by_hand() -> None:
    z, u = torch.tensor([[0.5], [-1.0]]).double(), torch.tensor([[0.2], [2.0]]).double()
    terms = record(z, torch.zeros_like(z), z.unsqueeze(0))
    terms = Terms(terms.x, None, terms.levels, terms.observation, draw_prior=lambda: u)
    output = AdversarialPrior(Given(lambda rows: 2 * rows + 1, 1))(terms, 0)
    d = torch.sigmoid(2 * z + 1).squeeze(1), torch.sigmoid(2 * u + 1).squeeze(1)
    torch.testing.assert_close(output.losses["model"], -d[0].log())
    torch.testing.assert_close(output.losses["prior_discriminator"], -d[1].log() - (1 - d[0]).log())
    torch.testing.assert_close(output.loss, output.losses["model"])


def test_learned_similarity_by_hand() -> None:
    model, x = linear_vae(), data(3)
    objective = LearnedSimilarity(Given(lambda rows: rows[:, :2] * 3, 4, 2), Given(lambda f: f.sum(1), 2), 0.25)
    terms = model(x)
    new = torch.tensor([[0.1, 0.2]]).double().expand(3, 2)
    terms.__dict__["draw_prior"] = lambda: new
    output = objective(terms, 0)
    again, made = (model.likelihood(model.decoder(z)).mean for z in (terms.z[0][0], new))
    real, fake, other = (torch.sigmoid(3 * rows[:, :2].sum(1)) for rows in (x, again, made))
    distance = 0.5 * 9 * (x - again)[:, :2].square().sum(1)
    torch.testing.assert_close(output.losses["encoder"], distance)
    torch.testing.assert_close(output.losses["decoder"], 0.25 * distance - fake.log() - other.log())
    apart = -real.log() - 0.5 * (1 - fake).log() - 0.5 * (1 - other).log()
    torch.testing.assert_close(output.losses["discriminator"], apart)


def test_m2_at_the_exact_posteriors_is_the_evidence() -> None:
    """With q(z | x, y) and q(y | x) exact: -log p(x, y) - a log p(y | x) where y is known, else -log p(x)."""
    model, x = linear_vae(classes="encoder"), data(4)
    y = torch.tensor([0, -1, 2, -1])

    def joint(rows: Tensor) -> Tensor:
        return torch.stack([log_evidence(rows, centre) for centre in MEANS], -1) - math.log(3)

    objective = SemiSupervised(Given(joint, 4, 3), weight=2.0, samples=4000)
    with torch.no_grad():
        output = objective(model(x, y, 4000), 0)
    found, chances = joint(x), torch.log_softmax(joint(x), -1)
    known = [-float(found[n, y[n]] + 2 * chances[n, y[n]]) for n in (0, 2)]
    unknown = [-float(found[n].logsumexp(0)) for n in (1, 3)]
    expected = torch.tensor([known[0], unknown[0], known[1], unknown[1]]).double()
    torch.testing.assert_close(output.losses["model"], expected, rtol=0, atol=0.1)
    bound = torch.tensor([found[0, 0], -unknown[0], found[2, 2], -unknown[1]]).double()
    torch.testing.assert_close(output.values["elbo"], bound, rtol=0, atol=0.1)


def test_m2_by_enumeration() -> None:
    """Any networks, with the draws of the classes in hand."""
    torch.manual_seed(7)
    model, x, y = linear_vae(spread=1.4, classes="encoder"), data(4), torch.tensor([1, -1, -1, 0])
    tried = [model(x, torch.full_like(y, each)) for each in range(3)]
    terms = model(x, y)
    terms.__dict__["given"] = lambda labels: tried[int(labels[0])]
    classifier = MLP((4,), (3,), hidden=()).double()
    output = SemiSupervised(classifier, weight=5.0)(terms, 0)
    q = F.softmax(classifier(x), -1).detach()
    for n in range(4):
        bounds = [float((each.log_likelihood[0, n] - each.kl[0, n]).detach()) - math.log(3) for each in tried]
        if y[n] >= 0:
            expected = -bounds[y[n]] - 5 * math.log(q[n, y[n]])
        else:
            expected = sum(float(q[n, c]) * (math.log(q[n, c]) - bounds[c]) for c in range(3))
        assert float(output.losses["model"][n].detach()) == pytest.approx(expected, abs=1e-9)
    networks = list(classifier.parameters())
    assert all(each.abs().sum() > 0 for each in torch.autograd.grad(output.losses["classifier"].sum(), networks))


def test_draws_of_the_prior_and_their_pictures_come_from_the_model() -> None:
    model = VAE(
        StandardNormal(2), DiagonalGaussian(MLP((3,), (2,)), MLP((3,), (2,))), MLP((2,), (1, 3)), Gaussian((3,))
    )
    terms = model(torch.zeros(5, 3))
    z = terms.draw_prior()
    assert z.shape == (5, 2)
    torch.testing.assert_close(terms.observe(z.unsqueeze(0)).mean[0], model.decode(z).mean)
