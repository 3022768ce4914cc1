"""Events for TensorBoard beside ``metrics.jsonl``, where somebody asks for them. Needs the extra ``tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from sfumato.core.errors import UserError
from sfumato.training import Listener

FOLDER = "tensorboard"


class TensorBoard(Listener):
    """Writes every number of the metrics as a scalar, named quantity/split.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise UserError("--log tensorboard needs tensorboard. Run: pip install 'sfumato[tensorboard]'.")
        self.folder: Path | None = None
        self._writer: Any = None

    def open(self, run: Path) -> None:
        """Say where the run is."""
        self.folder = run / FOLDER

    def on_start(self, step: int, steps: int, examples_per_step: int) -> None:
        """Open the events; what a resumed run writes again takes the place of the old."""
        from torch.utils.tensorboard import SummaryWriter

        if self.folder is not None:
            self._writer = SummaryWriter(self.folder, purge_step=step + 1 if step else None)

    def on_metrics(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(f"{name}/{line['split']}", value, line["step"])
        self._writer.flush()

    def on_evaluation(self, line: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
        """Write nothing: the line comes to :meth:`on_metrics` as well."""
        return {}

    def close(self) -> None:
        """Close the events."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
