"""Constructors are the configuration: an object tree to plain json and back.

A class that is ``@register``-ed in a room remembers the arguments it was built with, each checked against its
annotation. :func:`to_spec` writes them as ``{"class": name, argument: value, ...}``; :func:`from_spec` builds the
object again. Names are looked up in one dictionary per room: nothing is imported, no attribute is walked, so a file can
name only what is already there. A user's own class is registered by the user's own Python before loading.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from sfumato.core.errors import UserError, did_you_mean

T = TypeVar("T", bound=type)

REGISTRY: dict[str, dict[str, type]] = {}


@dataclass(frozen=True)
class Range:
    """The closed interval that a number must lie in."""

    low: float
    high: float


@dataclass(frozen=True)
class Length:
    """The largest number of items in a list, or of characters in a string."""

    high: int


Size = Annotated[int, Range(1, 65_536)]
Count = Annotated[int, Range(0, 2**53)]
Real = Annotated[float, Range(-1e30, 1e30)]
NonNegative = Annotated[float, Range(0.0, 1e30)]
Positive = Annotated[float, Range(1e-30, 1e30)]
Probability = Annotated[float, Range(0.0, 1.0)]
Shape = Annotated[tuple[Size, ...], Length(8)]
Widths = Annotated[tuple[Size, ...], Length(256)]
Name = Annotated[str, Length(1024)]


def register(kind: str) -> Callable[[T], T]:
    """Enter a class in the dictionary of its room and make its constructor check and remember its arguments.

    Args:
        kind: the room: "prior", "posterior", "likelihood", "network", ...

    Returns:
        a class decorator. The class may not have ``*args`` or ``**kwargs``; every argument is annotated.
    """

    def decorate(cls: T) -> T:
        original = cls.__init__  # type: ignore[misc]
        signature = inspect.signature(original)
        hints = typing.get_type_hints(original, include_extras=True)

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            given = list(bound.arguments.items())[1:]
            arguments = {name: checked(value, hints[name], f"{cls.__name__}: {name}") for name, value in given}
            object.__setattr__(self, "_arguments", arguments)
            original(self, **arguments)

        cls.__init__ = __init__  # type: ignore[misc]
        cls.spec_kind = kind  # type: ignore[attr-defined]
        cls.spec_hints = {name: hints[name] for name in list(signature.parameters)[1:]}  # type: ignore[attr-defined]
        cls.spec_defaults = {  # type: ignore[attr-defined]
            name: each.default for name, each in signature.parameters.items() if each.default is not each.empty
        }
        cls.spec_required = tuple(  # type: ignore[attr-defined]
            name
            for name, parameter in list(signature.parameters.items())[1:]
            if parameter.default is inspect.Parameter.empty
        )
        REGISTRY.setdefault(kind, {})[cls.__name__] = cls
        return cls

    return decorate


def to_spec(value: Any) -> Any:
    """Return the json tree of a registered object, or of the plain values that it is made of."""
    if hasattr(value, "_arguments"):
        return {"class": type(value).__name__} | {name: to_spec(item) for name, item in value._arguments.items()}
    if isinstance(value, list | tuple):
        return [to_spec(item) for item in value]
    if isinstance(value, dict):
        return {key: to_spec(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration: it is not registered")


def fingerprint(part: Any) -> str:
    """Return the SHA-256 of what ``part`` is made of, or its name when it is not registered.

    Arguments at their defaults are left out: a class that gets a new argument is still what an older version wrote.
    """
    try:
        tree = _chosen(part, to_spec(part))
    except TypeError:
        return type(part).__name__
    import hashlib  # not for the command's help: it loads OpenSSL

    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _chosen(value: Any, tree: Any) -> Any:
    """Return ``tree``, the specification of ``value``, without the arguments at their defaults."""
    if isinstance(value, list | tuple):
        return [_chosen(item, branch) for item, branch in zip(value, tree, strict=True)]
    if isinstance(value, dict):
        return {key: _chosen(item, tree[key]) for key, item in value.items()}
    if not hasattr(value, "_arguments"):
        return tree
    usual = {key: to_spec(item) for key, item in value.spec_defaults.items()}
    given = {key: item for key, item in value._arguments.items() if key not in usual or tree[key] != usual[key]}
    return {"class": tree["class"]} | {key: _chosen(item, tree[key]) for key, item in given.items()}


def from_spec(spec: Any, kind: str, where: str = "config") -> Any:
    """Build the object that ``spec`` describes.

    Args:
        spec: a dictionary with the key "class" and the constructor's arguments.
        kind: the room that the class must come from.
        where: the place in the file, for errors.

    Returns:
        the object.

    Raises:
        UserError: unknown class or argument, a missing argument, a value of the wrong type or out of its range.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("class"), str):
        raise UserError(
            f'{where} should be a {kind}, written {{"class": NAME, ...}}; got {_short(spec)}. Name its class.'
        )
    known = REGISTRY.get(kind, {})
    name = spec["class"]
    if name not in known:
        raise UserError(f"{where}: there is no {kind} named '{name[:80]}'. {did_you_mean(name[:80], sorted(known))}")
    cls: Any = known[name]
    arguments = {key: value for key, value in spec.items() if key != "class"}
    for key in arguments:
        if key not in cls.spec_hints:
            raise UserError(
                f"{where}: {name} has no argument '{str(key)[:80]}'. {did_you_mean(str(key)[:80], cls.spec_hints)}"
            )
    missing = [key for key in cls.spec_required if key not in arguments]
    if missing:
        raise UserError(f"{where}: {name} needs the argument '{missing[0]}', which is not there. Add it.")
    return cls(**{key: _build(value, cls.spec_hints[key], f"{where}.{key}") for key, value in arguments.items()})


def _build(value: Any, hint: Any, where: str) -> Any:
    """Turn the dictionaries inside ``value`` into objects wherever ``hint`` asks for one."""
    hint = _bare(hint)[0]
    if typing.get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        kinds = [option for option in typing.get_args(hint) if _kind(option)]
        return _build(value, kinds[0], where) if kinds and isinstance(value, dict) else value
    if _kind(hint):
        return from_spec(value, _kind(hint), where)
    if typing.get_origin(hint) in (tuple, list) and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return [_build(entry, item, f"{where}[{index}]") for index, entry in enumerate(value)]
    return value


def checked(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` in the type of ``hint`` (a list becomes a tuple, an int a float), or raise UserError."""
    hint, marks = _bare(hint)
    bounds = next((mark for mark in marks if isinstance(mark, Range)), None)
    length = next((mark for mark in marks if isinstance(mark, Length)), None)
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _checked_union(value, hint, where)
    if origin is Literal:
        if value in typing.get_args(hint) and not isinstance(value, bool):
            return value
        raise UserError(
            f"{where} does not know {_short(value)}. {did_you_mean(str(value), map(str, typing.get_args(hint)))}"
        )
    if origin in (tuple, list):
        return _checked_items(value, hint, length, where)
    if hint is bool or hint is str:
        if not isinstance(value, hint):
            raise UserError(f"{where} must be {'true or false' if hint is bool else 'a text'}; got {_short(value)}.")
        if isinstance(value, str) and length and len(value) > length.high:
            raise UserError(f"{where} must have at most {length.high:,} characters; got {len(value):,}.")
        return value
    if hint in (int, float):
        return _checked_number(value, hint, bounds, where)
    if hint is dict or origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a table of names and values; got {_short(value)}.")
        return value
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise UserError(f"{where} must be a {getattr(hint, '__name__', hint)}; got {_short(value)}.")


def _checked_union(value: Any, hint: Any, where: str) -> Any:
    problem: UserError | None = None
    for option in typing.get_args(hint):
        if option is type(None):
            if value is None:
                return None
            continue
        try:
            return checked(value, option, where)
        except UserError as error:
            problem = problem or error
    raise problem if problem else UserError(f"{where} cannot be {_short(value)}.")


def _checked_items(value: Any, hint: Any, length: Length | None, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a list; got {_short(value)}.")
    if length and len(value) > length.high:
        raise UserError(f"{where} must have at most {length.high} items; got {len(value):,}.")
    item = typing.get_args(hint)[0]
    return tuple(checked(entry, item, f"{where}[{index}]") for index, entry in enumerate(value))


def _checked_number(value: Any, hint: type, bounds: Range | None, where: str) -> int | float:
    whole = hint is int
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        raise UserError(f"{where} must be a {_number_text(whole, bounds)}; got {_short(value)}.")
    infinite = isinstance(value, float) and not math.isfinite(value)
    if infinite or (bounds and not bounds.low <= value <= bounds.high):
        raise UserError(f"{where} must be a {_number_text(whole, bounds)}; got {_short(value)}.")
    return int(value) if whole else float(value)


def _number_text(whole: bool, bounds: Range | None) -> str:
    text = "whole number" if whole else "number"
    return f"{text} from {bounds.low:,} to {bounds.high:,}" if bounds else text


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        return inner, tuple(marks)
    return hint, ()


def _kind(hint: Any) -> str:
    """Return the room that an annotation names through its base class, or ''."""
    return getattr(_bare(hint)[0], "spec_kind", "") if isinstance(_bare(hint)[0], type) else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
