"""A model with what surrounds it: preprocessing and class names. It speaks the user's own units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core import html
from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.spec import Name, register
from sfumato.data import Columns, Preprocessing
from sfumato.data.columns import by_name, recoded
from sfumato.data.objects import from_object, kind_of, like, to_array
from sfumato.models.joint import Chain
from sfumato.models.model import Model, Noise, Temperature

Data = TypeVar("Data", bound=Any)


@final
@register("packaged")
class PackagedModel(nn.Module):
    """A model on raw data: what a model folder holds and ``sfumato.load`` returns.

    Raw data are what the user has: uint8 images, numbers in their own units. What comes in comes out:
    numpy, torch, a frame of pandas, polars or Arrow with its columns and index, an AnnData.

    Args:
        model: a VAE, or any other model of this room.
        preprocessing: raw data to the model's input.
        class_names: one name for each class, in the order of the class numbers.

    Reference: Auto-Encoding Variational Bayes, Kingma and Welling, 2014, https://arxiv.org/abs/1312.6114: the VAE
    g(f(raw)), with f the preprocessing and raw = f^-1(x) on the way back.

    >>> from sfumato.data import Levels
    >>> from sfumato.likelihoods import DiscretizedLogistic
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> from sfumato.priors import StandardNormal
    >>> vae = VAE(
    ...     prior=StandardNormal(latent_dim=2),
    ...     posterior=DiagonalGaussian(mean=MLP((1, 8, 8), (2,)), log_variance=MLP((1, 8, 8), (2,))),
    ...     decoder=MLP((2,), (2, 1, 8, 8)),
    ...     likelihood=DiscretizedLogistic((1, 8, 8)),
    ... )
    >>> PackagedModel(vae, Levels((1, 8, 8))).sample(3, generator=0).dtype
    torch.uint8
    """

    def __init__(self, model: Model, preprocessing: Preprocessing, class_names: tuple[Name, ...] = ()) -> None:
        super().__init__()
        self.model, self.preprocessing, self.class_names = model, preprocessing, tuple(class_names)

    def __repr__(self) -> str:
        kind = f"{type(self.model.likelihood).__name__}, latent {self.model.latent_dim}"
        shape = "x".join(map(str, self.preprocessing.shape))
        classes = f", {self.model.num_classes} classes" if self.model.num_classes else ""
        return f"PackagedModel({kind}, data {shape}{classes})"

    def _repr_html_(self) -> str:
        model = self.model
        rows = [("model", type(model).__name__), ("latent dimensions", model.latent_dim)]
        rows += [(name, type(getattr(model, name)).__name__) for name in ("likelihood", "prior", "posterior")]
        rows += [("data", "x".join(map(str, self.preprocessing.shape))), ("classes", ", ".join(self.class_names))]
        return html.table("Model", [(name, value) for name, value in rows if value != ""])

    def label(self, name: str | int | None) -> int | None:
        """Return the class number of a class name or number; None stays None.

        Raises:
            UserError: no such class.
        """
        if name is None:
            return None
        if not self.model.num_classes:
            raise UserError("this model has no classes, so it cannot be asked for one. Train with --conditional.")
        if isinstance(name, int):
            if 0 <= name < self.model.num_classes:
                return name
            raise UserError(f"there is no class {name}; expected 0 to {self.model.num_classes - 1}.")
        if name in self.class_names:
            return self.class_names.index(name)
        if name in (numbers := [str(number) for number in range(self.model.num_classes)]):
            return numbers.index(name)
        raise UserError(f"there is no class '{name}'. {did_you_mean(name, self.class_names)}")

    @torch.no_grad()
    def encode(self, raw: Any, y: Tensor | NDArray[Any] | None = None) -> Distribution:
        """Return q(z | x) for raw data (batch, *shape); ``.mean`` and ``.stddev`` are (batch, latent).

        Of a ladder ``.mean`` holds all levels, each given the means of those above (``model.split`` takes it apart),
        and there is no ``.stddev``.
        """
        posterior = self.model.encode(self._input(raw), None if y is None else torch.as_tensor(y))
        return posterior.detached() if isinstance(posterior, Chain) else posterior

    @torch.no_grad()
    def decode(self, z: Data, y: Tensor | NDArray[Any] | None = None) -> Data:
        """Return the expected data of p(x | z) for z (batch, latent), in raw units."""
        labels = None if y is None else torch.as_tensor(y)
        x = self.model.expectation(self.model.decode(torch.as_tensor(to_array(z)).float(), labels))
        found: Data = like(self.preprocessing.inverse(x), z)
        return found

    def sample(
        self,
        n: int,
        label: str | int | Sequence[int] | None = None,
        temperature: Temperature = 1.0,
        *,
        draw: bool = False,
        generator: Noise = None,
    ) -> Tensor:
        """Generate ``n`` examples in raw units, of one class by name or number if asked; see :meth:`Model.sample`."""
        y = torch.tensor(label) if isinstance(label, list | tuple) else self.label(label)  # type: ignore[arg-type]
        return self.preprocessing.inverse(self.model.sample(n, y, temperature, draw=draw, generator=generator))

    @torch.no_grad()
    def reconstruct(self, raw: Data, y: Tensor | NDArray[Any] | None = None) -> Data:
        """Return the expected data at the posterior mean, in raw units, (batch, *shape)."""
        labels = None if y is None else torch.as_tensor(y)
        found: Data = like(self.preprocessing.inverse(self.model.reconstruct(self._input(raw), labels)), raw)
        return found

    @torch.no_grad()
    def interpolate(
        self,
        start: Data,
        end: Data,
        steps: int = 8,
        path: str = "spherical",
        y: Tensor | NDArray[Any] | None = None,
    ) -> Data:
        """Return the decoded path between two batches of raw data, (steps, batch, *shape), in raw units."""
        labels = None if y is None else torch.as_tensor(y)
        ends = self._input(start), self._input(end)
        x = self.model.interpolate(*ends, steps, labels, path=path)  # type: ignore[arg-type]
        found: Data = like(self.preprocessing.inverse(x), start)
        return found

    def _input(self, raw: Any) -> Tensor:
        """Return raw data as the model's input; dynamic binarisation takes its most likely value, so results repeat."""
        if isinstance(self.preprocessing, Columns) and kind_of(raw) == "frame":
            content = from_object(raw, mixed=True)
            assert content is not None
            read = by_name(content.x, content.columns, content.texts)
            raw = recoded(self.preprocessing.columns, read, "the table")
        layer = getattr(self.preprocessing, "layer", "")
        raw = to_array(np.asarray(raw) if isinstance(raw, list) else raw, layer)
        x: Tensor = self.preprocessing.expected(torch.as_tensor(raw))
        return x
