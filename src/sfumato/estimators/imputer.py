"""Missing values from the posterior predictive: their mean, see :mod:`sfumato.evaluation.imputation`, or draws.

Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
https://arxiv.org/abs/1812.02633.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from torch import Tensor

from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Dataset, Standardise
from sfumato.estimators.base import CONSTRAINTS, COUNT, Array, VAEBase
from sfumato.evaluation.bounds import weighted_draws
from sfumato.evaluation.imputation import imputed
from sfumato.evaluation.measuring import measuring
from sfumato.models import PackagedModel
from sfumato.recipes import Run


@dataclass(eq=False, repr=False, kw_only=True)
class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEBase):
    r"""Fills NaN with what the model expects there given the rest of the row, E[x_missing | x_observed].

    Missing cells do not count in the training: the encoder sees which are there, and the likelihood adds up those that
    are, log p(x_observed) >= E_q[log p(x_observed | z)] - KL. Real columns, a Gaussian likelihood. Assumed is that
    values are missing at random: whether one is missing may depend on the observed values of its row, not on itself.

    Reference: MIWAE: Deep Generative Modelling and Imputation of Incomplete Data Sets, Mattei and Frellsen, 2019,
    https://arxiv.org/abs/1812.02633.

    Args: those of :class:`~sfumato.estimators.base.VAEBase`, with ``variance`` shared, per_dimension or predicted, and

        n_importance_samples: K.
        sample_posterior: fill in a draw from p(x_missing | x_observed), for multiple imputation, not its mean.

    >>> rows = np.random.RandomState(0).normal(size=(40, 3))
    >>> rows[0, 1] = np.nan
    >>> filled = VAEImputer(2, max_iter=2, random_state=0).fit_transform(rows)
    >>> bool(np.isnan(filled).any()), bool((filled[1:] == rows[1:]).all())
    (False, True)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS | {
        "variance": [StrOptions({"shared", "per_dimension", "predicted"})],
        "n_importance_samples": [COUNT],
        "sample_posterior": ["boolean"],
    }
    _masked: ClassVar[bool] = True

    n_importance_samples: int = 128
    sample_posterior: bool = False

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to rows in which NaN is a missing value; ``y`` is not looked at."""
        X = self._read(X, fitting=True, ensure_all_finite="allow-nan")
        empty = np.flatnonzero(np.isnan(X).all(0))
        if len(empty):
            raise ValueError(f"every column needs observed values; column {empty[0]} has none. Take it out.")
        self._train(X)
        return self

    def transform(self, X: Any) -> Array:
        """Return ``X`` with every NaN filled in and everything else as it was."""
        X = self._read(X, ensure_all_finite="allow-nan")
        if not len(np.flatnonzero(np.isnan(X))):
            return np.array(X)
        parts, seed = [], self._seed() if self.sample_posterior else 0
        common = 0 if self.sample_posterior else int(self.n_importance_samples)  # imputed rows are independent draws
        for number, (wide, x) in enumerate(self._batches(X, common)):
            own = seed_for(seed, number)
            with fixed_noise(own):
                parts.append(wide.preprocessing.inverse(self._expected(wide, x, own)))
        filled = torch.cat(parts).numpy()
        return np.where(np.isnan(X), filled, X).astype(X.dtype, copy=False)

    def _expected(self, wide: PackagedModel, x: Tensor, seed: int) -> Tensor:
        """Return the mean of p(x | x_observed), or a draw, (rows, columns), in the units of the model."""
        samples = int(self.n_importance_samples)
        if not self.sample_posterior:
            return imputed(wide.model, x, samples=samples, seed=seed)
        weights, values = [], []
        with measuring(wide.model):
            for terms in weighted_draws(wide.model, x, None, samples=samples, seed=seed):
                assert terms.log_posterior is not None
                weights.append(terms.log_likelihood + terms.log_prior - terms.log_posterior)
                values.append(terms.observation.sample())
        chosen = torch.multinomial(torch.cat(weights).softmax(0).T, 1).squeeze(-1)
        return torch.cat(values)[chosen, torch.arange(len(x))]

    def _plan(self, dataset: Dataset, seed: int) -> Run:
        """Let the recipes decide about rows with their columns' means for NaN; scale by what is observed."""
        X = dataset.x
        run = super()._plan(replace(dataset, x=np.where(np.isnan(X), np.nanmean(X, 0), X)), seed)
        columns = [Standardise((1,)).fit(column[~np.isnan(column), None]) for column in X.T]
        for name in ("mean", "scale"):
            getattr(run.preprocessing, name).copy_(torch.cat([getattr(column, name) for column in columns]))
        return run

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
