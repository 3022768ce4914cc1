"""Everything of `evaluate --evidence` at once, on a model whose answers are known, and how it is shown."""

import json

import numpy as np
import pytest
from exact_models import DIMS, linear_vae, log_evidence

from sfumato.data import Dataset, Identity
from sfumato.evaluation import evaluate
from sfumato.evaluation.annealed import Annealing
from sfumato.evaluation.thorough import PARTS, measure_thoroughly
from sfumato.models import VAE
from sfumato.posteriors import Dirac
from sfumato.report.evidence import blocks, missing

QUICK = Annealing(temperatures=20, chains=4, leapfrogs=3, burn_in=8)
ROWS = 300


def made():
    """Examples that the model itself makes."""
    return linear_vae().float().sample(2 * ROWS, draw=True, generator=0)


def dataset():
    rows = np.arange(2 * ROWS)
    return Dataset("toy", made().numpy(), None, {"train": rows[:ROWS], "validation": rows[:0], "test": rows[ROWS:]}, ())


def measured(model):
    usual = evaluate(model, Identity((DIMS,)), dataset(), samples=None)
    return measure_thoroughly(model, Identity((DIMS,)), dataset(), usual, samples=20, annealing=QUICK, annealed=12)


@pytest.fixture(scope="module")
def found():
    return measured(linear_vae().float())


def test_every_part_is_measured_or_says_why_not(found):
    assert set(found) - {"absent"} | set(found["absent"]) == set(PARTS)
    assert set(found["absent"]) == {"disentanglement"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_parts_agree_with_the_exact_answer_and_with_one_another(found):
    exact = float(log_evidence(made()[ROWS:].double()).mean())
    bound = found["bounds"]["importance_bound"]
    assert bound["value"] == pytest.approx(exact, abs=1e-4)  # the posterior is the true one
    assert bound["n"] == ROWS
    assert found["gap"]["inference"]["value"] == pytest.approx(0, abs=1e-3)
    trade = found["rate_distortion"]
    assert trade["elbo"]["value"] == pytest.approx(exact, abs=0.2)
    whole = found["aggregate"]
    parts = whole["mutual_information"]["value"] + whole["marginal_kl"]["value"]
    assert whole["rate"]["value"] == pytest.approx(parts, abs=1e-5)
    assert whole["posteriors"] == ROWS
    assert found["calibration"]["spread"]["value"] == pytest.approx(1, abs=0.15)


def test_a_point_mass_keeps_what_needs_no_density():
    model = linear_vae().float()
    point = VAE(model.prior, Dirac(model.posterior.mean), model.decoder, model.likelihood)
    found = measured(point)
    assert {"aggregate", "gap", "rate_distortion"} <= set(found["absent"])
    assert all("Dirac" in found["absent"][part] for part in ("aggregate", "rate_distortion"))
    assert found["bounds"]["annealed"]["annealed_bound"]["n"] == 12
    names = [what for what, _ in missing(found)]
    assert "importance bound" in names
    assert "aggregate" in names


def test_every_part_has_a_block_with_its_numbers(found):
    shown = blocks(found)
    text = " ".join(cell for block in shown for row in block.rows for cell in row)
    titles = " | ".join(block.title for block in shown)
    for word in (
        "evidence",
        "annealing",
        "sandwich",
        "ELBO loses",
        "rate goes",
        "rate and dist",
        "calibr",
        "predictive",
        "fidelity",
    ):
        assert word in titles
    assert f"{found['bounds']['importance_bound']['value']:.3f}" in text
    assert "log p(x), L_20" in text
    assert found["fidelity"]["extractor"]["sha256"][:12] in text
    assert blocks({}) == []
