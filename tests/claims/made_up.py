"""Measurements that nobody made: numbers with which each claim must hold, and others with which it must not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sfumato.claims import CLAIMS, Setting
from sfumato.claims.runner import summarise

SEEDS = 5
Row = dict[str, dict[str, Any]]


def rows(number: int, good: bool, noise: float = 0.01) -> list[Row]:
    """Return a measurement for each seed: numbers that differ by a hundredth."""
    return [jittered(MAKERS[number](good), seed, noise) for seed in range(SEEDS)]


def summary(good: bool = True, numbers: tuple[int, ...] = tuple(range(1, 11))) -> dict[str, Any]:
    """Return what ``claims.json`` would hold."""
    claims = {}
    for number in numbers:
        found = [{"measured": row, "seconds": 1.0} for row in rows(number, good)]
        claims[str(number)] = summarise(CLAIMS[number], found)
    return {"setting": Setting("quick", seeds=SEEDS).to_dict(), "claims": claims}


def jittered(row: Row, seed: int, noise: float) -> Row:
    """Return the numbers of one seed; steps and counts stay as they are."""
    generator = np.random.default_rng(seed)

    def other(name: str, value: Any) -> Any:
        if name in ("step", "broken", "parameters"):
            return value
        if isinstance(value, list):
            return [other(name, item) for item in value]
        return value * math.exp(noise * float(generator.uniform(-1, 1)))

    return {arm: {name: other(name, value) for name, value in values.items()} for arm, values in row.items()}


def curve(start: float, turn: float, end: float, count: int = 40) -> list[float]:
    """Return two straight lines that meet after a quarter."""
    first = count // 4
    return [*np.linspace(start, turn, first).tolist(), *np.linspace(turn, end, count - first).tolist()]


STEPS = [float(5 * (place + 1)) for place in range(40)]


def noise_dies(good: bool) -> Row:
    def arm(variance: float, error: float, frechet: float) -> dict[str, Any]:
        return {
            "posterior variance": variance,
            "share of noise": variance,
            "error at the mean": 0.02,
            "error at a draw": error,
            "Fréchet distance": frechet,
        }

    sigma = curve(1, 0.5, 0.001) if good else curve(1, 0.5, 0.6)
    return {
        "VAE": {**arm(0.3, 0.025, 50), "step": STEPS, "sigma": curve(1, 0.5, 0.6)},
        "without KL": {**arm(1e-4 if good else 0.4, 0.0203 if good else 0.025, 400), "step": STEPS, "sigma": sigma},
        "autoencoder": arm(0.0, 0.02, 400),
    }


def naive_ratio(good: bool) -> Row:
    from sfumato.claims.c02_naive_ratio import KINDS, KL, RATIOS, SCALES, fixed, naive

    def arm(evidence: float, sharpness: float) -> dict[str, float]:
        return {"evidence": evidence, "sharpness": sharpness, "Fréchet distance": 50.0}

    found = {KL: arm(100, 0.5)}
    for kind in KINDS:
        for place, ratio in enumerate(RATIOS):
            found[naive(kind, ratio)] = arm(90 - 10 * place, 0.4 - 0.05 * place) if good else arm(130, 0.5)
    for place, scale in enumerate(SCALES):
        found[fixed(scale)] = arm(90 - 20 * place, 0.4)
    return found


def aggregate(good: bool) -> Row:
    def arm(prior: float, spread: float) -> dict[str, Any]:
        return {
            "rate": 12.0,
            "KL of the aggregate": 0.2 if good else 4.0,
            "information": 11.8 if good else 8.0,
            "information above": 11.9 if good else 9.0,
            "mean of z": [0.05, -0.05],
            "variance of z": [0.9, spread],
            "largest correlation": 0.1,
            "log of the number of posteriors": 9.0,
            "Fréchet, z from N(0, I)": prior,
            "Fréchet, z from a normal fitted to q(z)": 52.0,
            "Fréchet, z from q(z)": 51.0,
        }

    return {"VAE": arm(52, 1.1 if good else 3.0), "without KL": arm(500, 40.0)}


def two_parts(good: bool) -> Row:
    from sfumato.claims.c04_two_parts import BOTH, ONLY_MU, ONLY_SIGMA

    def arm(spread: float, noise: float, frechet: float) -> dict[str, float]:
        return {
            "variance of the means": spread,
            "mean of the variances": noise,
            "log10 of the spread": math.log10(spread),
            "log10 of the noise": math.log10(noise),
            "evidence": 100.0,
            "Fréchet distance": frechet,
        }

    if good:
        return {BOTH: arm(0.7, 0.3, 50), ONLY_MU: arm(0.9, 1e-3, 80), ONLY_SIGMA: arm(30, 0.7, 300)}
    return dict.fromkeys((BOTH, ONLY_MU, ONLY_SIGMA), arm(0.7, 0.3, 50))


def noise_adapts(good: bool) -> Row:
    from sfumato.claims.c05_noise_adapts import FIXED, OPTIMAL

    def arm(again: bool) -> dict[str, list[float]]:
        return {
            "step": STEPS,
            "sigma": curve(0.9, 0.2, 0.3 if again else 0.19),
            "kl": curve(1, 20, 15 if again else 21),
            "reconstruction": curve(100, 0, -50),
            "kl_mean": curve(1, 3, 3),
            "kl_variance": curve(1, 17, 12),
        }

    return {OPTIMAL: arm(good), FIXED: arm(True)}


def two_encoders(good: bool) -> Row:
    from sfumato.claims.c06_two_encoders import TRUNK, TWO

    def arm(evidence: float) -> dict[str, Any]:
        loss = curve(0, -80, -90)
        return {
            "parameters": 1000.0,
            "evidence": evidence,
            "elbo": evidence - 3,
            "kl": 9.0,
            "step": STEPS,
            "loss": loss,
        }

    return {TRUNK: arm(100.0), TWO: arm(110.0 if good else 80.0)}


def log_variance(good: bool) -> Row:
    from sfumato.claims.c07_log_variance import BOUNDED, CONDITIONS, FORMS

    found = {}
    for condition in CONDITIONS:
        for form in (BOUNDED, *FORMS):
            broken = (form == "relu") if good else (form in ("log", BOUNDED))
            elbo = 100.0 if form in ("log", BOUNDED) else 90.0
            found[f"{form}, {condition}"] = {"elbo": elbo, "bad steps": 0.0, "broken": float(broken)}
    return found


def classes(good: bool) -> Row:
    from sfumato.claims.c08_classes import LEARNED, UNIT

    def arm(evidence: float) -> dict[str, Any]:
        share = 0.8 if good else 0.3
        return {
            "class asked is class made": share,
            "by class": [share, share],
            "accuracy of Bayes' rule": 0.8,
            "evidence": evidence,
            "Fréchet distance": 50.0,
            "overlap": 0.1,
            "step": STEPS,
            "distance": curve(3, 4, 5),
            "nearest": curve(1, 2, 2),
        }

    return {UNIT: arm(100.0), LEARNED: arm(101.0), "judge": {"accuracy on real images": 0.85}}


def prior_sampling(good: bool) -> Row:
    from sfumato.claims.c09_prior_sampling import EXACT, TRAINED

    arm = {
        "below the truth, prior": [900.0, 500.0, 300.0, 200.0],
        "below the truth, posterior": [3.0, 1.0, 0.2, 0.1],
        "error, prior": [900.0, 500.0, 300.0, 200.0],
        "error, posterior": [3.0, 1.0, 0.5, 0.3 if good else 3.0],
        "log10 variance, prior": 3.0,
        "log10 variance, posterior": 0.3,
    }
    return {EXACT: arm, TRAINED: arm}


def learned_metric(good: bool) -> Row:
    from sfumato.claims.c10_learned_metric import LEARNED, PIXELS

    def arm(sharpness: float, frechet: float, evidence: float) -> dict[str, float]:
        return {
            "rate": 15.0,
            "evidence": evidence,
            "squared error": 0.02,
            "sharpness of reconstructions": sharpness,
            "sharpness of samples": sharpness,
            "Fréchet distance of reconstructions": frechet,
            "Fréchet distance of samples": frechet,
        }

    return {PIXELS: arm(0.3, 60, 100), LEARNED: arm(0.9, 30, 20) if good else arm(0.1, 90, 20)}


MAKERS = {
    1: noise_dies,
    2: naive_ratio,
    3: aggregate,
    4: two_parts,
    5: noise_adapts,
    6: two_encoders,
    7: log_variance,
    8: classes,
    9: prior_sampling,
    10: learned_metric,
}
