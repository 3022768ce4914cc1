"""The density of rows, in nats."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import DensityMixin, _fit_context
from sklearn.utils import check_random_state

from sfumato.estimators.base import CONSTRAINTS, COUNT, Array, VAEBase


class VAEScorer(VAEBase):
    """What an estimator has that scores rows by their density: K, and ``score_samples``."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS | {"n_importance_samples": [COUNT]}

    def __init__(
        self,
        n_components: int | None = None,
        *,
        hidden_layer_sizes: tuple[int, ...] = (100,),
        likelihood: str = "gaussian",
        variance: str = "per_dimension",
        beta: float = 1.0,
        max_iter: int = 100,
        batch_size: int | str = "auto",
        learning_rate_init: float = 1e-3,
        validation_fraction: float = 0.1,
        n_importance_samples: int = 64,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_components,
            hidden_layer_sizes=hidden_layer_sizes,
            likelihood=likelihood,
            variance=variance,
            beta=beta,
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            validation_fraction=validation_fraction,
            random_state=random_state,
        )
        self.n_importance_samples = n_importance_samples

    def score_samples(self, X: Any) -> Array:
        """Return a lower bound on log p of each row, (rows,), in nats of the units of ``X``; it rises with K to log p.

        For discrete likelihoods it is a log-probability, for Gaussian ones a log-density.
        """
        return self._log_density(self._read(X), int(self.n_importance_samples))


class VAEDensity(DensityMixin, VAEScorer):
    r"""A density: log p(x) >= log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x), nats of the user's own units.

    Reference: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519 (the bound);
    Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args: those of :class:`~sfumato.estimators.base.VAEBase`, and

        n_importance_samples: K.

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
        """Draw rows from p(x): z from the prior, x from p(x | z), (n_samples, columns), in the units of ``X``."""
        self._check_fitted()
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return self.model_.sample(n_samples, draw=True, generator=seed).numpy()
