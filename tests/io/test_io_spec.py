"""What a value of a specification may be: each kind of annotation by itself, and the sentence where it does not fit."""

from fractions import Fraction
from typing import Any, Literal

import pytest

from sfumato.core.errors import UserError
from sfumato.core.spec import Name, Real, Shape, Size, Widths, checked, to_spec

FITS = [
    ("mean", Literal["mean", "sum"], "mean"),
    ({"a": 1}, dict[str, Any], {"a": 1}),
    ({}, dict, {}),
    (None, Size | None, None),
    (3, Size | None, 3),
    ("auto", Literal["auto"] | Size, "auto"),
    (3, Literal["auto"] | Size, 3),
    ([4, 5], Shape, (4, 5)),
    ((1,) * 256, Widths, (1,) * 256),
    ("x" * 1024, Name, "x" * 1024),
    (2, Real, 2.0),
]
SENTENCES = [
    ("men", Literal["mean", "sum"], r"^it does not know 'men'. Did you mean 'mean'"),
    (True, Literal[1, 2], "^it does not know True"),
    ([1], dict[str, Any], r"^it must be a table of names and values; got \[1\].$"),
    (0, Size | None, "^it must be a whole number from 1 to "),
    ("a", Size | Literal["auto"], "^it must be a whole number from 1 to .*; got 'a'.$"),
    ((1,) * 257, Widths, "^it must have at most 256 items; got 257.$"),
    ((1,) * 9, Shape, "^it must have at most 8 items; got 9.$"),
    ("x" * 1025, Name, "^it must have at most 1,024 characters; got 1,025.$"),
    (1, Name, "^it must be a text; got 1.$"),
    ("yes", bool, "^it must be true or false; got 'yes'.$"),
]


@pytest.mark.parametrize(("value", "hint", "found"), FITS, ids=[repr(each[:2])[:40] for each in FITS])
def test_what_fits(value, hint, found):
    assert checked(value, hint, "it") == found


@pytest.mark.parametrize(("value", "hint", "sentence"), SENTENCES, ids=[repr(each[:2])[:40] for each in SENTENCES])
def test_what_does_not_fit_is_one_sentence(value, hint, sentence):
    with pytest.raises(UserError, match=sentence):
        checked(value, hint, "it")


def test_what_is_not_registered_is_no_part_of_a_configuration():
    with pytest.raises(TypeError, match=r"^Fraction cannot be part of a configuration: it is not registered$"):
        to_spec(Fraction(1, 2))
