import copy
import doctest
import io
import json

import arithmetic
import numpy as np
import pytest
import scoring
import torch
from peers.script_peer import Model
from torch.utils.flop_counter import FlopCounterMode
from worker import Gate
from workloads import PIXELS, WORKLOADS

import tables


def test_examples() -> None:
    found = doctest.testmod(arithmetic)
    assert found.attempted >= 4
    assert found.failed == 0


def test_ratios_are_taken_round_by_round_so_that_drift_cancels() -> None:
    slow_then_fast = [1.0, 10.0, 100.0]
    found = arithmetic.ratios([2.0, 30.0, 200.0], slow_then_fast)
    assert found == {"median": 2.0, "min": 2.0, "max": 3.0}  # the ratio of the medians would be 3
    with pytest.raises(ValueError):
        arithmetic.ratios([1.0], [1.0, 2.0])


def test_one_seed_has_no_spread() -> None:
    assert arithmetic.over_seeds([-3.0]) == {"mean": -3.0, "standard_deviation": 0.0, "seeds": 1}


@pytest.mark.parametrize("name", ["mlp-100", "iwae-50", "gated-100", "conv-128"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    workload = WORKLOADS[name]
    model, x = Model(workload), torch.rand(2, PIXELS).round()
    with FlopCounterMode(display=False) as counter:
        model(x).backward()
    assert counter.get_total_flops() == 2 * workload.operations()


def constant_model(mean: float, log_variance: float, logits: np.ndarray) -> dict:
    def encode(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(x), 3), mean, np.float32), np.full((len(x), 3), log_variance, np.float32)

    return {"encode": encode, "decode": lambda z: np.broadcast_to(logits, (len(z), len(logits)))}


def test_scores_of_a_decoder_that_ignores_z_are_exact() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=8).astype(np.float32)
    x = (rng.random((6, 8)) < 0.5).astype(np.float32)
    logistic = 1 / (1 + np.exp(-logits.astype(np.float64)))
    evidence = np.where(x == 1, np.log(logistic), np.log1p(-logistic)).sum(-1)
    kl = 3 * 0.5 * (np.exp(-0.5) + 0.3**2 - 1 + 0.5)
    model = constant_model(0.3, -0.5, logits)
    np.testing.assert_allclose(scoring.bounds(**model, x=x, block=4), evidence - kl, atol=1e-5)
    many = scoring.bounds(**model, x=x, samples=20_000)  # E[w] is the evidence, so L_K comes close to its logarithm
    np.testing.assert_allclose(many, evidence, atol=0.03)
    at_prior = scoring.bounds(**constant_model(0.0, 0.0, logits), x=x, samples=5)
    np.testing.assert_allclose(at_prior, evidence, atol=1e-5)


def test_the_gate_lets_as_many_epochs_through_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict] = []
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr("worker.time.perf_counter", lambda: next(clock))
    requests = [{"do": "epochs", "count": 3}, {"do": "facts"}, {"do": "epochs", "count": 1}, {"do": "facts"}]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(request) + "\n" for request in requests)))
    gate = Gate(lambda request: {"asked": request["do"]}, sent.append)
    for _ in range(4):
        gate()
        gate.step()
        gate.done()
        gate.done()  # the clock stands still already
    monkeypatch.setattr("worker.os._exit", lambda code: sent.append({"exit": code}))
    gate()
    assert sent == [
        {"first_step": True},
        {"seconds": 3.0},
        {"asked": "facts"},
        {"seconds": 1.0},
        {"asked": "facts"},
        {"exit": 0},
    ]


def test_scores_are_added_to_what_was_timed_and_never_replace_it() -> None:
    timed = {
        "rounds": 4,
        "epochs_before_the_score": 15,
        "seeds": [0],
        "peers": {"jax": {"images_per_second": 1.0, "held_out": "one seed"}, "disent": {"cannot": "it has none"}},
    }
    scores = {
        "rounds": 0,
        "epochs_before_the_score": 15,
        "seeds": [0, 1],
        "peers": {"jax": {"seconds_to_first_step": 9.0, "held_out": "two"}, "disent": {"cannot": "it has none"}},
    }
    found = arithmetic.merged(copy.deepcopy(timed), scores)
    assert found["seeds"] == [0, 1]
    assert found["rounds"] == 4
    assert found["peers"]["jax"] == {"images_per_second": 1.0, "held_out": "two"}
    assert arithmetic.merged(timed, {**scores, "rounds": 1})["rounds"] == 1
    for other in (None, {**timed, "epochs_before_the_score": 10}):
        with pytest.raises(ValueError, match="as many epochs"):
            arithmetic.merged(other, scores)


def test_the_page_shows_every_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = {"median": 1234.5, "min": 1.0, "max": 2000.0}
    entry = {
        "images_per_second": rate,
        "sfumato_is_times_as_fast": {"median": 1.0, "min": 0.5, "max": 2.0},
        "held_out": {"elbo": arithmetic.over_seeds([-90.0, -92.0])},
        "peak_memory_bytes": 5e8,
        "seconds_to_first_step": 2.25,
        "fraction_of_peak": {"float32": 0.5, "float32_onednn": 0.25, "bf16": 2.0},
    }
    part = {
        "about": "a model",
        "rounds": 4,
        "epochs_per_turn": 3,
        "images_per_epoch": 1_000,
        "epochs_before_the_score": 15,
        "machine": {"processor": "P", "threads": 2},
        "peaks_operations_per_second": {"float32": 2e11},
        "peers": {"sfumato": {**entry, "engine": "compiled"}, "disent": {"cannot": "it has none"}},
    }
    bound = {
        "samples": 100,
        "images": 10,
        "peers": {
            "sfumato": {
                "images_times_samples_per_second": rate,
                "sfumato_is_times_as_fast": rate,
                "nats": rate,
            },
            "pythae": {"cannot": "it is not there"},
        },
    }
    monkeypatch.setattr(tables, "read", lambda name: {"workloads": {"mlp-100": part, "bound": bound}})
    page = "\n".join(tables.race())
    row = "| sfumato, compiled | 1,234 (1 to 2,000) | 1.00 (0.50 to 2.00) | -91.00 ± 1.41 | 500 MB | 2.2 s | 25 % |"
    assert row in page
    assert "15 epochs, 2 seeds; P, 2 threads" in page
    assert "ELBO, nats" in page
    assert "| pythae | it is not there | | |" in page


def test_a_row_names_what_a_peer_cannot_do() -> None:
    assert tables.race_row("disent", {"cannot": "it has none"}) == "| disent | it has none | | | | | |"
    assert tables.interval({"median": 1234.5, "min": 1.0, "max": 2000.0}) == "1,234 (1 to 2,000)"
