"""Classes by Bayes' rule from one density for each class."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from sfumato.estimators.base import Array
from sfumato.estimators.density import VAEScorer
from sfumato.evaluation.classes import class_posterior

UNKNOWN = -1


class VAEClassifier(ClassifierMixin, VAEScorer):
    r"""A conditional VAE in which every class owns a learned mean, p(z | y) = N(mu^y, I), turned around by Bayes' rule:

        p(y | x) = p(y) p(x | y) / sum_y' p(y') p(x | y').

    Rows whose class is not known have y = -1: they are trained on under the mixture of all classes, so they help to
    find the shape of the data. Where there is only one other class, -1 is a class of its own (labels -1 and 1).

    Reference: Su Jianlin's conditional VAE; Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298.

    Args: those of :class:`~sfumato.estimators.density.VAEScorer`.

    >>> rows = np.concatenate([np.random.RandomState(0).normal(shift, 0.1, size=(20, 2)) for shift in (0, 3)])
    >>> VAEClassifier(2, max_iter=2, random_state=0).fit(rows, np.repeat(["a", "b"], 20)).predict_proba(rows).shape
    (40, 2)
    """

    _fitted: ClassVar[tuple[str, ...]] = ("n_iter_", "classes_")
    classes_: Array

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model to rows and their classes, -1 where unknown."""
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
        check_classification_targets(y)
        y = column_or_1d(y)
        classes = np.unique(y)
        if len(classes) > 2 and classes.dtype.kind in "if":
            classes = classes[classes != UNKNOWN]
        if len(classes) < 2:
            raise ValueError(f"VAEClassifier needs at least two classes; got one class, {classes[0]!r}.")
        self.classes_ = classes
        number = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        number = np.where(classes[number] == y, number, UNKNOWN).astype(np.int64)
        self._train(X, number, tuple(map(str, classes.tolist())))
        return self

    def predict_log_proba(self, X: Any) -> Array:
        """Return log p(y | x) of every class, (rows, classes), nats."""
        X, draws = self._read(X), int(self.n_importance_samples)
        found = [class_posterior(wide.model, x, samples=draws) for wide, x in self._batches(X, draws)]
        return torch.cat(found).numpy()

    def predict_proba(self, X: Any) -> Array:
        """Return p(y | x) of every class, (rows, classes)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row."""
        found = self.predict_log_proba(X).argmax(1)
        return np.asarray(self.classes_[found])
