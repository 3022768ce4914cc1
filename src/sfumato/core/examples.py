"""Training examples that a part of a model starts from, or keeps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.core.errors import UserError


def first_of(rows: Tensor, like: Tensor, who: str) -> Tensor:
    """Return the first ``len(like)`` of ``rows``, preprocessed training examples of the shape of those in ``like``.

    Raises:
        UserError: fewer rows, or of another shape; ``who`` needs them.
    """
    if len(rows) < len(like) or rows.shape[1:] != like.shape[1:]:
        raise UserError(
            f"{who} starts from {len(like)} preprocessed examples of shape {tuple(like.shape[1:])}; got "
            f"{tuple(rows.shape)}. Give it as many, or build it for fewer."
        )
    return rows[: len(like)].detach()


class KeepsExamples:
    """A module that keeps training examples, and stores them with its weights; they are data, so nothing averages them.

    ``rows``: (n, *shape), NaN until they are given.
    """

    rows: Tensor
    started: bool = False

    def keep(self, count: int, shape: tuple[int, ...]) -> None:
        """Make room for ``count`` examples of ``shape``."""
        self.rows = torch.full((count, *shape), math.nan)

    @property
    def starts_from(self) -> int:
        """How many examples it starts from: n."""
        return len(self.rows)

    def start_from(self, rows: Tensor) -> None:
        """Take the first n of ``rows``, (n or more, *shape): preprocessed training examples.

        Raises:
            UserError: fewer rows, or of another shape.
        """
        self.rows = first_of(rows, self.rows, type(self).__name__).clone().to(self.rows.dtype)
        self.started = not bool(self.rows.isnan().any())

    def kept(self, like: Tensor) -> Tensor:
        """Return the examples in the type and on the device of ``like``.

        Raises:
            UserError: there are none yet.
        """
        if not self.started:
            who = type(self).__name__
            raise UserError(f"{who} has no examples yet. Give it some: start_from(preprocessed training examples).")
        return self.rows.to(like)

    def get_extra_state(self) -> Tensor:
        """Return the examples, to be stored with the weights."""
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        """Take stored examples."""
        self.start_from(state)
