"""The density of rows, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import DensityMixin, _fit_context
from sklearn.utils import check_random_state

from sfumato.estimators.base import CONSTRAINTS, COUNT, LIKELIHOOD, Array, VAEBase


@dataclass(eq=False, repr=False, kw_only=True)
class VAEScorer(VAEBase):
    """What an estimator has that scores rows by their density: any likelihood, K, and ``score_samples``.

    Args: those of :class:`~sfumato.estimators.base.VAEBase`, and

        likelihood: gaussian, bernoulli, logistic, categorical, or auto, which looks at the values.
        n_importance_samples: K.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CONSTRAINTS,
        **LIKELIHOOD,
        "n_importance_samples": [COUNT],
    }

    likelihood: str = "gaussian"
    n_importance_samples: int = 64

    def score_samples(self, X: Any) -> Array:
        """Return a bound on log p of each row, (rows,), in nats of the units of ``X``.

        In expectation over its draws it is below log p, and rises to it with K. For discrete likelihoods it is a
        log-probability, for Gaussian ones a log-density.
        """
        return self._log_density(self._read(X), int(self.n_importance_samples))


class VAEDensity(DensityMixin, VAEScorer):
    r"""A density: log p(x) >= log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x), nats of the user's own units.

    Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519 (the bound);
    Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args: those of :class:`~sfumato.estimators.density.VAEScorer`.

    >>> rows = np.random.RandomState(0).normal(size=(40, 3))
    >>> VAEDensity(2, max_iter=2, random_state=0).fit(rows).score_samples(rows).shape
    (40,)
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to rows of numbers; ``y`` is not looked at."""
        self._train(self._read(X, fitting=True))
        return self

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of :meth:`score_samples`, nats a row."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw rows from p(x): z from the prior, x from p(x | z), in the units of ``X``.

        Args:
            n_samples: how many.
            random_state: of the draws.

        Returns:
            (n_samples, columns): the rows alone, as those of scikit-learn's ``KernelDensity``. ``GaussianMixture`` has
            a component for each row as well; here a row has none.
        """
        self._check_fitted()
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return self.model_.sample(n_samples, draw=True, generator=seed).numpy()
