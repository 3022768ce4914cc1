import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mutual_info_score

from sfumato.core.errors import UserError
from sfumato.data import Identity
from sfumato.data.dsprites import DSprites
from sfumato.evaluation.disentanglement import binned, concentration, dci, factor_vae_score, mig, sap
from sfumato.evaluation.factor_scores import disentanglement
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal

SIZES = (2, 3, 4)
GRID = torch.tensor(list(itertools.product(*map(range, SIZES))))
MANY = GRID.repeat(5, 1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_mig_by_hand():
    """f = 0011 and c1 = 0001 share 0.5 log(4/3) + 0.25 log(2/3) + 0.25 log 2 nats; c2 = 0101 nothing; H(f) = log 2."""
    factor = torch.tensor([[0], [0], [1], [1]])
    codes = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1]]).double()
    shared = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert mig(codes, factor).mean.value == pytest.approx(shared / math.log(2), abs=1e-12)
    assert shared / math.log(2) == pytest.approx(0.3113, abs=1e-4)


def test_mig_of_perfect_permuted_doubled_mixed_and_constant_codes():
    perfect = GRID.double() * 3.7 - 1
    assert mig(perfect, GRID).per_factor == pytest.approx((1, 1, 1))
    assert mig(-perfect[:, [2, 0, 1]], GRID).mean.value == pytest.approx(1)
    doubled = torch.cat([perfect, perfect[:, :1] * 2], 1)
    assert mig(doubled, GRID).per_factor == pytest.approx((0, 1, 1))
    everything = (GRID @ torch.tensor([12, 4, 1])).double()
    mixed = torch.stack([everything, -everything], 1)
    assert mig(mixed, GRID, bins=24).mean.value == pytest.approx(0, abs=1e-12)
    constant = torch.full((24, 2), 0.3).double()
    assert mig(constant, GRID).mean.value == 0
    assert mig(torch.cat([perfect[:, :1], constant], 1), GRID).per_factor == pytest.approx((1, 0, 0))


def test_mig_against_scikit_learn_and_numpy():
    codes, factors = noise(500, 4) + GRID.repeat(21, 1)[:500, [0, 0, 1, 2]], GRID.repeat(21, 1)[:500]
    levels = np.stack([np.digitize(column, np.histogram(column, 20)[1][:-1]) - 1 for column in codes.T.numpy()], 1)
    np.testing.assert_array_equal(binned(codes, 20), levels)
    gaps = []
    for factor in factors.T.numpy():
        known = sorted(mutual_info_score(factor, column) for column in levels.T)
        gaps.append((known[-1] - known[-2]) / mutual_info_score(factor, factor))
    found = mig(codes, factors)
    assert found.per_factor == pytest.approx(gaps, rel=1e-9)
    assert found.mean.value == pytest.approx(np.mean(gaps), rel=1e-9)


def test_migs_jackknife_error_is_the_spread_over_repetitions():
    found = []
    for seed in range(80):
        rows = torch.randint(24, (200,), generator=torch.Generator().manual_seed(seed))
        found.append(mig(noise(200, 3, seed=seed) + GRID[rows] * 2, GRID[rows]).mean)
    claimed = math.sqrt(np.mean([one.standard_error**2 for one in found]))
    assert claimed == pytest.approx(np.std([one.value for one in found], ddof=1), rel=0.3)


def test_concentration_by_hand():
    """Rows (1, 0) and (1/4, 3/4), weights 1 and 1: 1 and 1 - H_2(1/4) = 0.1887."""
    assert concentration(torch.eye(3).double()) == pytest.approx(1, abs=1e-8)
    assert concentration(torch.ones(3, 4).double()) == pytest.approx(0, abs=1e-8)
    assert concentration(torch.zeros(3, 4).double()) == pytest.approx(0, abs=1e-8)
    partly = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).double()
    quarter = 1 - stats.entropy([0.25, 0.75], base=2)
    assert concentration(partly) == pytest.approx((1 + quarter) / 2, abs=1e-8)
    heavy = torch.tensor([[3.0, 0.0], [0.25, 0.75]]).double()
    assert concentration(heavy) == pytest.approx((3 + quarter) / 4, abs=1e-8)


@pytest.mark.parametrize("trees", ["boosted", "forest"])
def test_dci_of_perfect_permuted_and_constant_codes(trees):
    perfect = MANY.double()
    found = dci(perfect, MANY, perfect, MANY, trees=trees)
    assert found.disentanglement == pytest.approx(1, abs=1e-6)
    assert found.completeness == pytest.approx(1, abs=1e-6)
    assert (found.informativeness.value, found.informativeness_train) == (1, 1)
    assert (found.informativeness.n, len(found.importance), len(found.importance[0])) == (120, 3, 3)
    if trees == "forest":
        return
    permuted = dci(perfect[:, [1, 2, 0]], MANY, perfect[:, [1, 2, 0]], MANY, trees=trees)
    np.testing.assert_allclose(np.array(permuted.importance), np.array(found.importance)[[1, 2, 0]], atol=1e-9)
    constant = torch.zeros(120, 2).double()
    dead = dci(constant, MANY, constant, MANY, trees=trees)
    assert (dead.disentanglement, dead.completeness) == pytest.approx((0, 0), abs=1e-8)
    assert dead.informativeness.value == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_dci_tells_disentangled_from_complete():
    """Two codes for one factor are disentangled but not complete; one code for two factors the other way round."""
    two = torch.tensor(list(itertools.product(range(4), range(2)))).repeat(20, 1)
    split = torch.stack([two[:, 0] // 2, two[:, 0] % 2, two[:, 1]], 1).double()
    found = dci(split, two, split, two)
    assert found.disentanglement == pytest.approx(1, abs=1e-3)
    assert found.completeness < 0.8
    shared = torch.stack([two @ torch.tensor([2, 1]), torch.zeros(len(two))], 1).double()
    found = dci(shared, two, shared, two)
    assert found.completeness == pytest.approx(1, abs=1e-3)
    assert found.disentanglement < 0.01
    assert found.informativeness.value == 1


def test_dci_is_informative_about_other_examples_only():
    found = dci(noise(120, 2), MANY, noise(120, 2, seed=1), MANY)
    assert found.informativeness_train > 0.95
    assert found.informativeness.value == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3, abs=0.12)


def votes(represent, **options):
    settings = {"votes": 600, "test_votes": 400, "vote_examples": 16, "examples": 500}
    return factor_vae_score(represent, SIZES, **settings | options)


def test_factor_vae_score_of_perfect_permuted_and_scaled_codes():
    for scale in (1.0, torch.tensor([1.0, 100.0, 0.3])):
        found = votes(lambda factors, scale=scale: factors[:, [2, 0, 1]] * scale)
        assert (found.score.value, found.train, found.active, found.score.n) == (1, 1, 3, 400)
    assert votes(lambda factors: torch.cat([factors, 0 * factors + 1], 1).double()).active == 3


def test_factor_vae_score_measures_each_code_by_its_own_spread():
    """Noisy codes in very different units: the fixed factor's code is quiet only relative to its variance over all."""
    units = torch.tensor([10.0, 1.0, 0.1]).double()
    found = votes(lambda factors: (factors + 0.1 * noise(*factors.shape, seed=len(factors))) * units)
    assert (found.score.value, found.active) == (1, 3)


def test_factor_vae_score_of_codes_that_know_nothing_is_chance():
    constant = votes(lambda factors: torch.ones(len(factors), 4).double())
    assert (constant.score.value, constant.train, constant.active) == (0, 0, 0)
    single = votes(lambda factors: factors[:, :1].double())
    assert single.active == 1
    assert single.score.value == pytest.approx(1 / 3, abs=0.08)
    random = votes(lambda factors: noise(len(factors), 3, seed=len(factors)), votes=3_000, test_votes=2_000)
    assert random.score.value == pytest.approx(1 / 3, abs=0.05)
    assert random.train > random.score.value - 0.03
    assert random.score.standard_error == pytest.approx(math.sqrt(2 / 9 / 2_000), rel=0.1)


def test_factor_vae_score_of_rotated_codes():
    """Two factors alike, codes their sum and difference: neither code is quiet for either, so the votes are mixed."""
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    found = factor_vae_score(lambda factors: factors.float() @ turn, (5, 5), votes=500, test_votes=500, examples=500)
    assert found.score.value < 0.62


def test_in_each_vote_exactly_the_drawn_factor_is_fixed():
    seen = []

    def represent(factors):
        seen.append(factors)
        return factors.double()

    found = votes(represent, seed=4)
    batches = torch.cat(seen[1:]).reshape(-1, 16, 3)
    assert len(batches) == 1_000
    still = (batches == batches[:, :1]).all(1)
    assert bool(still.any(1).all())
    assert int((still.sum(1) > 1).sum()) < 5  # by chance alone
    assert found.score.value > 0.99
    values = torch.stack([still[:, column].double().mean() for column in range(3)])
    np.testing.assert_allclose(values, 1 / 3, atol=0.06)
    assert sorted(torch.unique(batches[:, :, 2]).tolist()) == [0, 1, 2, 3]


def test_sap_by_hand():
    """Perfect codes: a code is right always, the next best as a coin; doubled codes leave no gap."""
    factors = torch.tensor(list(itertools.product(range(2), range(2)))).repeat(10, 1)
    perfect = factors.double() * 2 - 1
    found = sap(perfect, factors, perfect, factors)
    assert found.per_factor == (0.5, 0.5)
    assert found.mean.value == 0.5
    assert found.mean.n == 40
    swapped = sap(perfect[:, [1, 0]], factors, perfect[:, [1, 0]], factors)
    assert swapped.per_factor == (0.5, 0.5)
    doubled = perfect[:, [0, 0, 1]]
    assert sap(doubled, factors, doubled, factors).per_factor == (0, 0.5)
    constant = torch.ones(40, 2).double()
    assert sap(constant, factors, constant, factors).mean.value == 0


def test_saps_error_is_over_the_test_examples():
    factors = torch.tensor([[0], [1]]).repeat(50, 1)
    codes = torch.cat([factors * 2.0 - 1, torch.zeros(100, 1)], 1).double()
    found = sap(codes, factors, codes, factors)
    assert found.mean.value == 0.5
    assert found.mean.standard_error == pytest.approx(math.sqrt(0.25 / 99))


class Small:
    """Images of 9 pixels: row r has as many lit pixels as the class of factor r; before these a factor of one value."""

    name, names, sizes, shape = "small", ("still", "a", "b", "c"), (1, 2, 3, 4), (1, 3, 3)

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return 24

    def images(self, indices: np.ndarray) -> np.ndarray:
        self.drawn += indices.tolist()
        factors = np.stack(np.unravel_index(indices, self.sizes), -1)[:, 1:]
        return (np.arange(3) < factors[..., None]).astype(np.uint8)[:, None]

    def index_of(self, factors: np.ndarray) -> np.ndarray:
        return np.ravel_multi_index(tuple(factors.T), self.sizes)


def reader(weight: torch.Tensor, shape: tuple[int, ...]) -> VAE:
    """A VAE whose posterior mean is ``weight`` times the pixels."""
    latent = (weight.shape[0],)
    mean = MLP(shape, latent, hidden=())
    mean.layers[-1].weight.data.copy_(weight)
    mean.layers[-1].bias.data.zero_()
    posterior = DiagonalGaussian(mean, MLP(shape, latent, hidden=()))
    return VAE(StandardNormal(latent[0]), posterior, MLP(latent, (1, *shape), hidden=()), Bernoulli(shape))


COUNTS = {"examples": 300, "test_examples": 200, "votes": 300, "test_votes": 200, "vote_examples": 16}


def test_a_model_that_reads_the_factors_has_perfect_scores():
    rows_summed = torch.eye(3).repeat_interleave(3, 1)
    grid, model = Small(), reader(torch.cat([rows_summed, torch.zeros(1, 9)]), (1, 3, 3)).train()
    before = torch.get_rng_state()
    found = disentanglement(model, Identity((1, 3, 3)), grid, **COUNTS, seed=7)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.factors, found.sizes, found.codes) == (("a", "b", "c"), (2, 3, 4), 4)
    assert found.mig.mean.value == pytest.approx(1, abs=0.05)  # of 300 draws: the second code knows a little by chance
    assert found.dci.disentanglement == pytest.approx(1, abs=1e-6)
    assert (found.factor_vae.score.value, found.factor_vae.active) == (1, 3)
    assert min(found.sap.per_factor) > 0.1
    assert sorted(grid.drawn) == list(range(24))  # each image once
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["settings"] | COUNTS == plain["settings"]
    assert (plain["settings"]["bins"], plain["settings"]["trees"], plain["seed"]) == (20, "boosted", 7)
    assert plain["factors"] == {"a": 2, "b": 3, "c": 4}
    assert plain["mig"]["n"] == 300
    assert plain["dci"]["informativeness"]["n"] == plain["sap"]["n"] == plain["factor_vae"]["n"] == 200
    again = disentanglement(model, Identity((1, 3, 3)), Small(), **COUNTS, seed=7)
    assert again.to_dict() == found.to_dict()


def test_a_model_that_mixes_the_factors_has_poor_scores():
    mixing = torch.linalg.qr(noise(3, 3))[0].float() @ torch.eye(3).repeat_interleave(3, 1)
    found = disentanglement(reader(mixing, (1, 3, 3)), Identity((1, 3, 3)), Small(), **COUNTS, trees="forest")
    assert found.mig.mean.value < 0.5
    assert found.dci.disentanglement < 0.7
    assert found.dci.informativeness.value > 0.99  # nothing was lost
    assert found.factor_vae.score.value < 1


def test_dsprites_from_images_to_scores():
    """Two codes that are the sprite's centre, but for its shape: they know the positions and little else."""
    down, right = np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5, indexing="ij")
    weight = torch.from_numpy(np.stack([right, down]).reshape(2, -1)).float() / 4_096
    counts = COUNTS | {"vote_examples": 8, "votes": 60, "test_votes": 40}
    model = reader(weight, (1, 64, 64))
    found = disentanglement(model, Identity((1, 64, 64)), DSprites(), **counts, trees="forest")
    assert found.data == "dsprites"
    assert found.sizes == (3, 6, 40, 32, 32)
    by_name = dict(zip(found.factors, found.mig.per_factor, strict=True))
    assert by_name["x"] > 0.15
    assert by_name["y"] > 0.15
    assert max(by_name["shape"], by_name["scale"]) < 0.1


@pytest.mark.parametrize("measure", [mig, lambda c, f: dci(c, f, c, f), lambda c, f: sap(c, f, c, f)])
def test_what_cannot_be_measured_is_refused(measure):
    with pytest.raises(UserError, match="at least 2 latent dimensions"):
        measure(noise(24, 1), GRID)
    with pytest.raises(UserError, match="factor 1 should have at least 2 classes"):
        measure(noise(24, 2), GRID * torch.tensor([1, 0, 1]))
    with pytest.raises(UserError, match="finite codes"):
        measure(noise(24, 2) / 0, GRID)


def test_more_that_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(UserError, match="at least 2; got 1"):
        dci(noise(24, 2), GRID[:, :1], noise(24, 2), GRID[:, :1])
    with pytest.raises(UserError, match="every factor needs at least 2 values"):
        factor_vae_score(lambda factors: factors.double(), (1, 3))
    with pytest.raises(UserError, match="at least 2; got 1"):
        disentanglement(reader(torch.ones(2, 9), (1, 3, 3)), Identity((1, 3, 3)), Small(), **COUNTS | {"votes": 1})
    with pytest.raises(UserError, match=r"expected examples of shape \(1, 8, 8\)"):
        disentanglement(reader(torch.ones(2, 64), (1, 8, 8)), Identity((1, 8, 8)), Small(), **COUNTS)
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(UserError, match=r"pip install 'sfumato\[metrics\]'"):
        sap(GRID.double(), GRID, GRID.double(), GRID)
