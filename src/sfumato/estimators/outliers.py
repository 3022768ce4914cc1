r"""Rows that the density calls improbable, with a threshold whose false-alarm rate is known.

The threshold t is the k-th smallest of the scores of n rows that took no part in the training, k = floor(rate (n + 1)).
For a new row of the same kind, whatever the model, P(score < t) has the distribution Beta(k, n + 1 - k): its mean is
k / (n + 1) <= rate, and its quantiles are the confidence interval. Reference: Determination of Sample Sizes for Setting
Tolerance Limits, Wilks, 1941; conformal prediction, Vovk et al., 2005.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import betaincinv
from sklearn.base import OutlierMixin, _fit_context

from sfumato.estimators.base import SHARE, Array
from sfumato.estimators.density import VAEScorer

CONFIDENCE = 0.95


@dataclass(eq=False, repr=False, kw_only=True)
class VAEOutlierDetector(OutlierMixin, VAEScorer):
    r"""Flags rows with log p(x) < t, and knows how often it is wrong about rows of the kind that it was fitted to.

    The promise, P(score < t) ~ Beta(k, n + 1 - k), asks that the rows of ``fit`` are independent draws of what is
    normal; outliers among them lower the threshold. A rate that the rows cannot hold (less than 1 / (n + 1)) becomes
    the lowest that they can. Reference: Wilks, 1941, https://doi.org/10.1214/aoms/1177731788.

    Args: those of :class:`~sfumato.estimators.density.VAEScorer`, and

        false_alarm_rate: of the normal rows that are flagged.
        calibration_fraction: of the rows, kept out of the training to set the threshold.

    After ``fit``: ``offset_``, t in nats; ``false_alarm_rate_``, k / (n + 1); ``false_alarm_interval_``, the 95 %
    confidence interval of the rate; ``n_calibration_``, n.

    >>> rows = np.random.RandomState(0).normal(size=(200, 2))
    >>> detector = VAEOutlierDetector(2, max_iter=2, false_alarm_rate=0.1, random_state=0).fit(rows)
    >>> detector.predict([[0.0, 0.0], [30.0, 30.0]]).tolist()
    [1, -1]
    >>> low, high = detector.false_alarm_interval_
    >>> low < detector.false_alarm_rate_ <= 0.1 < high
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = VAEScorer._parameter_constraints | {
        "false_alarm_rate": [SHARE],
        "calibration_fraction": [SHARE],
    }
    _fitted: ClassVar[tuple[str, ...]] = (
        "n_iter_",
        "offset_",
        "false_alarm_rate_",
        "false_alarm_interval_",
        "n_calibration_",
    )

    false_alarm_rate: float = 0.05
    calibration_fraction: float = 0.3

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to some of the rows, and set the threshold with the others; ``y`` is not looked at."""
        X = self._read(X, fitting=True)
        kept = self._train(X, calibration=float(self.calibration_fraction))
        if not len(kept):
            raise ValueError(
                f"VAEOutlierDetector needs rows to set its threshold with; none are left of {len(X)} samples. Give "
                "more rows, or a larger calibration_fraction."
            )
        scores = np.sort(self._log_density(X[kept], int(self.n_importance_samples)))
        n = len(scores)
        k = max(1, math.floor(self.false_alarm_rate * (n + 1)))
        tail = (1 - CONFIDENCE) / 2
        self.n_calibration_, self.offset_ = n, float(scores[k - 1])
        self.false_alarm_rate_ = k / (n + 1)
        low, high = betaincinv(k, n + 1 - k, [tail, 1 - tail])
        self.false_alarm_interval_ = (float(low), float(high))
        return self

    def decision_function(self, X: Any) -> Array:
        """Return log p(x) - t of each row, (rows,), nats: below 0 is an outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Array:
        """Return 1 for rows of the usual kind, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)
