"""scikit-learn's own checks, all of them, and those that it has and does not run by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sfumato.estimators import VAEClassifier, VAEDensity, VAEImputer, VAEOutlierDetector, VAETransformer

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_iter": 2, "batch_size": 100, "learning_rate_init": 0.01}
ESTIMATORS = [
    VAETransformer(**SMALL),
    VAEDensity(**SMALL, n_importance_samples=4),
    VAEClassifier(**SMALL | {"hidden_layer_sizes": (), "max_iter": 12, "batch_size": 50, "learning_rate_init": 0.1}),
    VAEImputer(**SMALL, n_importance_samples=4),
    VAEOutlierDetector(**SMALL, n_importance_samples=4),
]
UNLISTED = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]
TRANSFORMERS_ONLY = ("output", "feature_names_out")


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


UNLISTED_CASES = [
    pytest.param(estimator, name, id=f"{type(estimator).__name__}-{name}")
    for estimator in ESTIMATORS
    for name in UNLISTED
    if hasattr(estimator, "transform") or not any(word in name for word in TRANSFORMERS_ONLY)
]


@pytest.mark.filterwarnings("ignore:X has feature names", "ignore:X does not have valid")  # the checks mix the two
@pytest.mark.parametrize(("estimator", "name"), UNLISTED_CASES)
def test_the_checks_that_scikit_learn_does_not_run(estimator: Any, name: str) -> None:
    getattr(estimator_checks, name)(type(estimator).__name__, clone(estimator))
