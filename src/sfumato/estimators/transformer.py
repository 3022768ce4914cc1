"""Rows to latent means and back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils.validation import check_array

from sfumato.core.numerics import seed_for
from sfumato.core.schedules import Constant
from sfumato.data import InMemory
from sfumato.estimators.base import CONSTRAINTS, LIKELIHOOD, Array, VAEBase, as_value_error
from sfumato.io.tensors import pack, unpack
from sfumato.objectives import ELBO
from sfumato.training import Trainer, TrainingConfig


@dataclass(eq=False, repr=False, kw_only=True)
class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEBase):
    r"""Rows to the means of their posteriors, mu(x) of q(z | x) = N(mu(x), diag sigma^2(x)), and back by the decoder.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114.

    Args: those of :class:`~sfumato.estimators.base.VAEBase`, and

        likelihood: gaussian, bernoulli, logistic, categorical, or auto, which looks at the values.

    >>> rows = np.random.RandomState(0).normal(size=(40, 3))
    >>> VAETransformer(2, max_iter=2, random_state=0).fit_transform(rows).shape
    (40, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS | LIKELIHOOD
    _fitted: ClassVar[tuple[str, ...]] = ("n_iter_", "_batch_size")

    likelihood: str = "gaussian"
    _passes: dict[str, Any] | None = field(init=False, default=None)  # where partial_fit is: Adam's moments, averages

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to rows of numbers; ``y`` is not looked at."""
        self._train(self._read(X, fitting=True))
        self._passes = None
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train for one pass over some rows, going on from where the last call, or :meth:`fit`, ended.

        The first call decides all that is decided from data: the scale of the columns, the likelihood, the number of
        components, the rows a step. The rate stays at its peak, nothing is held out, and ``max_iter`` does not count.
        After :meth:`fit` or ``load`` Adam's moments begin anew.
        """
        first = not hasattr(self, "model_")
        X = self._read(X, fitting=first, ensure_min_samples=2 if first else 1)
        seed = self._seed()
        with as_value_error():
            if first:
                run = self._plan(self._dataset(X, None, (), (1.0, 0.0, 0.0), seed), seed)
                self._keep(run.model, run.preprocessing, ())
                self._batch_size, self.n_iter_ = run.config.batch_size, 0
            self.model_.preprocessing.check(X, "X")
        config = TrainingConfig(
            steps=1,
            batch_size=self._batch_size,
            learning_rate=float(self.learning_rate_init),
            clip_norm=10 * X.shape[1] ** 0.5,
            schedule=Constant(),
            engine="eager",
            seed=seed_for(seed, self.n_iter_) % 2**53,
        )
        rows = InMemory(torch.tensor(np.ascontiguousarray(X)))
        trained = copy.deepcopy(self.model_)
        trainer = Trainer(trained.model, ELBO(beta=float(self.beta)), rows, rows, trained.preprocessing, config)
        if self._passes is not None:
            before = {stem: unpack(data, stem) for stem, data in self._passes["tensors"].items()}
            trainer.state.restore(before, self._passes["plain"])
        trainer.one_pass()
        tensors, plain = trainer.state.capture()
        self._passes = {"tensors": {stem: pack(named) for stem, named in tensors.items()}, "plain": plain}
        self._keep(trainer.state.averaged, trained.preprocessing, ())
        self.n_iter_ += 1
        return self

    def transform(self, X: Any) -> Array:
        """Return the posterior means, (rows, n_components), in the type of ``X``."""
        X = self._read(X)
        with torch.no_grad():
            means = [wide.model.encode(x).mean for wide, x in self._batches(X)]
        return torch.cat(means).numpy().astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> Array:
        """Return the expected rows for z (rows, n_components), in the units of the data."""
        self._check_fitted()
        z = check_array(X, dtype=(np.float64, np.float32), input_name="X")
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"X has {z.shape[1]} features, but the latent space has {self._n_features_out}.")
        return np.asarray(self.model_.decode(z)).astype(z.dtype, copy=False)

    @property
    def _n_features_out(self) -> int:
        return self.model_.model.latent_dim

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
