"""The type checker of the test run: beartype, for which a whole number is a legal float, as in the typing standard.

Whether a call passes depends on the kinds of what it is given and returns alone: for tensors and arrays the type, dtype
and shape, for words the word, for containers the kind of what they hold, for all else the type. So a function is
checked once for each combination of kinds, not at every call, which would take half of the time of the tests. Of a
container beartype looks at one item by chance, so one that holds several kinds has none itself: it is always checked.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AnySet
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

_jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped
_MANY = 100


class _Unknown(Exception):
    """Something has no kind, or none that is known in a short time."""


def install(rooms: list[str]) -> None:
    """Let every module of ``rooms`` that is imported from now on be checked."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(_remembering, typechecker)  # type: ignore[assignment]
    jaxtyping.install_import_hook([f"sfumato.{room}" for room in rooms], "shape_checker.check")


def _remembering(typechecker: Any, subject: Any) -> Any:
    """Return a function that is checked, or a class whose constructor is, where a dataclass made it."""
    if inspect.isfunction(subject):
        return _remembered(subject, functools.partial(_jaxtyped, typechecker=typechecker))
    if not inspect.isclass(subject):
        return _jaxtyped(subject, typechecker=typechecker)
    if is_dataclass(subject) and not hasattr(subject.__init__, "_is_checked"):
        subject.__init__ = _remembering(typechecker, subject.__init__)  # type: ignore[misc]
    return subject


def _remembered(function: FunctionType, checking: Callable[[Any], Any]) -> Callable[..., Any]:
    seen: dict[Hashable, set[Hashable]] = {}
    returned = threading.local()

    @functools.cache
    def checked() -> Callable[..., Any]:
        return checking(function)

    def returns(*args: Any, **kwargs: Any) -> Any:
        return returned.result

    @functools.cache
    def checked_result() -> Callable[..., Any]:
        body = FunctionType(returns.__code__, function.__globals__, closure=returns.__closure__)
        return checking(functools.update_wrapper(body, function))

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            given = (*map(_kind, args), *((name, _kind(value)) for name, value in kwargs.items()))
            known = seen.get(given)
        except (_Unknown, TypeError):  # TypeError: a size that is a symbol cannot be looked up
            return checked()(*args, **kwargs)
        result = checked()(*args, **kwargs) if known is None else function(*args, **kwargs)
        try:
            kind = _kind(result)
            hash(kind)
        except (_Unknown, TypeError):
            kind = None
        if known is not None and (kind is None or kind not in known):
            returned.result = result
            try:
                checked_result()(*args, **kwargs)
            finally:
                del returned.result
        seen.setdefault(given, set()).add(kind)
        return result

    wrapper._is_checked = True  # type: ignore[attr-defined]
    return wrapper


def _kind(value: Any) -> Hashable:
    how = _HOW.get(type(value))
    if how is None:
        how = _HOW[type(value)] = _how(type(value))
    return how(value)


def _how(kind: type) -> Callable[[Any], Hashable]:
    """Return the function that gives the kind of a value of this type."""
    if issubclass(kind, torch.Tensor | np.ndarray):
        return lambda value: (kind, value.dtype, value.shape)
    if issubclass(kind, str | type):
        return lambda value: value
    if issubclass(kind, Mapping):
        return lambda value: (kind, _one(set(map(type, value))), _one(set(map(_kind, _few(value).values()))))
    if issubclass(kind, tuple | list | AnySet):
        return lambda value: (kind, len(value), _one(set(map(_kind, _few(value)))))
    return lambda value: kind


def _few(value: Any) -> Any:
    if len(value) > _MANY:
        raise _Unknown
    return value


def _one(kinds: set[Hashable]) -> Hashable:
    if len(kinds) > 1:
        raise _Unknown
    return next(iter(kinds), None)


_HOW: dict[type, Callable[[Any], Hashable]] = {}
