"""A property that is computed when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar, overload

T = TypeVar("T")


class once(cached_property[T]):
    """``functools.cached_property`` without its lock, which it has before Python 3.12: torch.compile cannot read it."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> once[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> once[T] | T:
        """Return the value, computed at the first call and kept in the instance's dictionary."""
        if instance is None:
            return self
        assert self.attrname is not None
        value = self.func(instance)
        instance.__dict__[self.attrname] = value
        return value
