"""Missing cells of a mixed table: sfumato beside scikit-learn's imputers. Writes results/imputation.json.

    pip install --no-deps statsmodels && python benchmarks/imputation.py

The table is randhie (statsmodels): 10 columns of the RAND health insurance experiment, of which 4,000 rows are taken at
random for each seed. A fifth of all cells is removed, completely at random. Each method sees the table with its gaps,
without labels or splits, and fills them; the error is over the removed cells alone.

Numbers and counts: root mean squared error over the column's standard deviation. Columns of a few levels: the share of
wrong ones (scikit-learn's numbers are rounded to the nearest value of the column). Both: 0 is perfect.

sfumato has one setting for all seeds, which no validation split chose; scikit-learn's imputers are as they come, but
for the neighbours, of which there are two numbers, and more rounds for IterativeImputer. No method sees a removed cell.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - IterativeImputer is behind it
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from certificate import certificate, write_result
from sfumato.data.columns import Column, guess_columns
from sfumato.recipes import Options
from sfumato.verbs.impute import impute
from sfumato.verbs.train import train

ROWS, SHARE, SEEDS, STEPS, LATENT, SAMPLES = 4_000, 0.2, (0, 1, 2), 2_500, 8, 100


def randhie() -> pd.DataFrame:
    found = find_spec("statsmodels")
    assert found is not None
    assert found.origin is not None
    return pd.read_csv(Path(found.origin).parent / "datasets" / "randhie" / "randhie.csv")


def ours(gapped: pd.DataFrame, seed: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "table.csv"
        gapped.to_csv(table, index=False)
        options = Options(likelihood="mixed", latent_dim=LATENT, steps=STEPS, seed=seed)
        train(table, out=Path(place) / "run", options=options)
        made = impute(Path(place) / "run", table, samples=SAMPLES, seed=seed, out=Path(place) / "whole.csv")
        return pd.read_csv(made.path)[gapped.columns].to_numpy(float)


def theirs(member: Any, gapped: pd.DataFrame) -> np.ndarray:
    values = gapped.to_numpy(float)
    deviation = np.nanstd(values, 0)
    return np.asarray(member.fit_transform(values / deviation)) * deviation


def errors(found: np.ndarray, truth: np.ndarray, gone: np.ndarray, columns: list[Column]) -> dict[str, float]:
    result = {}
    for place, column in enumerate(columns):
        rows = gone[:, place]
        guess, right = found[rows, place], truth[rows, place]
        if column.levels:
            values = np.array(column.values)
            guess = values[np.abs(guess[:, None] - values).argmin(1)]
            result[column.name] = float((np.abs(guess - right) > 1e-4).mean())
        else:
            result[column.name] = float(np.sqrt(np.square(guess - right).mean()) / truth[:, place].std())
    return result


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    whole = randhie()
    found: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, list[float]] = {}
    kinds = [column for column, _ in guess_columns(whole.to_numpy(np.float32), list(whole), [()] * len(whole.columns))]
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        part = whole.iloc[np.sort(generator.choice(len(whole), ROWS, replace=False))].reset_index(drop=True)
        gone = generator.random(part.shape) < SHARE
        gapped = part.mask(gone)
        methods = {
            "sfumato, mixed": lambda gapped=gapped, seed=seed: ours(gapped, seed),
            "IterativeImputer": lambda gapped=gapped, seed=seed: theirs(
                IterativeImputer(max_iter=30, random_state=seed), gapped
            ),
            "KNNImputer, 5": lambda gapped=gapped: theirs(KNNImputer(n_neighbors=5), gapped),
            "KNNImputer, 20": lambda gapped=gapped: theirs(KNNImputer(n_neighbors=20), gapped),
            "mean": lambda gapped=gapped: theirs(SimpleImputer(), gapped),
        }
        for name, fill in methods.items():
            start = time.perf_counter()
            filled = fill()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            known = ~gone
            assert np.allclose(filled[known], part.to_numpy(float)[known], rtol=1e-5, atol=1e-6)
            found.setdefault(name, []).append(errors(filled, part.to_numpy(float), gone, kinds))
            print(
                seed, name, f"{np.mean(list(found[name][-1].values())):.4f}", f"{seconds[name][-1]:.0f} s", flush=True
            )
    write_result("imputation", result(found, kinds))


def result(found: dict[str, list[dict[str, float]]], kinds: list[Column]) -> dict[str, Any]:
    groups = {
        "numbers_and_counts": [column.name for column in kinds if not column.levels],
        "levels": [column.name for column in kinds if column.levels],
    }
    groups["all"] = groups["numbers_and_counts"] + groups["levels"]

    def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
        each = {name: [float(np.mean([run[key] for key in keys])) for run in runs] for name, keys in groups.items()}
        error = {
            name: {
                "value": float(np.mean(values)),
                "standard_error": float(np.std(values, ddof=1) / len(values) ** 0.5),
                "n": len(values),
            }
            for name, values in each.items()
        }
        return {**error, "columns": {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}}

    return {
        **certificate(recipe=f"mlp, latent {LATENT}, {STEPS:,} steps of the ELBO, K = {SAMPLES}", seeds=SEEDS),
        "data": f"randhie of statsmodels {metadata.version('statsmodels')}, {ROWS:,} of 20,190 rows a seed",
        "removed": SHARE,
        "kinds": {column.name: column.kind for column in kinds},
        "unit": "numbers and counts: rmse / deviation of the column; levels: share of wrong ones; lower is better",
        "scikit_learn": metadata.version("scikit-learn"),
        "errors": {name: summary(runs) for name, runs in found.items()},
    }


if __name__ == "__main__":
    main()
