"""Several processes share an evaluation, and get the numbers of one."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from exact_models import linear_vae
from process_helpers import together

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.core.processes import Processes
from sfumato.data import Binarise, Dataset, Identity
from sfumato.evaluation import Annealing, evaluate, measure_thoroughly
from sfumato.evaluation import thorough as thorough_parts
from sfumato.evaluation.gap import find_gap
from sfumato.evaluation.passes import batch_lengths, batches, merged
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal

TEST = 803  # three batches of 250 and a small one


class Wide(Identity):
    """Takes the data as they are, in float64."""

    def transform(self, raw):
        return raw.double()


def dataset(x, y=None, classes=0, test=TEST):
    rows = np.arange(len(x))
    splits = {"train": rows[: len(x) - test], "validation": rows[:0], "test": rows[len(x) - test :]}
    return Dataset("toy", np.asarray(x), y, splits, tuple(map(str, range(classes))))


def clusters(dtype, n=1500):
    y = np.arange(n) % 3
    x = np.random.default_rng(0).normal(0, 0.5, (n, 4)) + 3 * np.eye(4)[y]
    return dataset(x.astype(dtype), y.astype(np.int64), 3)


def binary(posterior=DiagonalGaussian, classes=0):
    networks = [MLP((6,), (2,), (8,)) for _ in range(1 if posterior is Dirac else 2)]
    prior = ClassConditional(classes, 2) if classes else StandardNormal(2)
    return VAE(prior, posterior(*networks), MLP((2,), (1, 6), (8,)), Bernoulli((6,)))


def measured(name, processes):
    """Return everything that an evaluation says, as json."""
    with fixed_noise(1):
        if name == "float64":
            how = {"judge": False, "baselines": True}
            model, preprocessing, data = linear_vae(1.2, "prior"), Wide((4,)), clusters(np.float64)
        elif name == "judge":
            how = {"judge": True, "per_class": 300}
            model, preprocessing, data = linear_vae(1.2, "encoder").float(), Identity((4,)), clusters(np.float32)
        else:
            how = {"baselines": True}
            grey = np.random.default_rng(2).integers(0, 256, (1500, 6)).astype(np.uint8)
            model = binary(Dirac if name == "dirac" else DiagonalGaussian)
            preprocessing, data = Binarise((6,), "dynamic"), dataset(grey)
    found = evaluate(model, preprocessing, data, samples=3, elbo_samples=2, seed=4, processes=processes, **how)
    return json.loads(json.dumps(found.to_dict()))


def differences(one, other, path=""):
    """Return (place, one, other) of everything that is not the same; numbers to 1e-10."""
    if isinstance(one, dict) and one.keys() == other.keys():
        return [each for name in one for each in differences(one[name], other[name], f"{path}.{name}")]
    if isinstance(one, list) and len(one) == len(other):
        return [
            each for n, pair in enumerate(zip(one, other, strict=True)) for each in differences(*pair, f"{path}.{n}")
        ]
    same = one == other or (isinstance(one, float) and one == pytest.approx(other, rel=1e-10, abs=1e-12))
    return [] if same else [(path, one, other)]


NAMES = ("float64", "judge", "binarised", "dirac")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [2, 5])
def test_processes_find_what_one_finds(count):
    """Values and standard errors, whichever process has which batch, or none."""

    def work(rank):
        alone = [measured(name, Processes()) if rank == 0 else None for name in NAMES]
        return [alone, [measured(name, Processes(rank, count)) for name in NAMES]]

    results = together(count, work)
    for _, found in results:
        for name, alone, shared in zip(NAMES, results[0][0], found, strict=True):
            assert alone["n"] == TEST
            assert differences(alone, shared) == [], name
            if name == "binarised":  # no sums of the training split: to the last bit
                assert alone["values"] == shared["values"]


def test_the_weights_are_those_of_the_examples():
    """Processes with 500 and 303 examples: the mean of their means is another number."""
    model, data = linear_vae(), clusters(np.float64)
    data.x[-3:] += 50
    alone = evaluate(model, Wide((4,)), data, samples=2).values["elbo"].value

    def work(rank):
        examples, processes = data.split("test"), Processes(rank, 2)
        own = [len(batch.x) for batch in batches(examples, Wide((4,)), torch.device("cpu"), 0, processes=processes)]
        found = evaluate(model, Wide((4,)), data, samples=2, processes=processes)
        return [sum(own), found.values["elbo"].value]

    (first, one), (second, two) = together(2, work)
    assert (first, second) == (500, 303)
    assert one == two == pytest.approx(alone, rel=1e-12)


def test_pieces_come_together_in_their_order():
    lengths = [3, 1, 2, 2]

    def work(rank):
        processes, starts = Processes(rank, 3), [0, 3, 4, 6]
        own = [torch.arange(starts[k], starts[k] + lengths[k]) for k in range(4)][rank::3]
        found = merged({"row": own, "wide": [piece[:, None].double() / 2 for piece in own]}, lengths, processes)
        return [found["row"].tolist(), found["wide"].tolist(), str(found["wide"].dtype)]

    assert together(3, work) == [[list(range(8)), [[number / 2] for number in range(8)], "torch.float64"]] * 3
    assert sum(batch_lengths(clusters(np.float32).split("test"))) == TEST


def test_a_mistake_in_the_part_of_one_is_said_by_all():
    x = np.zeros((900, 6), dtype=np.float32)
    x[-1] = 0.5  # in the last batch, that of the second process

    def work(rank):
        with pytest.raises(UserError) as caught:
            evaluate(binary(), Identity((6,)), dataset(x), samples=2, processes=Processes(rank, 2))
        return str(caught.value)

    one, other = together(2, work)
    assert one == other
    assert "probabilities of 0 and 1 only" in one


@pytest.mark.timeout(120)
def test_processes_share_the_evidence(monkeypatch):
    """The bounds together, the other parts in turns; what cannot be measured is absent in both."""
    monkeypatch.setattr(thorough_parts, "find_gap", partial(find_gap, steps=100))

    def thorough(processes):
        model, data = linear_vae(1.3).float(), clusters(np.float32, 1000)
        plain = evaluate(model, Identity((4,)), data, samples=3, processes=processes)
        how = {"samples": 20, "annealing": Annealing(temperatures=5, chains=2), "annealed": 4}
        return json.loads(
            json.dumps(measure_thoroughly(model, Identity((4,)), data, plain, processes=processes, **how))
        )

    def work(rank):
        return [thorough(Processes()) if rank == 0 else None, thorough(Processes(rank, 2))]

    (alone, first), (_, second) = together(2, work)
    for shared in (first, second):
        assert {"bounds", "gap", "aggregate", "calibration", "predictive_checks"} <= alone.keys()
        assert "disentanglement" in alone["absent"]
        assert differences(alone, shared) == []
