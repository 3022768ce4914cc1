"""A part that needs the other parts of its model: a prior made of posteriors, a posterior that follows the joint."""

from __future__ import annotations

from typing import Any

from sfumato.core.errors import UserError


class NeedsWhole:
    """Gets to know the model that it is part of, without being its owner.

    The model's weights stay where they are and are stored once; a deep copy of the model is a copy of both.
    """

    _whole: tuple[Any, ...] = ()  # a tuple, which torch does not take for a part of this one

    def bind(self, model: Any) -> None:
        """Belong to ``model``. The first one wins: another model that borrows the part does not change what it is."""
        if not self._whole:
            self._whole = (model,)

    @property
    def whole(self) -> Any:
        """The model.

        Raises:
            UserError: there is none yet.
        """
        if not self._whole:
            raise UserError(f"{type(self).__name__} needs the other parts of its model. Build a VAE with it first.")
        return self._whole[0]
