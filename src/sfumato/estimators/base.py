r"""What the estimators share: parameters, training through the recipes, scores, and persistence as a model folder.

Columns are scaled by the library's own preprocessing, x = f(raw), so a density of the user's own units is

    log p(raw) = log p(x) + log|det df/draw|,

with log p(x) replaced by its importance bound L_K (:mod:`sfumato.evaluation.bounds`). Scoring is done in float64 with
the same K draws of noise for every row, half of them the negative of the other half: a row's score does not hang on the
rows beside it, and the same row has the same score. What few draws miss, they miss in every row alike.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from sfumato.core import html
from sfumato.core.errors import UserError
from sfumato.core.gaussians import as_normal
from sfumato.core.interfaces import Posterior
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.spec import to_spec
from sfumato.data import Dataset, Preprocessing
from sfumato.data.content import Content
from sfumato.data.decisions import LIKELIHOODS
from sfumato.data.splits import make_splits
from sfumato.evaluation.bounds import evidence_bound
from sfumato.io import store
from sfumato.io.folder import load_model, save_model
from sfumato.likelihoods import Gaussian, Masked
from sfumato.models import PackagedModel
from sfumato.recipes import Options, Run, build_vae, fresh_model, plan
from sfumato.recipes.networks import Recipe, mlp
from sfumato.training import Trainer

Array = NDArray[Any]
ROWS = 250
NOISE = 0x657374696D  # "estim": keeps these random numbers apart from others with the same seed
CARD = "estimator"

COUNT = Interval(Integral, 1, None, closed="left")
SHARE = Interval(Real, 0, 1, closed="neither")
CONSTRAINTS: dict[str, list[Any]] = {
    "n_components": [COUNT, None],
    "hidden_layer_sizes": ["array-like"],
    "variance": [StrOptions({"shared", "per_dimension", "predicted", "optimal"})],
    "beta": [Interval(Real, 0, None, closed="left")],
    "max_iter": [COUNT],
    "batch_size": [StrOptions({"auto"}), COUNT],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "validation_fraction": [SHARE],
    "random_state": ["random_state"],
}
LIKELIHOOD: dict[str, list[Any]] = {"likelihood": [StrOptions({"auto", *LIKELIHOODS})]}


@dataclass(eq=False, repr=False)
class VAEBase(BaseEstimator):
    """The parameters and the training of every estimator.

    The constructor only stores its arguments, which is what scikit-learn asks of it and what a dataclass writes; a
    subclass with parameters of its own names these alone.

    Args:
        n_components: the dimensions of z; None: the principal components that hold 95 % of the variance, as a power
            of two, at most 32.
        hidden_layer_sizes: the widths of the encoder's gated layers, and reversed of the decoder's; () makes both
            affine, which is probabilistic PCA or factor analysis.
        variance: of the Gaussian likelihood: shared by all columns, per_dimension, predicted for each value, optimal.
        beta: the weight of the KL term.
        max_iter: passes over the training rows, at most; fewer where eight evaluations in a row bring nothing.
        batch_size: rows a step; auto: a twentieth of the rows, from 8 to 128.
        learning_rate_init: Adam's, at its peak.
        validation_fraction: of the rows, kept out of the training to choose the best weights.
        random_state: of weights, split, order and noise.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS
    _masked: ClassVar[bool] = False  # whether NaN is a missing value
    _fitted: ClassVar[tuple[str, ...]] = ("n_iter_",)  # what a saved folder keeps beside the model

    n_components: int | None = None
    _: KW_ONLY
    hidden_layer_sizes: tuple[int, ...] = (100,)
    variance: str = "per_dimension"
    beta: float = 1.0
    max_iter: int = 100
    batch_size: int | str = "auto"
    learning_rate_init: float = 1e-3
    validation_fraction: float = 0.1
    random_state: Any = None
    model_: PackagedModel = field(init=False)
    n_iter_: int = field(init=False)
    n_features_in_: int = field(init=False)
    _batch_size: int = field(init=False)

    def _check_fitted(self) -> None:
        check_is_fitted(self, "model_")

    def _read(self, X: Any, *, fitting: bool = False, **checks: Any) -> Array:
        """Return checked rows, float32 or float64, and when fitting remember their columns."""
        if not fitting:
            self._check_fitted()
        checks = {"dtype": (np.float64, np.float32), "ensure_min_samples": 2 if fitting else 1} | checks
        return np.asarray(validate_data(self, X, reset=fitting, **checks))

    def _train(
        self, X: Array, y: Array | None = None, class_names: tuple[str, ...] = (), calibration: float = 0.0
    ) -> Array:
        """Fit ``model_`` to rows; return the numbers of those that were kept for calibration.

        Args:
            X: (rows, columns), float.
            y: class numbers, (rows,), -1 where unknown.
            class_names: one for each class.
            calibration: the share of the rows that takes no part in the training.
        """
        seed = self._seed()
        with as_value_error():
            left = (1 - calibration) * self.validation_fraction
            dataset = self._dataset(X, y, class_names, (1 - calibration - left, left, calibration), seed)
            run = self._plan(dataset, seed)
            train, validation = dataset.split("train"), dataset.split("validation")
            validation = validation if len(validation) else train  # too few rows, or copies of one
            outcome = Trainer(run.model, run.objective, train, validation, run.preprocessing, run.config).fit()
        if outcome.signal is not None:
            raise KeyboardInterrupt
        self._batch_size = run.config.batch_size
        self.n_iter_ = -(-outcome.step // -(-len(train) // self._batch_size))
        self._keep(run.model, run.preprocessing, class_names)
        return np.asarray(dataset.rows("test"))

    def _keep(self, model: Any, preprocessing: Preprocessing, class_names: tuple[str, ...]) -> None:
        self.model_ = PackagedModel(model, preprocessing, class_names).cpu().eval()

    def _seed(self) -> int:
        """Return the seed of a fit: one number, drawn as scikit-learn draws."""
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _dataset(
        self, X: Array, y: Array | None, class_names: tuple[str, ...], shares: tuple[float, float, float], seed: int
    ) -> Dataset:
        """Return rows as a data set; ``shares`` of them are for training, validation and calibration."""
        content = Content("X", X, y, class_names, given={"train": np.arange(len(X))})
        names = getattr(self, "feature_names_in_", [f"x{number}" for number in range(X.shape[1])])
        splits = make_splits(content, shares, seed)
        return Dataset("X", X, y, splits, class_names, tuple(map(str, names)))

    def _options(self, seed: int, classes: bool) -> Options:
        likelihood = getattr(self, "likelihood", "gaussian")
        return Options(
            recipe="mlp",
            latent_dim=None if self.n_components is None else int(self.n_components),
            conditional=classes,
            likelihood=None if likelihood == "auto" else likelihood,
            beta=float(self.beta),
            epochs=float(self.max_iter),
            batch_size=None if isinstance(self.batch_size, str) else int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            engine="eager",
            seed=seed,
        )

    def _plan(self, dataset: Dataset, seed: int) -> Run:
        """Return what the recipes decide about ``dataset``, with the networks that were asked for."""
        run = plan(dataset, self._options(seed, dataset.num_classes > 0))
        planned = run.model
        likelihood = planned.likelihood
        if isinstance(likelihood, Gaussian):
            likelihood = Gaussian(dataset.shape, self.variance)  # type: ignore[arg-type]
        if self._masked:
            likelihood = Masked(likelihood)
        frequencies = tuple(to_spec(planned.prior).get("frequencies") or ())
        with fixed_noise(seed):  # these weights are thrown away
            tree = to_spec(build_vae(self._recipe(), likelihood, planned.latent_dim, frequencies))
        return replace(run, model=fresh_model(tree, seed))

    def _recipe(self) -> Recipe:
        widths = tuple(int(width) for width in self.hidden_layer_sizes)
        if any(width < 1 for width in widths):
            raise ValueError(f"hidden_layer_sizes must be whole numbers from 1; got {self.hidden_layer_sizes}.")
        return mlp(widths, masked=self._masked)

    def _batches(self, X: Array, draws: int = 0) -> Iterator[tuple[PackagedModel, Tensor]]:
        """Yield a twin of the model in float64, whose draws are the same for every row, and some rows at a time."""
        wide = copy.deepcopy(self.model_).double().eval()
        if draws:
            wide.model.posterior = CommonDraws(wide.model.posterior, draws)
        with as_value_error():
            wide.preprocessing.check(X, "X")
        for start in range(0, len(X), ROWS):
            yield (
                wide,
                wide.preprocessing.expected(torch.tensor(np.ascontiguousarray(X[start : start + ROWS]))).double(),
            )

    def _log_density(self, X: Array, draws: int) -> Array:
        """Return the bound on log p(raw) of each row, (rows,), nats of the user's own units."""
        parts = [
            evidence_bound(wide.model, x, samples=draws) + wide.preprocessing.log_abs_det
            for wide, x in self._batches(X, draws)
        ]
        return torch.cat(parts).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write a model folder: config.json and model.safetensors, which ``sfumato.load`` opens too.

        Args:
            folder: where; refused if it exists.
        """
        self._check_fitted()
        params = {name: plain(value) for name, value in self.get_params(deep=False).items()}
        names = [*self._fitted, "feature_names_in_"]
        fitted = {name: plain(getattr(self, name)) for name in names if hasattr(self, name)}
        columns = list(map(str, getattr(self, "feature_names_in_", ())))
        about = {"class": type(self).__name__, "params": params, "fitted": fitted}
        save_model(folder, self.model_, card={CARD: about, "columns": columns})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Return the estimator that :meth:`save` wrote."""
        module, card = load_model(folder, "packaged")
        about = card.get(CARD)
        found = about.get("class") if isinstance(about, Mapping) else "no estimator"
        if found != cls.__name__ or not isinstance(about, Mapping) or not isinstance(module, PackagedModel):
            raise UserError(f"{folder} should hold a {cls.__name__}; it holds {found}. Use its own class to load it.")
        known = cls._get_param_names()
        estimator = cls(**{name: back(value) for name, value in about["params"].items() if name in known})
        for name in (*cls._fitted, "feature_names_in_"):
            if name in about["fitted"]:
                setattr(estimator, name, back(about["fitted"][name]))
        estimator.n_features_in_ = module.preprocessing.shape[0]
        estimator.model_ = module
        return estimator

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as place:
                save_model(Path(place) / "model", state["model_"], card={})
                state["model_"] = store.read_folder(Path(place) / "model")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            with tempfile.TemporaryDirectory() as place:
                store.write_folder(Path(place) / "model", state["model_"])
                state["model_"], _ = load_model(Path(place) / "model", "packaged")
        super().__setstate__(state)

    def _html_repr(self) -> str:
        """Return what a notebook shows: the parameters and how far the fit is."""
        state = f"fitted, {self.n_iter_} iterations" if hasattr(self, "n_iter_") else "not fitted"
        return html.table(type(self).__name__, [("state", state), *self.get_params(deep=False).items()])


class CommonDraws(Posterior):
    """q(z | x) with the same noise for every row: eps_1 ... eps_K/2 and their negatives, each of them N(0, I).

    Every z is still a draw from its own q(z | x), so the bound stays one; the draws of a row are not independent of
    each other, only their mean counts.

    Args:
        posterior: normal, with independent dimensions.
        draws: K.
    """

    def __init__(self, posterior: Posterior, draws: int) -> None:
        super().__init__()
        self.posterior, self.sees_label, self.latent_shape = posterior, posterior.sees_label, posterior.latent_shape
        generator = torch.Generator().manual_seed(seed_for(NOISE))
        half = torch.randn(-(-draws // 2), *self.latent_shape, generator=generator, dtype=torch.float64)
        self.noise = torch.cat([half, -half])[:draws]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z | x)."""
        found: Distribution = self.posterior(x, y)
        normal = as_normal(found)
        assert normal is not None
        return _Common(normal, len(self.latent_shape), self.noise)


class _Common(Independent[Normal]):
    """Independent normals whose first draws are those of ``noise``, (K, *event)."""

    def __init__(self, base: Normal, event_dims: int, noise: Tensor) -> None:
        super().__init__(base, event_dims, validate_args=False)
        self.given, self.used = noise, 0

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return the next draws, (samples, batch, *event)."""
        (count,) = sample_shape
        noise = self.given[self.used : self.used + count].unsqueeze(1)
        self.used += count
        return self.base_dist.loc + self.base_dist.scale * noise


@contextlib.contextmanager
def as_value_error() -> Iterator[None]:
    """Let a mistake in the data or a parameter be the ValueError that scikit-learn's users expect."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None


def plain(value: Any) -> Any:
    """Return a parameter or a fitted attribute as plain json."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else None  # a RandomState


def back(value: Any) -> Any:
    """Return what :func:`plain` was given: arrays as they were, lists as tuples."""
    if isinstance(value, dict):
        return np.array(value["values"], dtype=value["dtype"])
    return tuple(value) if isinstance(value, list) else value
