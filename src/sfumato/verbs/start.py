"""What ``train --from`` begins with: a trained model's weights, in place of fresh ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.core.errors import UserError
from sfumato.core.spec import to_spec
from sfumato.data import Standardise
from sfumato.io.folder import load_model
from sfumato.io.run import RunFolder
from sfumato.io.store import shown
from sfumato.io.tensors import digest
from sfumato.models import PackagedModel


@dataclass(frozen=True)
class Start:
    """A model to begin with.

    Args:
        path: its model folder.
        model: it.
    """

    path: Path
    model: PackagedModel

    @property
    def trees(self) -> dict[str, Any]:
        """What takes the place of decisions: the model and its preprocessing, which is not fitted again."""
        preprocessing = self.model.preprocessing
        tree = to_spec(preprocessing)
        if isinstance(preprocessing, Standardise) and not preprocessing.fixed:
            if preprocessing.mean.ndim:
                raise UserError(
                    "--from cannot keep the standardisation of columns. Train a new model on all of the rows."
                )
            tree |= {"mean": float(preprocessing.mean), "scale": float(preprocessing.scale)}
        return {"model": to_spec(self.model.model), "preprocessing": tree}

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and width of its images, None for other data."""
        shape = self.model.preprocessing.shape
        return (shape[1], shape[2]) if len(shape) == 3 else None

    @property
    def origin(self) -> dict[str, str]:
        """What ``run.json`` says about it."""
        return {"path": str(self.path.resolve()), "sha256": digest(self.model.state_dict())}

    def fill(self, model: nn.Module) -> None:
        """Copy the weights into a model of the same specification."""
        model.load_state_dict(self.model.model.state_dict())


def read_start(path: str | Path) -> Start:
    """Return the model of a run or a model folder, to begin with.

    Raises:
        UserError: it is neither.
    """
    path = Path(path).expanduser()
    folder = RunFolder(path).model if RunFolder(path).model.is_dir() else path
    module, _ = load_model(folder, "packaged")
    assert isinstance(module, PackagedModel)
    return Start(folder, module)


def same_start(origin: Mapping[str, Any]) -> Start:
    """Return the model that a run began with; refuse one that has changed."""
    start = read_start(origin["path"])
    if start.origin["sha256"] != origin["sha256"]:
        raise UserError(
            f"{shown(start.path)} is not the model that this run began with (another hash). Put the original back."
        )
    return start
